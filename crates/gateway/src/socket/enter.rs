//! Opening a socket: who asks, whether it may, and the upgrade.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use axum::{
    extract::{
        Path, State,
        ws::{WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use guildhall_domain::{AgentId, Error, Result};
use guildhall_guard::{Operation, Target};
use tokio::task::JoinHandle;

use super::{Door, cut::Cut, frame::FRAME_MAX_BYTES, outbox::Outbox, pump, sockets::Socket, streams};
use crate::{error::Refusal, identity::Caller};

/// What a client may offer as a protocol beside its token, and is answered with.
const PROTOCOL: &str = "guildhall";
/// Allocated for each socket, however quiet it is.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Small frames are gathered up to this before they are written; everything is written before the socket rests.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// The largest frame that the hall writes is a message of 768 KiB with what is around it.
const WRITE_BUFFER_MAX_BYTES: usize = 2 * 1024 * 1024;

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
    let record = hall.registry.get(&caller.call(), &agent).await?;
    if let Some(reason) = &record.paused {
        return Err(Error::denied(format!("an administrator paused this agent: {reason}")).into());
    }
    let upgrade = upgrade
        .max_frame_size(FRAME_MAX_BYTES)
        .max_message_size(FRAME_MAX_BYTES)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_MAX_BYTES)
        .protocols([PROTOCOL]);
    let entered = Entered::new(door.clone(), caller, agent, record.pool.clone())?;
    Ok(upgrade.on_upgrade(move |web_socket| door.running.track_future(entered.live(web_socket))))
}

fn not_a_socket() -> Response {
    let error = Error::invalid("this is a web socket: open it with a WebSocket client (HTTP/1.1, Upgrade: websocket)");
    let mut response = Refusal(error).into_response();
    *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
    response
}

/// A socket that is counted as here: before its client can know of it, so that its client misses nothing that comes
/// afterwards. Dropped, it leaves, whether its connection has ended or never came up.
struct Entered {
    door: Arc<Door>,
    socket: Arc<Socket>,
    said_opened: Option<JoinHandle<()>>,
}

impl Entered {
    fn new(door: Arc<Door>, caller: Caller, agent: AgentId, pool: Option<String>) -> Result<Self> {
        let tenant = caller.principal.tenant.clone();
        let sees_agents =
            door.hall.policy.authorize(&caller.principal, Operation::ListAgents, Target::Tenant(&tenant)).is_ok();
        let socket = Arc::new(Socket {
            id: door.sockets.number(),
            tenant,
            agent,
            caller,
            opened: Instant::now(),
            opened_at: door.hall.clock.now(),
            sees_agents,
            outbox: Outbox::new(),
            errands: Default::default(),
            window: Default::default(),
            subscriptions: Default::default(),
            told_of_agents: Default::default(),
            unanswered_pings: Default::default(),
        });
        if let Some(before) = door.sockets.insert(socket.clone(), pool)? {
            door.hand_over(&before);
        }
        socket.told_of_agents.store(door.presence.listen(&socket.tenant), Ordering::Relaxed);
        if door.hall.stopping.is_cancelled() {
            socket.outbox.cut(Cut::Stopping);
        }
        let (sayer, opened) = (door.clone(), socket.clone());
        let said_opened = door.running.spawn(async move { sayer.say_opened(&opened).await });
        Ok(Self { door, socket, said_opened: Some(said_opened) })
    }

    async fn live(mut self, mut web_socket: WebSocket) {
        self.door.wake(&self.socket);
        let cut = pump::run(&self.door, &mut web_socket, &self.socket).await;
        if let Some(left) = self.leave() {
            left.await;
        }
        if let Some(cut) = cut {
            metrics::counter!("guildhall_sockets_cut_total", "reason" => cut.as_str()).increment(1);
            let (text, close) = cut.farewell();
            pump::last_words(&mut web_socket, text, close).await;
        }
    }

    /// `None` when it has left.
    fn leave(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let said_opened = self.said_opened.take()?;
        let (door, socket) = (self.door.clone(), self.socket.clone());
        Some(async move {
            // That it is closed must not be heard before that it was opened. A panic there would be a lost hint.
            let _ = said_opened.await;
            door.leave(&socket).await;
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok()
            && let Some(left) = self.leave()
        {
            self.door.running.spawn(left);
        }
    }
}

impl Door {
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
