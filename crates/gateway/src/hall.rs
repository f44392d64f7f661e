//! What every door of the gateway shares: the ports it calls, the policy, the limits, and the word of changes.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use guildhall_domain::{
    AgentId, Clock, TenantId, agent,
    mail::{self, Mailbox},
    ports::{
        AgentRegistry, Bus, Hot, Mail, Topics,
        bus::{NodeName, Subject},
    },
};
use guildhall_guard::{audit::Recorder, policy::Policy};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    heartbeats::Heartbeats, identity::Identity, limits::Limits, pace::Pace, socket, tools::ToolRouter,
    unread::UnreadCounts,
};

/// An agent's record or presence has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentChanged {
    pub(crate) tenant: TenantId,
    pub(crate) agent_id: AgentId,
}

/// Something may be taken from these mailboxes that was not there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MailWaiting {
    pub(crate) tenant: TenantId,
    pub(crate) mailboxes: Arc<[Mailbox]>,
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
    pub(crate) pace: Pace,
    /// Takes tool calls for the audit chain, behind the answer.
    pub(crate) recorder: Recorder,
    pub(crate) agents_changed: broadcast::Sender<AgentChanged>,
    pub(crate) mail_waiting: broadcast::Sender<MailWaiting>,
    /// Shared with every hand that takes mail.
    pub(crate) unread: Arc<UnreadCounts>,
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

pub(crate) fn changes<T: Clone>() -> broadcast::Sender<T> {
    broadcast::channel(CHANGES_BOUND).0
}

#[derive(Deserialize)]
struct AboutAgent {
    agent_id: AgentId,
}

#[derive(Deserialize)]
struct AboutMail {
    mailboxes: Vec<Mailbox>,
}

/// Turns hints of the bus into changes, and goes on when the bus was away. Live sockets hear of mail first, and without
/// a task in between: somebody waits for it.
pub(crate) async fn follow_changes(hall: Arc<Hall>, sockets: Arc<socket::Door>, stop: CancellationToken) {
    let agents = |subject| {
        let hall = hall.clone();
        async move {
            follow(&*hall.bus, subject, |tenant, about: AboutAgent| {
                // No receiver: nobody watches, which is no fault.
                let _ = hall.agents_changed.send(AgentChanged { tenant, agent_id: about.agent_id });
            })
            .await;
        }
    };
    let mail = follow(&*hall.bus, mail::subject::WAITING, |tenant, about: AboutMail| {
        let waiting = MailWaiting { tenant, mailboxes: about.mailboxes.into() };
        sockets.hear_of_mail(&waiting);
        hall.unread.hear(&waiting);
        let _ = hall.mail_waiting.send(waiting);
    });
    tokio::select! {
        () = stop.cancelled() => {}
        ((), (), (), (), ()) = async {
            tokio::join!(
                agents(agent::subject::JOINED),
                agents(agent::subject::CHANGED),
                agents(agent::subject::LEFT),
                agents(agent::subject::STATUS),
                mail,
            )
        } => {}
    }
}

async fn follow<T: DeserializeOwned>(bus: &dyn Bus, subject: Subject, heard: impl Fn(TenantId, T)) {
    loop {
        if let Ok(mut hints) = bus.hints(subject).await {
            while let Some(hint) = hints.next().await {
                if let Ok(about) = serde_json::from_slice::<T>(&hint.envelope.payload) {
                    heard(hint.envelope.principal.tenant, about);
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
