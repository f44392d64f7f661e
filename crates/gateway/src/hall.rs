//! What every door of the gateway shares: the ports it calls, the policy, the limits, and the word of changes.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use guildhall_domain::{
    AgentId, Clock, TenantId, agent,
    ports::{
        AgentRegistry, Bus, Hot, Mail, Topics,
        bus::{NodeName, Subject},
    },
};
use guildhall_guard::{audit::Recorder, policy::Policy};
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{heartbeats::Heartbeats, identity::Identity, limits::Limits, tools::ToolRouter};

/// An agent's record or presence has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentChanged {
    pub(crate) tenant: TenantId,
    pub(crate) agent_id: AgentId,
}

/// A listener that falls further behind is told so, and takes everything it watches as changed.
const CHANGES_BOUND: usize = 1_024;

pub(crate) struct Hall {
    pub(crate) registry: Arc<dyn AgentRegistry>,
    pub(crate) mail: Arc<dyn Mail>,
    pub(crate) topics: Arc<dyn Topics>,
    /// This process, as other gateways reach it.
    pub(crate) node: NodeName,
    pub(crate) hot: Arc<dyn Hot>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    pub(crate) heartbeats: Arc<Heartbeats>,
    pub(crate) tools: ToolRouter,
    /// Silence after which a session of an old client is over.
    pub(crate) session_idle: Duration,
    /// Takes tool calls for the audit chain, behind the answer.
    pub(crate) recorder: Recorder,
    pub(crate) agents_changed: broadcast::Sender<AgentChanged>,
    /// Mail that was handed over and is being acknowledged, or given back.
    pub(crate) settlings: TaskTracker,
    /// The gateway is to stop: whoever waits for something is answered with what there is.
    pub(crate) stopping: CancellationToken,
}

/// How long acknowledgements may take when the gateway stops; what they were for is handed out again otherwise.
const LAST_SETTLINGS: Duration = Duration::from_secs(3);

/// Lets what was handed over be acknowledged before the process ends.
pub(crate) async fn settle_last(settlings: TaskTracker, drained: CancellationToken) {
    drained.cancelled().await;
    settlings.close();
    if tokio::time::timeout(LAST_SETTLINGS, settlings.wait()).await.is_err() {
        tracing::warn!(settlings = settlings.len(), "mail was not settled in time: it is handed out again");
    }
}

pub(crate) fn changes() -> broadcast::Sender<AgentChanged> {
    broadcast::channel(CHANGES_BOUND).0
}

#[derive(Deserialize)]
struct AboutAgent {
    agent_id: AgentId,
}

/// Turns hints of the bus into changes, and goes on when the bus was away.
pub(crate) async fn follow_agents(
    bus: Arc<dyn Bus>,
    changed: broadcast::Sender<AgentChanged>,
    stop: CancellationToken,
) {
    let follow = |subject: Subject| {
        let (bus, changed) = (bus.clone(), changed.clone());
        async move {
            loop {
                if let Ok(mut hints) = bus.hints(subject).await {
                    while let Some(hint) = hints.next().await {
                        if let Ok(about) = serde_json::from_slice::<AboutAgent>(&hint.envelope.payload) {
                            let tenant = hint.envelope.principal.tenant;
                            // No receiver: nobody watches, which is no fault.
                            let _ = changed.send(AgentChanged { tenant, agent_id: about.agent_id });
                        }
                    }
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        ((), (), (), ()) = async {
            tokio::join!(
                follow(agent::subject::JOINED),
                follow(agent::subject::CHANGED),
                follow(agent::subject::LEFT),
                follow(agent::subject::STATUS),
            )
        } => {}
    }
}
