//! Says on the bus what has happened to agents, off the path of the call that did it.
//!
//! A hint goes out after the commit and may be lost: a bus that is slow or away neither holds up nor fails a call.
//! One queue for all, so that hints go out in the order of what they tell.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use guildhall_domain::{
    Agent, AgentId, Call, Clock, Presence, Principal, TenantId, TraceContext,
    agent::subject,
    ports::{
        Bus,
        bus::{Envelope, Hint, Subject},
    },
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Hints that may wait for a slow bus. The next ones are dropped: listeners look by themselves every 2 s.
const WAITING_MAX: usize = 1_024;
const HINT_WITHIN: Duration = Duration::from_secs(2);
/// In its headers a hint carries the version of the record, so that whoever has seen it need not look.
const VERSION: &str = "version";

pub(crate) struct Announcer {
    clock: Arc<dyn Clock>,
    queue: mpsc::Sender<(Subject, Envelope)>,
}

pub(crate) struct Outlet(mpsc::Receiver<(Subject, Envelope)>);

impl Announcer {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> (Self, Outlet) {
        let (queue, outlet) = mpsc::channel(WAITING_MAX);
        (Self { clock, queue }, Outlet(outlet))
    }

    /// Without the address that its mail is brought to: it may hold a secret, and who listens may tell others.
    pub(crate) fn record(&self, call: &Call, subject: Subject, agent: &Agent) {
        match serde_json::to_vec(&Agent { webhook_url: None, ..agent.clone() }) {
            Ok(payload) => self.of_call(call, subject, &agent.tenant, agent.version, payload.into()),
            Err(error) => tracing::warn!(%error, agent_id = %agent.agent_id, "an agent could not be put into a hint"),
        }
    }

    pub(crate) fn left(&self, call: &Call, tenant: &TenantId, agent: &AgentId, version: u64) {
        let payload = json!({ "agent_id": agent }).to_string().into();
        self.of_call(call, subject::LEFT, tenant, version, payload);
    }

    fn of_call(&self, call: &Call, subject: Subject, tenant: &TenantId, version: u64, payload: Bytes) {
        // A registration key decides the tenant: the hint belongs to the agent's, not to the caller's.
        let principal = Principal { tenant: tenant.clone(), ..(*call.principal).clone() };
        let headers = vec![(VERSION.to_owned(), version.to_string())];
        let envelope = Envelope { principal, trace: call.trace.clone(), at: self.clock.now(), headers, payload };
        if self.queue.try_send((subject, envelope)).is_err() {
            tracing::debug!(%subject, "the bus is behind: a hint was dropped");
        }
    }

    /// Waits for room in the queue: nobody looks for a change of presence by itself.
    pub(crate) async fn status(&self, tenant: &TenantId, agent: &AgentId, status: Presence, previous: Presence) {
        let payload = json!({ "agent_id": agent, "status": status, "previous": previous }).to_string().into();
        let principal = Principal::hall(tenant.clone(), crate::SERVICE);
        let trace = TraceContext::default();
        let envelope = Envelope { principal, trace, at: self.clock.now(), headers: Vec::new(), payload };
        if self.queue.send((subject::STATUS, envelope)).await.is_err() {
            tracing::debug!("a change of presence was not said: the registry is stopping");
        }
    }
}

impl Outlet {
    /// Sends what is queued, until `stop`; then what is still there.
    pub(crate) async fn run(mut self, bus: Arc<dyn Bus>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                next = self.0.recv() => match next {
                    Some(hint) => say(&*bus, hint).await,
                    None => return,
                },
                () = stop.cancelled() => break,
            }
        }
        self.0.close();
        let rest = async {
            while let Some(hint) = self.0.recv().await {
                say(&*bus, hint).await;
            }
        };
        if tokio::time::timeout(HINT_WITHIN, rest).await.is_err() {
            tracing::debug!("hints were lost: the bus is slow and the registry stops");
        }
    }
}

async fn say(bus: &dyn Bus, (subject, envelope): (Subject, Envelope)) {
    match tokio::time::timeout(HINT_WITHIN, bus.hint(subject, envelope)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, %subject, "a hint was lost"),
        Err(_) => tracing::debug!(%subject, "a hint was lost: the bus is slow"),
    }
}

/// The version that a hint of a change carries; the highest there is when it carries none, so that it is followed.
pub(crate) fn version_of(hint: &Hint) -> u64 {
    let version = hint.envelope.headers.iter().find(|(name, _)| name == VERSION);
    version.and_then(|(_, version)| version.parse().ok()).unwrap_or(u64::MAX)
}
