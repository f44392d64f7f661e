//! Ports that remember what they were asked, and answer with records that have every field.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use guildhall_domain::{
    AgentId, Call, Error, Result, Timestamp,
    event::{NewEvent, Subscriber, TopicInfo, TopicSchema},
    mail::{
        Answer, Body, DeadLetter, Delivered, DeliveryState, Lease, Mailbox, Message, MessageId, NewMessage, NewRequest,
        Priority, Progress, Receipt, Recipient, Request, RequestState,
        delivery::{
            DeadLetterQuery, DeadLetterSelection, History, HistoryQuery, Kept, Settling, TakeMail, Tracked,
            TrackedDelivery, Unread,
        },
    },
    ports::{
        Mail, Topics,
        bus::{Durability, Published, Topic},
    },
};
use parking_lot::Mutex;
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    Send(Vec<NewMessage>),
    Take(AgentId, TakeMail),
    Settle(AgentId, Vec<Settling>),
    GiveBack(AgentId, String),
    Unread(Vec<AgentId>),
    Peek(AgentId, usize),
    History(AgentId, HistoryQuery),
    Message(MessageId),
    DeadLetters(DeadLetterQuery),
    Redrive(DeadLetterSelection),
    Purge(DeadLetterSelection),
    Request(NewRequest),
    RequestState(MessageId, Option<Progress>, Duration),
    Progress(MessageId, Progress),
    Answer(MessageId, Answer),
    Cancel(MessageId, String),
    Publish(Topic, NewEvent),
    SetSchema(Topic, Value, bool),
    Schema(Topic, Option<u32>),
    Subscribe(Topic, AgentId, Option<String>),
    Unsubscribe(Topic, AgentId),
    Subscribers(Topic),
    Topics,
}

#[derive(Default)]
pub(crate) struct Echo {
    asked: Mutex<Vec<Asked>>,
    /// Bodies of history are so large.
    body_bytes: usize,
}

impl Echo {
    pub(crate) fn with_bodies_of(bytes: usize) -> Self {
        Self { body_bytes: bytes, ..Self::default() }
    }

    fn was(&self, asked: Asked) {
        self.asked.lock().push(asked);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock())
    }
}

pub(crate) const LETTERS: &str = "{\"b\":1.0,  \"a\":[1e3, 12345678901234567890123, \"\\u00e4ä\"]}";

pub(crate) fn id(number: u8) -> MessageId {
    MessageId::from_bytes([number; 16])
}

pub(crate) fn agent(name: &str) -> AgentId {
    name.parse().unwrap()
}

pub(crate) fn topic() -> Topic {
    Topic::new("ci.done").unwrap()
}

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub(crate) fn letters() -> Body {
    Body::from_text(LETTERS).unwrap()
}

pub(crate) fn message(number: u8) -> Message {
    Message {
        message_id: id(number),
        from: agent("a"),
        to: Recipient::Role("reviewer".into()),
        kind: "task_proposal".into(),
        priority: Priority::Critical,
        body: letters(),
        sent_at: at(1_763_632_800_123),
        expires_at: Some(at(1_763_632_800_999)),
        reply_to: Some(id(9)),
        correlation_id: Some("c".into()),
        conversation_id: Some("k".into()),
        requires_response: true,
    }
}

/// Has nothing that may be absent.
pub(crate) fn bare_message(number: u8) -> Message {
    Message {
        to: Recipient::Everyone,
        priority: Priority::Low,
        expires_at: None,
        reply_to: None,
        correlation_id: None,
        conversation_id: None,
        requires_response: false,
        ..message(number)
    }
}

pub(crate) fn receipts() -> Vec<Receipt> {
    let receipt =
        |number, durability, duplicate| Receipt { message_id: id(number), recipients: 7, durability, duplicate };
    vec![
        receipt(1, Durability::Fsync, false),
        receipt(2, Durability::Replicated, true),
        receipt(3, Durability::Buffered, false),
    ]
}

pub(crate) fn delivered() -> Vec<Delivered> {
    let lease = Lease { mailbox: 1, number: i64::MAX, hand_out: 3 };
    let one =
        Delivered { message: message(1), mailbox: Mailbox::Agent(agent("b")), lease, lease_until: at(5), attempt: 1 };
    vec![
        one.clone(),
        Delivered { message: bare_message(2), mailbox: Mailbox::Pool("builders".into()), attempt: 5, ..one },
    ]
}

