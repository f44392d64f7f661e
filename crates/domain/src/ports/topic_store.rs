//! What topics ask of SQL: schemas with their versions, durable subscribers, and how far each topic was brought to
//! them.

use async_trait::async_trait;

use crate::{
    AgentId, AuditEntry, Result, TenantId, Timestamp,
    event::{Subscriber, TopicInfo, TopicSchema},
    mail::Mailbox,
    ports::{
        bus::Topic,
        mail_store::{MailboxBound, Outgoing},
    },
};

/// A topic with durable subscribers, and the last event that was brought to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    pub tenant: TenantId,
    pub topic: Topic,
    /// 0: none yet.
    pub position: u64,
    /// When the first of them subscribed; events before are not theirs.
    pub since: Timestamp,
}

#[async_trait]
pub trait TopicStore: Send + Sync + 'static {
    async fn schema(&self, tenant: &TenantId, topic: &Topic, version: Option<u32>) -> Result<Option<TopicSchema>>;
    /// `Conflict` when `schema.version` is not the next.
    async fn add_schema(&self, tenant: &TenantId, schema: &TopicSchema, audit: AuditEntry) -> Result<()>;

    /// The first subscriber begins the topic's feed.
    async fn put_subscriber(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        subscriber: &Subscriber,
        audit: AuditEntry,
    ) -> Result<()>;
    async fn remove_subscriber(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        agent: &AgentId,
        audit: AuditEntry,
    ) -> Result<bool>;
    async fn subscribers(&self, tenant: &TenantId, topic: &Topic) -> Result<Vec<Subscriber>>;
    async fn topics(&self, tenant: &TenantId) -> Result<Vec<TopicInfo>>;

    /// Every topic with durable subscribers, of every tenant.
    async fn feeds(&self) -> Result<Vec<Feed>>;
    /// Delivers events as mail and moves the position from `feed.position` to `to` in one transaction. `Conflict` when
    /// another replica was here first: nothing is done.
    async fn feed(&self, feed: &Feed, to: u64, mail: Vec<Outgoing>, bound: MailboxBound) -> Result<Vec<Mailbox>>;
}
