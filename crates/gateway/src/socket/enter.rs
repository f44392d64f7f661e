//! Opening a socket: who asks, whether it may, and the upgrade.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use axum::{
    extract::{
        Path, State,
        ws::{CloseFrame, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use guildhall_domain::{AgentId, Error, Result};
use guildhall_guard::{Operation, Target};

use super::{
    Door,
    cut::Cut,
    frame::{FRAME_MAX_BYTES, Reference},
    outbox::Outbox,
    pump,
    sockets::Socket,
    streams, tell,
};
use crate::{error::Refusal, identity::Caller};

/// What a client may offer as a protocol beside its token, and is answered with.
const PROTOCOL: &str = "guildhall";
/// Allocated for each socket, however quiet it is.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Small frames are gathered up to this before they are written; everything is written before the socket rests.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// The largest frame that the hall writes is a message of 768 KiB with what is around it.
const WRITE_BUFFER_MAX_BYTES: usize = 2 * 1024 * 1024;
/// "Try again later".
const TRY_AGAIN: u16 = 1013;

pub(super) async fn enter(
    State(door): State<Arc<Door>>,
    Path(id): Path<String>,
    mut caller: Caller,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let agent = AgentId::new(id)?;
    let hall = &door.hall;
    // In an open hall the address names the agent, if nothing else does.
    if caller.principal.id.is_empty() {
        caller.principal = Arc::new(hall.identity.self_named(&caller.principal, agent.clone())?);
    }
    for operation in [Operation::OpenSocket, Operation::TakeMail] {
        hall.policy.authorize(&caller.principal, operation, Target::Agent(&agent))?;
    }
    let Ok(upgrade) = upgrade else { return Ok(not_a_socket()) };
    door.sockets.check_room(&caller.principal.tenant, &agent)?;
    let record = hall.registry.get(&caller.call(), &agent).await?;
    if let Some(reason) = &record.paused {
        return Err(Error::denied(format!("an administrator paused this agent: {reason}")).into());
    }
    let pool = record.pool.clone();
    let upgrade = upgrade
        .max_frame_size(FRAME_MAX_BYTES)
        .max_message_size(FRAME_MAX_BYTES)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_MAX_BYTES)
        .protocols([PROTOCOL]);
    Ok(upgrade.on_upgrade(move |web_socket| {
        let life = door.clone().live(web_socket, caller, agent, pool);
        door.running.track_future(life)
    }))
}

fn not_a_socket() -> Response {
    let error = Error::invalid("this is a web socket: open it with a WebSocket client (HTTP/1.1, Upgrade: websocket)");
    let mut response = Refusal(error).into_response();
    *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
    response
}

impl Door {
    async fn live(self: Arc<Self>, mut web_socket: WebSocket, caller: Caller, agent: AgentId, pool: Option<String>) {
        let tenant = caller.principal.tenant.clone();
        let sees_agents =
            self.hall.policy.authorize(&caller.principal, Operation::ListAgents, Target::Tenant(&tenant)).is_ok();
        let socket = Arc::new(Socket {
            id: self.sockets.number(),
            tenant,
            agent,
            caller,
            opened: Instant::now(),
            opened_at: self.hall.clock.now(),
            sees_agents,
            outbox: Outbox::new(),
            errands: Default::default(),
            window: Default::default(),
            subscriptions: Default::default(),
            told_of_agents: Default::default(),
            unanswered_pings: Default::default(),
        });
        match self.sockets.insert(socket.clone(), pool) {
            Ok(None) => {}
            Ok(Some(before)) => self.hand_over(&before),
            // The place was taken between the answer and the upgrade.
            Err(error) => {
                let text = tell::error(&Reference::default(), &error);
                let close = CloseFrame { code: TRY_AGAIN, reason: error.code.as_str().into() };
                return pump::last_words(&mut web_socket, text, close).await;
            }
        }
        socket.told_of_agents.store(self.presence.listen(&socket.tenant), Ordering::Relaxed);
        if self.hall.stopping.is_cancelled() {
            socket.outbox.cut(Cut::Stopping);
        }
        let (door, opened) = (self.clone(), socket.clone());
        let said_opened = self.running.spawn(async move { door.say_opened(&opened).await });
        self.wake(&socket);
        let cut = pump::run(&self, &mut web_socket, &socket).await;
        // That it is closed must not be heard before that it was opened. A panic there would be a lost hint.
        let _ = said_opened.await;
        self.leave(&socket).await;
        if let Some(cut) = cut {
            metrics::counter!("guildhall_sockets_cut_total", "reason" => cut.as_str()).increment(1);
            let (text, close) = cut.farewell();
            pump::last_words(&mut web_socket, text, close).await;
        }
    }

    /// Everything that was for this socket finds another, or waits for the agent's next one.
    async fn leave(self: &Arc<Self>, socket: &Arc<Socket>) {
        let is_newest = self.sockets.has_mail(socket);
        let next = self.sockets.remove(socket);
        // Nobody else is to be told anything through it.
        socket.outbox.cut(Cut::Left);
        self.presence.leave(&socket.tenant);
        self.leave_streams(socket, if is_newest { streams::DROPPED } else { streams::MOVED });
        self.leave_mail(socket).await;
        match next {
            Some(next) => self.take_over(&next),
            None if is_newest => self.say_closed(socket).await,
            None => {}
        }
    }

    /// The gateway stops: its sockets are told, and what they held is given back.
    pub(super) async fn close_all(self: Arc<Self>) {
        self.hall.stopping.cancelled().await;
        for socket in self.sockets.all() {
            socket.outbox.cut(Cut::Stopping);
        }
        self.running.close();
        if tokio::time::timeout(super::CLOSE_WITHIN, self.running.wait()).await.is_err() {
            tracing::warn!(tasks = self.running.len(), "sockets were not closed in time");
        }
    }
}
