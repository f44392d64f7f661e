//! What gateways tell one another about sockets: that one was opened or closed, and where an agent's newest one is.
//!
//! Hints go to all gateways; what is for one goes through a queue of its own to the bus, in order. All of it may be
//! lost: an older socket that should have its agent's mail again finds out by the sweep, a stream by its numbers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use guildhall_domain::{
    AgentId, Error, Principal, TenantId, Timestamp, TraceContext,
    ports::bus::{Envelope, Hint, NodeName, Subject},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Door,
    sockets::{Socket, SocketAt, SocketId},
    streams::{Parcel, Pulse},
};

pub(super) mod subject {
    use super::Subject;

    /// A socket was opened or closed.
    pub(in crate::socket) const SOCKET: Subject = Subject("gateway.socket");
    /// Where is this agent's newest socket? Answered by whoever has it.
    pub(in crate::socket) const WHERE: Subject = Subject("gateway.socket.where");
    /// A gateway is there.
    pub(in crate::socket) const HERE: Subject = Subject("gateway.here");
}

/// What marks, among what a node is told, that which is for its sockets.
const FOR_SOCKETS: (&str, &str) = ("for", "sockets");
/// What may wait for a slow bus, at most 64 KiB each; more ends the streams that it belongs to.
const POST_BOUND: usize = 1_024;
const TELL_WITHIN: Duration = Duration::from_secs(2);
/// Times that a gateway may miss to say that it is there before it is taken for gone.
const MISSED_MAX: u32 = 3;
/// How long the answer to a question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Two sockets opened within this time are ordered by their gateways' clocks; otherwise the one heard of last is newer.
const CLOCKS_COUNT_FOR: Duration = Duration::from_secs(5);
/// A bus that was away is asked again so often.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
struct SocketHint {
    agent: AgentId,
    at: SocketAt,
    /// `None`: it is closed.
    opened_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct WhereHint {
    agent: AgentId,
    asks: NodeName,
    question: u64,
}

/// What one gateway tells another.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Socket { question: u64, at: SocketAt },
    Parcel(Parcel),
    Alive { from: NodeName, streams: Vec<Pulse> },
}

pub(super) struct Fellows {
    post: mpsc::Sender<(NodeName, Envelope)>,
    heard: Mutex<HashMap<NodeName, Instant>>,
    questions: Mutex<HashMap<u64, oneshot::Sender<SocketAt>>>,
    next_question: AtomicU64,
    since: Instant,
    here_every: Duration,
}

pub(super) type Outgoing = mpsc::Receiver<(NodeName, Envelope)>;

impl Fellows {
    pub(super) fn new(here_every: Duration) -> (Self, Outgoing) {
        let (post, outgoing) = mpsc::channel(POST_BOUND);
        let fellows = Self {
            post,
            heard: Mutex::default(),
            questions: Mutex::default(),
            next_question: AtomicU64::new(0),
            since: Instant::now(),
            here_every,
        };
        (fellows, outgoing)
    }

    fn hear(&self, node: &NodeName) {
        self.heard.lock().insert(node.clone(), Instant::now());
    }

    pub(super) fn is_gone(&self, node: &NodeName) -> bool {
        self.heard.lock().get(node).is_none_or(|at| at.elapsed() >= self.here_every * MISSED_MAX)
    }

    /// Certain only once a gateway had the time to hear the others.
    fn is_alone(&self) -> bool {
        self.heard.lock().is_empty() && self.since.elapsed() >= self.here_every * 2
    }

    fn forget_gone(&self) {
        self.heard.lock().retain(|_, at| at.elapsed() < self.here_every * MISSED_MAX);
    }
}