pub(crate) fn settled() -> Vec<Result<()>> {
    let stale = Error::conflict("this lease is stale: ä")
        .with_retry_after(Duration::from_millis(1_234))
        .with_details(json!({"lease": [1, null]}))
        .with_guidance("take it again");
    vec![Ok(()), Err(stale), Err(Error::unavailable("away")), Ok(())]
}

pub(crate) fn tracked() -> Tracked {
    let delivery = |state| TrackedDelivery {
        mailbox: Mailbox::Agent(agent("b")),
        state,
        attempts: 2,
        settled_at: None,
        reason: None,
    };
    let mut deliveries: Vec<_> = DeliveryState::ALL.into_iter().map(delivery).collect();
    deliveries[0].settled_at = Some(at(8));
    deliveries[0].reason = Some("it expired".into());
    Tracked { message: message(4), recipients: 5, complete: true, deliveries }
}

pub(crate) fn history() -> History {
    let kept = |message, state| Kept { message, state, attempts: 3 };
    let messages = vec![kept(message(1), DeliveryState::Dead), kept(bare_message(2), DeliveryState::Waiting)];
    History { messages, total: 12 }
}

pub(crate) fn dead_letters() -> Vec<DeadLetter> {
    let mailbox = Mailbox::Pool("p".into());
    vec![DeadLetter { message: message(1), mailbox, attempts: 5, died_at: at(77), reason: "nobody took it".into() }]
}

pub(crate) fn progress() -> Progress {
    Progress { progress: 0.1, total: Some(3.5), note: Some("half".into()) }
}

/// One for each state, the first with everything, the last with nothing that may be absent.
pub(crate) fn request(state: RequestState) -> Request {
    let whole = state == RequestState::Answered;
    Request {
        request_id: id(6),
        from: agent("a"),
        to: Mailbox::Agent(agent("b")),
        state,
        asked_at: at(1),
        deadline: at(2),
        progress: whole.then(progress),
        answered_by: whole.then(|| agent("b")),
        answer: whole.then(letters),
        reason: whole.then(|| "why".into()),
        ended_at: whole.then(|| at(3)),
    }
}

pub(crate) fn schema() -> TopicSchema {
    let schema = json!({"type": "object", "properties": {"n": {"multipleOf": 0.01}}});
    TopicSchema { topic: topic(), version: 3, schema, set_at: at(4), set_by: "person:zoë".into() }
}

pub(crate) fn subscribers() -> Vec<Subscriber> {
    let one = Subscriber { agent_id: agent("a"), filter: Some("event.n > 1".into()), since: at(9) };
    vec![one.clone(), Subscriber { filter: None, ..one }]
}

pub(crate) fn topics() -> Vec<TopicInfo> {
    let one = TopicInfo { topic: topic(), schema_version: Some(3), subscribers: 10_000 };
    vec![one.clone(), TopicInfo { schema_version: None, ..one }]
}

pub(crate) fn published() -> Published {
    Published { sequence: u64::MAX, durability: Durability::Replicated, duplicate: true }
}

#[async_trait]
impl Mail for Echo {
    async fn send(&self, _: &Call, messages: Vec<NewMessage>) -> Result<Vec<Receipt>> {
        self.was(Asked::Send(messages));
        Ok(receipts())
    }

    async fn take(&self, _: &Call, agent: &AgentId, take: TakeMail) -> Result<Vec<Delivered>> {
        self.was(Asked::Take(agent.clone(), take));
        Ok(delivered())
    }

    async fn settle(&self, _: &Call, agent: &AgentId, settlings: Vec<Settling>) -> Result<Vec<Result<()>>> {
        self.was(Asked::Settle(agent.clone(), settlings));
        Ok(settled())
    }

    async fn give_back(&self, _: &Call, agent: &AgentId, taker: &str) -> Result<u64> {
        self.was(Asked::GiveBack(agent.clone(), taker.to_owned()));
        Ok(3)
    }

    async fn unread(&self, _: &Call, agents: Vec<AgentId>) -> Result<Vec<Unread>> {
        self.was(Asked::Unread(agents));
        Ok(vec![Unread { waiting: 5, critical: 2 }, Unread::default()])
    }

