//! Signs of life. Any authenticated call is one; they are gathered here and sent on once a second, so that no call
//! waits for its own heartbeat.

use std::{collections::HashMap, sync::Arc, time::Duration};

use guildhall_domain::{AgentId, Call, Clock, Principal, TenantId, Timestamp, agent::Heartbeat, ports::AgentRegistry};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// What one call of the port takes.
const BATCH: usize = 1_000;
/// Agents that one gateway hears within a second. More are passed over: their next call is soon enough.
const BOUND: usize = 100_000;

pub(crate) struct Heartbeats {
    registry: Arc<dyn AgentRegistry>,
    clock: Arc<dyn Clock>,
    heard: Mutex<HashMap<(TenantId, AgentId), Timestamp>>,
}

impl Heartbeats {
    pub(crate) fn new(registry: Arc<dyn AgentRegistry>, clock: Arc<dyn Clock>) -> Self {
        Self { registry, clock, heard: Mutex::default() }
    }

    pub(crate) fn hear(&self, tenant: &TenantId, agent: AgentId) {
        let at = self.clock.now();
        let mut heard = self.heard.lock();
        if heard.len() < BOUND {
            heard.insert((tenant.clone(), agent), at);
        }
    }

    /// A heartbeat of its own, which may say that the agent is busy. Sent on at once: the agent asked for it.
    pub(crate) async fn beat(&self, call: &Call, agent: AgentId, busy: Option<bool>) -> guildhall_domain::Result<()> {
        let beat = Heartbeat { tenant: call.principal.tenant.clone(), agent_id: agent, at: self.clock.now(), busy };
        self.registry.heartbeats(&hall_call(), vec![beat]).await
    }

    pub(crate) async fn flush(&self) {
        let heard: Vec<Heartbeat> = self
            .heard
            .lock()
            .drain()
            .map(|((tenant, agent_id), at)| Heartbeat { tenant, agent_id, at, busy: None })
            .collect();
        for batch in heard.chunks(BATCH) {
            // A lost batch is made up for by the next call of each agent; presence waits 60 s before it judges.
            if let Err(error) = self.registry.heartbeats(&hall_call(), batch.to_vec()).await {
                tracing::debug!(%error, agents = batch.len(), "signs of life were not taken");
            }
        }
    }

    pub(crate) async fn keep_flushing(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(FLUSH_EVERY) => self.flush().await,
                () = stop.cancelled() => return self.flush().await,
            }
        }
    }
}

fn hall_call() -> Call {
    Call::within(Principal::hall(TenantId::default(), "gateway"), Duration::from_secs(5))
}