impl Door {
    fn envelope(&self, tenant: &TenantId, payload: &impl Serialize) -> Envelope {
        Envelope {
            principal: Principal::hall(tenant.clone(), "gateway"),
            trace: TraceContext::default(),
            at: self.hall.clock.now(),
            headers: vec![(FOR_SOCKETS.0.to_owned(), FOR_SOCKETS.1.to_owned())],
            // Ids, numbers and JSON that was read before: it always serializes.
            payload: serde_json::to_vec(payload).unwrap_or_default().into(),
        }
    }

    async fn hint(&self, subject: Subject, tenant: &TenantId, payload: impl Serialize + Sync) {
        let hint = self.hall.bus.hint(subject, self.envelope(tenant, &payload));
        match tokio::time::timeout(TELL_WITHIN, hint).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, %subject, "other gateways were not told of a socket"),
            Err(_) => tracing::debug!(%subject, "other gateways were not told of a socket: the bus is slow"),
        }
    }

    pub(super) fn at(&self, socket: SocketId) -> SocketAt {
        SocketAt { node: self.hall.node.clone(), socket }
    }

    pub(super) async fn say_opened(&self, socket: &Socket) {
        let opened_at = Some(socket.opened_at);
        let hint = SocketHint { agent: socket.agent.clone(), at: self.at(socket.id), opened_at };
        self.hint(subject::SOCKET, &socket.tenant, hint).await;
    }

    pub(super) async fn say_closed(&self, socket: &Socket) {
        let hint = SocketHint { agent: socket.agent.clone(), at: self.at(socket.id), opened_at: None };
        self.hint(subject::SOCKET, &socket.tenant, hint).await;
    }

    /// The agent's newest socket, wherever it is.
    pub(super) async fn locate(&self, tenant: &TenantId, agent: &AgentId) -> Option<SocketAt> {
        if let Some(here) = self.sockets.with_mail(tenant, agent) {
            return Some(self.at(here.id));
        }
        if self.fellows.is_alone() {
            return None;
        }
        self.ask_where(tenant, agent).await
    }

    /// Asks the other gateways.
    pub(super) async fn ask_where(&self, tenant: &TenantId, agent: &AgentId) -> Option<SocketAt> {
        let question = self.fellows.next_question.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.fellows.questions.lock().insert(question, answer);
        let hint = WhereHint { agent: agent.clone(), asks: self.hall.node.clone(), question };
        self.hint(subject::WHERE, tenant, hint).await;
        let answered = tokio::time::timeout(ANSWER_WITHIN, answered).await;
        self.fellows.questions.lock().remove(&question);
        answered.ok()?.ok()
    }

    /// Queues a parcel for the gateway of its socket, this one too. False: the bus is too slow, it is lost.
    #[must_use]
    pub(super) fn post(&self, tenant: &TenantId, to: &NodeName, parcel: Parcel) -> bool {
        self.tell(tenant, to, &Told::Parcel(parcel))
    }

    fn tell(&self, tenant: &TenantId, to: &NodeName, told: &Told) -> bool {
        self.fellows.post.try_send((to.clone(), self.envelope(tenant, told))).is_ok()
    }

    pub(super) fn tell_alive(&self, tenant: &TenantId, to: &NodeName, streams: Vec<Pulse>) {
        let alive = Told::Alive { from: self.hall.node.clone(), streams };
        // The next one is soon enough.
        let _ = self.tell(tenant, to, &alive);
    }

    /// Carries to the bus, in order, what is for one gateway.
    pub(super) async fn deliver(self: Arc<Self>, mut outgoing: Outgoing, stop: CancellationToken) {
        let deliver = async {
            while let Some((node, envelope)) = outgoing.recv().await {
                let told = tokio::time::timeout(TELL_WITHIN, self.hall.bus.tell(&node, envelope)).await;
                if let Err(error) = told.unwrap_or_else(|_| Err(Error::timeout("the bus is slow"))) {
                    tracing::debug!(%error, node = node.as_str(), "another gateway was not told");
                    self.lose_streams_to(&node, "the bus between the gateways failed");
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = deliver => {}
        }
    }

    /// Hears hints of a subject for as long as the gateway runs.
    pub(super) async fn heed(&self, subject: Subject, mut heed: impl FnMut(Hint)) {
        loop {
            if let Ok(mut hints) = self.hall.bus.hints(subject).await {
                while let Some(hint) = hints.next().await {
                    heed(hint);
                }
            }
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
    }

    pub(super) async fn heed_fellows(self: Arc<Self>, stop: CancellationToken) {
        let heed = async {
            tokio::join!(
                self.heed(subject::SOCKET, |hint| self.heed_socket(&hint)),
                self.heed(subject::WHERE, |hint| self.heed_question(&hint)),
                self.heed(subject::HERE, |hint| {
                    if let Ok(node) = serde_json::from_slice::<NodeName>(&hint.envelope.payload)
                        && node != self.hall.node
                    {
                        self.fellows.hear(&node);
                    }
                }),
                self.heed_told(),
                self.say_here(),
            )
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = heed => {}
        }
    }

    async fn say_here(&self) {
        loop {
            self.hint(subject::HERE, &TenantId::default(), &self.hall.node).await;
            self.fellows.forget_gone();
            self.keep_streams_alive();
            tokio::time::sleep(self.hall.pace.here_every).await;
        }
    }

    fn heed_socket(self: &Arc<Self>, hint: &Hint) {
        let tenant = &hint.envelope.principal.tenant;
        let Ok(SocketHint { agent, at, opened_at }) = serde_json::from_slice(&hint.envelope.payload) else { return };
        if at.node == self.hall.node {
            return;
        }
        self.fellows.hear(&at.node);
        match opened_at {
            Some(opened_at) => {
                let newer = |own: &Socket| {
                    own.opened.elapsed() >= CLOCKS_COUNT_FOR
                        || (opened_at, at.node.as_str()) > (own.opened_at, self.hall.node.as_str())
                };
                if let Some(before) = self.sockets.opened_elsewhere(tenant, &agent, &at, newer) {
                    self.hand_over(&before);
                }
            }
            None => {
                if let Some(again) = self.sockets.closed_elsewhere(tenant, &agent, Some(&at)) {
                    self.take_over(&again);
                }
            }
        }
    }

    fn heed_question(&self, hint: &Hint) {
        let tenant = &hint.envelope.principal.tenant;
        let Ok(WhereHint { agent, asks, question }) = serde_json::from_slice(&hint.envelope.payload) else { return };
        if asks != self.hall.node
            && let Some(here) = self.sockets.with_mail(tenant, &agent)
        {
            // Nobody hears of a lost answer but who asked, who then knows of no socket.
            let _ = self.tell(tenant, &asks, &Told::Socket { question, at: self.at(here.id) });
        }
    }

    async fn heed_told(self: &Arc<Self>) {
        loop {
            if let Ok(mut told) = self.hall.bus.told(&self.hall.node).await {
                while let Some(envelope) = told.next().await {
                    self.hear(&envelope);
                }
            }
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
    }

    fn hear(self: &Arc<Self>, envelope: &Envelope) {
        if !envelope.headers.iter().any(|(name, value)| (&**name, &**value) == FOR_SOCKETS) {
            return;
        }
        let tenant = &envelope.principal.tenant;
        match serde_json::from_slice(&envelope.payload) {
            Ok(Told::Socket { question, at }) => {
                self.fellows.hear(&at.node);
                if let Some(asked) = self.fellows.questions.lock().remove(&question) {
                    // Whoever asked may have given up.
                    let _ = asked.send(at);
                }
            }
            Ok(Told::Parcel(parcel)) => {
                self.fellows.hear(&parcel.from.node);
                self.arrived(tenant, parcel);
            }
            Ok(Told::Alive { from, streams }) => {
                self.fellows.hear(&from);
                self.check_pulse(tenant, &from, streams);
            }
            Err(error) => tracing::debug!(%error, "another gateway said what this one does not understand"),
        }
    }
}
