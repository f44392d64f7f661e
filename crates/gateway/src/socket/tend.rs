//! What the clock asks of sockets: one walk a second over all of them instead of a timer for each, and every two
//! seconds one question for all their mailboxes, should a hint have been lost.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use guildhall_domain::{AgentId, Call, Principal, TenantId, mail::Mailbox};
use tokio_util::sync::CancellationToken;

use super::{Door, cut::Cut, sockets::Socket};
use crate::hall::MailWaiting;

/// In walks: 20 s at the usual pace.
const PING_EVERY: u64 = 20;
/// Pings without an answer before a client counts as gone.
const PINGS_UNANSWERED_MAX: u8 = 2;
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// What one question asks for.
const SWEEP_MAX: usize = 10_000;
/// Members of a pool that one message wakes: one of them gets it.
const POOL_WAKES: usize = 4;
/// Callers looked at side by side: one that waits for a new key holds up no other.
const SIDE_BY_SIDE: usize = 32;
/// Older sockets that look, in one sweep, whether there still is a newer one.
const LOOK_FOR_NEWER_MAX: usize = 64;

impl Door {
    pub(super) async fn tend(self: Arc<Self>, stop: CancellationToken) {
        let mut walk = 0_u64;
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.hall.pace.walk) => {}
                () = stop.cancelled() => return,
            }
            walk += 1;
            let sockets = self.sockets.all();
            let now = Instant::now();
            for socket in &sockets {
                // Spread over the 20 s by their numbers.
                if (socket.id.0 + walk).is_multiple_of(PING_EVERY) {
                    ping(socket);
                }
                socket.outbox.check_moving(self.hall.pace.reads_within);
                if socket.unanswered_pings.load(Ordering::Relaxed) < PINGS_UNANSWERED_MAX {
                    self.tend_leases(socket, now);
                }
            }
            self.tend_streams();
            self.shut_out(sockets).await;
        }
    }

    async fn shut_out(&self, sockets: Vec<Arc<Socket>>) {
        let identity = &self.hall.identity;
        let look = |socket: Arc<Socket>| async move {
            if let Err(error) = identity.still_let_in(&socket.caller).await {
                socket.outbox.cut(Cut::ShutOut(error));
            }
        };
        futures::stream::iter(sockets).for_each_concurrent(SIDE_BY_SIDE, look).await;
    }

    /// Wakes those for whom mail waits. The sweep finds what nobody heard of.
    pub(crate) fn hear_of_mail(self: &Arc<Self>, MailWaiting { tenant, mailboxes }: &MailWaiting) {
        for mailbox in &**mailboxes {
            match mailbox {
                Mailbox::Agent(agent) => {
                    if let Some(socket) = self.sockets.with_mail(tenant, agent) {
                        self.tell_of_mail(&socket);
                    }
                }
                Mailbox::Pool(pool) => {
                    for socket in self.sockets.members(tenant, pool, POOL_WAKES) {
                        self.tell_of_mail(&socket);
                    }
                }
            }
        }
    }

    pub(super) async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP_EVERY) => {}
                () = stop.cancelled() => return,
            }
            let mut of_tenants: HashMap<TenantId, Vec<(Arc<Socket>, bool)>> = HashMap::new();
            for (socket, elsewhere) in self.sockets.newest() {
                of_tenants.entry(socket.tenant.clone()).or_default().push((socket, elsewhere));
            }
            for (tenant, sockets) in of_tenants {
                for sockets in sockets.chunks(SWEEP_MAX) {
                    self.sweep_some(&tenant, sockets).await;
                }
            }
        }
    }

    async fn sweep_some(self: &Arc<Self>, tenant: &TenantId, sockets: &[(Arc<Socket>, bool)]) {
        let agents: Vec<AgentId> = sockets.iter().map(|(socket, _)| socket.agent.clone()).collect();
        let call = Call::within(Principal::hall(tenant.clone(), "gateway"), SWEEP_EVERY);
        let unread = match self.hall.mail.unread(&call, agents).await {
            Ok(unread) => unread,
            Err(error) => {
                tracing::debug!(%error, "mailboxes of live sockets cannot be looked at");
                return;
            }
        };
        let mut looking = 0;
        for ((socket, elsewhere), unread) in sockets.iter().zip(unread) {
            // What is in someone's hands counts as well.
            if unread.waiting == 0 {
                continue;
            }
            if !elsewhere {
                if socket.window.lock().misses(unread.waiting) {
                    self.wake(socket);
                }
            } else if looking < LOOK_FOR_NEWER_MAX {
                looking += 1;
                let (door, socket) = (self.clone(), socket.clone());
                self.running.spawn(async move { door.look_for_newer(&socket).await });
            }
        }
    }

    /// Mail waits although there is a newer socket elsewhere: perhaps there is none any more.
    async fn look_for_newer(self: &Arc<Self>, socket: &Socket) {
        if self.ask_where(&socket.tenant, &socket.agent).await.is_none()
            && let Some(again) = self.sockets.closed_elsewhere(&socket.tenant, &socket.agent, None)
        {
            self.take_over(&again);
        }
    }
}

fn ping(socket: &Socket) {
    if socket.unanswered_pings.load(Ordering::Relaxed) >= PINGS_UNANSWERED_MAX {
        socket.outbox.cut(Cut::Silent);
    } else {
        socket.unanswered_pings.fetch_add(1, Ordering::Relaxed);
        socket.outbox.ping();
    }
}
