//! The port of mail: mailboxes and requests. Hosted by agent-registry.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    AgentId, Call, Result,
    mail::{
        Answer, DeadLetter, Delivered, Message, MessageId, NewMessage, NewRequest, Progress, Receipt, Request,
        delivery::{DeadLetterQuery, DeadLetterSelection, History, HistoryQuery, Settling, TakeMail, Tracked, Unread},
    },
};

#[async_trait]
pub trait Mail: Send + Sync + 'static {
    /// All or none of 1 to 100, answered once they are durable. The sender is the caller.
    async fn send(&self, call: &Call, messages: Vec<NewMessage>) -> Result<Vec<Receipt>>;

    /// What waits for `agent`, in its own mailbox and its pool's, leased to the taker. Waits when there is nothing and
    /// the taker asked to; then empty is no failure.
    async fn take(&self, call: &Call, agent: &AgentId, take: TakeMail) -> Result<Vec<Delivered>>;
    /// Each is judged by itself: a stale lease is a `Conflict` and does nothing. At most 1,000 a call.
    async fn settle(&self, call: &Call, agent: &AgentId, settlings: Vec<Settling>) -> Result<Vec<Result<()>>>;
    /// Gives back all that is held by hands of the agent whose names begin with `taker`, counting no attempt. A name
    /// that ends with what no name has in its middle stands for one hand alone.
    async fn give_back(&self, call: &Call, agent: &AgentId, taker: &str) -> Result<u64>;

    /// What is not settled for each of them, in their order; at most 10,000 a call. Unknown agents have nothing.
    async fn unread(&self, call: &Call, agents: Vec<AgentId>) -> Result<Vec<Unread>>;
    /// What waits, in the order it would be handed out, without taking it.
    async fn peek(&self, call: &Call, agent: &AgentId, limit: usize) -> Result<Vec<Message>>;
    async fn history(&self, call: &Call, agent: &AgentId, query: HistoryQuery) -> Result<History>;
    /// For its sender and its receivers; `NotFound` for everyone else.
    async fn message(&self, call: &Call, message: MessageId) -> Result<Tracked>;

    /// An agent sees those of its own mailbox, an administrator all.
    async fn dead_letters(&self, call: &Call, query: DeadLetterQuery) -> Result<Vec<DeadLetter>>;
    /// Puts them back to where they were to go, as if sent anew. Gives how many.
    async fn redrive(&self, call: &Call, selection: DeadLetterSelection) -> Result<u64>;
    async fn purge(&self, call: &Call, selection: DeadLetterSelection) -> Result<u64>;

    /// Sends the request; does not wait for its answer.
    async fn request(&self, call: &Call, request: NewRequest) -> Result<Request>;
    /// How it stands: at once when it has ended, else when it has moved on since `known` or `wait` is over.
    async fn request_state(
        &self,
        call: &Call,
        request: MessageId,
        known: Option<Progress>,
        wait: Duration,
    ) -> Result<Request>;
    /// By the side that works on it.
    async fn report_progress(&self, call: &Call, request: MessageId, progress: Progress) -> Result<()>;
    /// Refused when the request has ended.
    async fn answer(&self, call: &Call, request: MessageId, answer: Answer) -> Result<Request>;
    /// By its requester. Withdraws it if nobody has taken it, tells whoever has; final states stay as they are.
    async fn cancel_request(&self, call: &Call, request: MessageId, reason: &str) -> Result<Request>;
}
