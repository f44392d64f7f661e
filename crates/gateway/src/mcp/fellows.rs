//! What gateways tell one another about sessions. A session may live on several at once: behind a balancer its
//! requests come in here and there, and whoever gets one brings the session back from the hot store.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::StreamExt as _;
use guildhall_domain::{
    Call,
    ports::{
        Bus,
        bus::{Envelope, Subject},
    },
};
use parking_lot::Mutex;
use rmcp::transport::streamable_http_server::session::SessionManager as _;
use tokio_util::sync::CancellationToken;

use super::{McpDoor, watch::Watched};
use crate::hall::Hall;

/// The payload of each is the session's id.
pub(crate) mod subject {
    use super::Subject;

    pub(crate) const SESSION_CLOSED: Subject = Subject("gateway.session.closed");
    /// What the session watches has changed.
    pub(crate) const SESSION_WATCHES: Subject = Subject("gateway.session.watches");
}

/// Looked through for sessions that are gone whenever it has grown by this many.
const SWEEP_AFTER: usize = 1_024;

/// What the sessions of this replica watch.
#[derive(Default)]
pub(super) struct Watchers {
    by_session: Mutex<HashMap<String, Weak<Watched>>>,
}

impl Watchers {
    pub(super) fn note(&self, session: &str, watched: &Arc<Watched>) {
        let mut by_session = self.by_session.lock();
        if by_session.len() % SWEEP_AFTER == SWEEP_AFTER - 1 {
            by_session.retain(|_, watched| watched.strong_count() > 0);
        }
        by_session.insert(session.to_owned(), Arc::downgrade(watched));
    }

    fn of(&self, session: &str) -> Option<Arc<Watched>> {
        self.by_session.lock().get(session).and_then(Weak::upgrade)
    }

    fn forget(&self, session: &str) {
        self.by_session.lock().remove(session);
    }
}

impl Hall {
    /// A lost hint costs a fellow at most the time until it asks the hot store by itself.
    pub(crate) async fn tell_gateways(&self, call: &Call, subject: Subject, session: &str) {
        let envelope = Envelope {
            principal: call.principal.as_ref().clone(),
            trace: call.trace.clone(),
            at: self.clock.now(),
            headers: Vec::new(),
            payload: session.to_owned().into(),
        };
        if let Err(error) = self.bus.hint(subject, envelope).await {
            tracing::debug!(%error, "other gateways were not told of a session");
        }
    }
}

impl McpDoor {
    /// Listens to fellow gateways, and to itself, which changes nothing.
    pub(crate) async fn heed_fellows(self: Arc<Self>, bus: Arc<dyn Bus>, stop: CancellationToken) {
        let closed = self.heed(&bus, subject::SESSION_CLOSED);
        let watches = self.heed(&bus, subject::SESSION_WATCHES);
        tokio::select! {
            () = stop.cancelled() => {}
            ((), ()) = async { tokio::join!(closed, watches) } => {}
        }
    }

    async fn heed(&self, bus: &Arc<dyn Bus>, subject: Subject) {
        loop {
            if let Ok(mut hints) = bus.hints(subject).await {
                while let Some(hint) = hints.next().await {
                    if let Ok(session) = std::str::from_utf8(&hint.envelope.payload) {
                        self.heed_one(subject, session).await;
                    }
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn heed_one(&self, subject: Subject, session: &str) {
        if subject == subject::SESSION_CLOSED {
            self.end_here(session).await;
        } else if let Some(watched) = self.watchers.of(session) {
            watched.reload(session).await;
        }
    }

    /// Ends a session on this replica alone.
    pub(super) async fn end_here(&self, session: &str) {
        self.watchers.forget(session);
        self.sessions.forget(session);
        if let Err(error) = self.manager.close_session(&session.into()).await {
            tracing::debug!(%error, "the session was not here, or has just ended");
        }
    }
}
