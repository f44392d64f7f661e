//! What mail asks of SQL. One transaction a call; concurrent calls share commits. The audit entry of an act is a row
//! of its transaction.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    AgentId, AuditEntry, Result, TenantId, Timestamp,
    mail::{
        Answer, DeadLetter, Delivered, Mailbox, Message, MessageId, Progress, Receipt, Request,
        delivery::{DeadLetterQuery, DeadLetterSelection, History, HistoryQuery, Settling, Tracked, Unread},
    },
    ports::bus::Retention,
};

/// How a sender's key is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptKey {
    /// Over tenant, sender and key.
    pub key: [u8; 16],
    /// Over everything that the sender said.
    pub fingerprint: [u8; 16],
}

/// Where a message goes, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressees {
    One(Mailbox),
    /// Their number is the receipt's `recipients`. Few are delivered in the same transaction, many by
    /// [`MailStore::expand`].
    Many(Vec<AgentId>),
}

/// A request's row, made with its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestTerms {
    pub deadline: Timestamp,
    pub waits: bool,
}

/// A message that was checked, on its way into the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    pub message: Message,
    pub to: Addressees,
    pub receipt: Option<ReceiptKey>,
    pub request: Option<RequestTerms>,
    pub audit: AuditEntry,
}

/// Mail that was accepted, and whom to wake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    pub receipts: Vec<Receipt>,
    /// Mailboxes in which something new may be taken.
    pub wake: Vec<Mailbox>,
    /// True when deliveries are left to [`MailStore::expand`].
    pub underway: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taking {
    pub tenant: TenantId,
    /// The agent's own first, then its pool's.
    pub mailboxes: Vec<Mailbox>,
    /// Agent and hand: what a lease is held by.
    pub taker: String,
    pub limit: usize,
    pub lease: Duration,
    /// There most likely is something: it is not looked for before it is taken.
    pub told: bool,
    pub now: Timestamp,
}

/// What the clock changed: leases that ran out, rests that are over, mail that expired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lapsed {
    pub leases: u64,
    pub expired: u64,
    /// Of both, what became a dead letter.
    pub dead: u64,
    pub wake: Vec<(TenantId, Mailbox)>,
    /// More may be due than one call does.
    pub more: bool,
}

/// What bringing wide messages to their mailboxes did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    pub deliveries: u64,
    pub wake: Vec<(TenantId, Mailbox)>,
    /// More is left than one call does.
    pub more: bool,
}

/// What may wait in one mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxBound {
    pub messages: u64,
}

impl Default for MailboxBound {
    fn default() -> Self {
        Self { messages: 10_000 }
    }
}

#[async_trait]
pub trait MailStore: Send + Sync + 'static {
    /// All or none. A key that was used in the last 24 h with the same fingerprint gives the first receipt and adds
    /// nothing; with another, `Conflict`. `MailboxFull` when a single addressee's mailbox is full, `NotFound` when its
    /// agent has left; of many addressees, a full one gets a dead letter. A request is refused with `CircuitOpen`
    /// while its addressee's breaker is open, and with `Conflict` when its wait would close a circle.
    async fn send(&self, tenant: &TenantId, outgoing: Vec<Outgoing>, bound: MailboxBound) -> Result<Accepted>;
    /// What was given under this key in the last 24 h; `Conflict` when that was for another message.
    async fn receipt(&self, key: &ReceiptKey, now: Timestamp) -> Result<Option<Receipt>>;
    /// Brings wide messages to their next mailboxes, the oldest first, some hundreds a call. Any replica may, at once.
    async fn expand(&self, bound: MailboxBound, now: Timestamp) -> Result<Expanded>;

    async fn take(&self, taking: Taking) -> Result<Vec<Delivered>>;
    /// `mailboxes`: those that the settling agent may settle in; a lease of another is stale.
    async fn settle(
        &self,
        tenant: &TenantId,
        mailboxes: &[Mailbox],
        settlings: Vec<Settling>,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>>;
    /// Takers that begin with `taker`.
    async fn give_back(&self, tenant: &TenantId, mailboxes: &[Mailbox], taker: &str) -> Result<u64>;

    /// In the order of `mailboxes`; one that is not there has nothing.
    async fn unread(&self, tenant: &TenantId, mailboxes: &[Mailbox]) -> Result<Vec<Unread>>;
    async fn peek(
        &self,
        tenant: &TenantId,
        mailboxes: &[Mailbox],
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Message>>;
    /// Its page, as that of `peek` and of `dead_letters`, also ends at [`TAKE_MAX_BYTES`] of bodies. A message after
    /// which to read that is not kept any more is `NotFound`.
    ///
    /// [`TAKE_MAX_BYTES`]: crate::mail::delivery::TAKE_MAX_BYTES
    async fn history(&self, tenant: &TenantId, mailbox: &Mailbox, query: &HistoryQuery) -> Result<History>;
    /// With at most 100 of its deliveries, `only` those of one mailbox if named.
    async fn message(&self, tenant: &TenantId, message: MessageId, only: Option<&[Mailbox]>)
    -> Result<Option<Tracked>>;

    /// Letters of one message that died at one moment are on one page, which may be longer than was asked for.
    async fn dead_letters(&self, tenant: &TenantId, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>>;
    /// Gives how many, and whom to wake.
    async fn redrive(
        &self,
        tenant: &TenantId,
        selection: &DeadLetterSelection,
        now: Timestamp,
        audit: AuditEntry,
    ) -> Result<(u64, Vec<Mailbox>)>;
    async fn purge(&self, tenant: &TenantId, selection: &DeadLetterSelection, audit: AuditEntry) -> Result<u64>;

    async fn request(&self, tenant: &TenantId, request: MessageId) -> Result<Option<Request>>;
    /// `Conflict` when it has ended; the number only rises.
    async fn progress(
        &self,
        tenant: &TenantId,
        request: MessageId,
        progress: &Progress,
        now: Timestamp,
    ) -> Result<Request>;
    /// The answer, and with it its message to the requester if it does not wait. `Conflict` when it has ended.
    async fn answer(
        &self,
        tenant: &TenantId,
        request: MessageId,
        by: &AgentId,
        answer: &Answer,
        response: Option<Outgoing>,
        now: Timestamp,
    ) -> Result<Request>;
    /// Ends it unless it has ended. A delivery that nobody holds is withdrawn; then nobody needs to be told.
    async fn cancel(
        &self,
        tenant: &TenantId,
        request: MessageId,
        reason: &str,
        notice: Option<Outgoing>,
        now: Timestamp,
    ) -> Result<Request>;

    /// Does what is due: leases that ran out, expired mail. Any replica may, at once; none does a thing twice.
    async fn lapse(&self, now: Timestamp) -> Result<Lapsed>;
    /// Ends the requests whose time is over; gives them.
    async fn time_out(&self, now: Timestamp) -> Result<Vec<(TenantId, Request)>>;
    /// Forgets receipts older than 24 h, and the oldest mail and ended requests above what is kept, at most some
    /// thousands of rows a call. Mail that still waits when it is that old dies first. True when there is more.
    async fn forget(&self, kept: Retention, now: Timestamp) -> Result<bool>;
}