    async fn peek(&self, _: &Call, agent: &AgentId, limit: usize) -> Result<Vec<Message>> {
        self.was(Asked::Peek(agent.clone(), limit));
        Ok(vec![message(1), bare_message(2)])
    }

    async fn history(&self, _: &Call, agent: &AgentId, query: HistoryQuery) -> Result<History> {
        let limit = query.limit;
        self.was(Asked::History(agent.clone(), query));
        if self.body_bytes == 0 {
            return Ok(history());
        }
        let body = Body::from_value(&"x".repeat(self.body_bytes))?;
        let kept = Kept { message: Message { body, ..message(1) }, state: DeliveryState::Waiting, attempts: 0 };
        Ok(History { messages: vec![kept; limit], total: 1_000 })
    }

    async fn message(&self, _: &Call, message: MessageId) -> Result<Tracked> {
        self.was(Asked::Message(message));
        Ok(tracked())
    }

    async fn dead_letters(&self, _: &Call, query: DeadLetterQuery) -> Result<Vec<DeadLetter>> {
        self.was(Asked::DeadLetters(query));
        Ok(dead_letters())
    }

    async fn redrive(&self, _: &Call, selection: DeadLetterSelection) -> Result<u64> {
        self.was(Asked::Redrive(selection));
        Ok(1)
    }

    async fn purge(&self, _: &Call, selection: DeadLetterSelection) -> Result<u64> {
        self.was(Asked::Purge(selection));
        Ok(2)
    }

    async fn request(&self, _: &Call, new: NewRequest) -> Result<Request> {
        self.was(Asked::Request(new));
        Ok(request(RequestState::Pending))
    }

    async fn request_state(&self, _: &Call, id: MessageId, known: Option<Progress>, wait: Duration) -> Result<Request> {
        self.was(Asked::RequestState(id, known, wait));
        Ok(request(RequestState::TimedOut))
    }

    async fn report_progress(&self, _: &Call, request: MessageId, progress: Progress) -> Result<()> {
        self.was(Asked::Progress(request, progress));
        Ok(())
    }

    async fn answer(&self, _: &Call, id: MessageId, answer: Answer) -> Result<Request> {
        let state = if matches!(answer, Answer::Done(_)) { RequestState::Answered } else { RequestState::Failed };
        self.was(Asked::Answer(id, answer));
        Ok(request(state))
    }

    async fn cancel_request(&self, _: &Call, id: MessageId, reason: &str) -> Result<Request> {
        self.was(Asked::Cancel(id, reason.to_owned()));
        Ok(request(RequestState::Cancelled))
    }
}

#[async_trait]
impl Topics for Echo {
    async fn publish(&self, _: &Call, topic: &Topic, event: NewEvent) -> Result<Published> {
        self.was(Asked::Publish(topic.clone(), event));
        Ok(published())
    }

    async fn set_schema(&self, _: &Call, topic: &Topic, new: Value, force: bool) -> Result<TopicSchema> {
        self.was(Asked::SetSchema(topic.clone(), new, force));
        Ok(schema())
    }

    async fn schema(&self, _: &Call, topic: &Topic, version: Option<u32>) -> Result<Option<TopicSchema>> {
        self.was(Asked::Schema(topic.clone(), version));
        Ok(version.map(|_| schema()))
    }

    async fn subscribe(&self, _: &Call, topic: &Topic, agent: &AgentId, filter: Option<String>) -> Result<Subscriber> {
        self.was(Asked::Subscribe(topic.clone(), agent.clone(), filter));
        Ok(subscribers().remove(0))
    }

    async fn unsubscribe(&self, _: &Call, topic: &Topic, agent: &AgentId) -> Result<bool> {
        self.was(Asked::Unsubscribe(topic.clone(), agent.clone()));
        Ok(true)
    }

    async fn subscribers(&self, _: &Call, topic: &Topic) -> Result<Vec<Subscriber>> {
        self.was(Asked::Subscribers(topic.clone()));
        Ok(subscribers())
    }

    async fn topics(&self, _: &Call) -> Result<Vec<TopicInfo>> {
        self.was(Asked::Topics);
        Ok(topics())
    }
}

pub(crate) type Ports = (Arc<dyn Mail>, Arc<dyn Topics>);
