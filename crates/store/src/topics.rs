//! The port of topics: schemas with their versions, durable subscribers, and how far each topic was brought to them.

use async_trait::async_trait;
use guildhall_domain::{
    AgentId, AuditEntry, Error, Result, TenantId,
    event::{Subscriber, TopicInfo, TopicSchema},
    mail::Mailbox,
    ports::{
        TopicStore,
        bus::Topic,
        mail_store::{MailboxBound, Outgoing},
        topic_store::Feed,
    },
};
use sqlx::{Database, PgConnection, SqliteConnection};

use crate::{agent_store::Tables, engine::Sql};

pub(crate) trait TopicTables: Send {}
impl TopicTables for SqliteConnection {}
impl TopicTables for PgConnection {}

fn unbuilt<T>() -> Result<T> {
    Err(Error::unsupported("not built yet"))
}

#[async_trait]
impl<DB: Database> TopicStore for Sql<DB>
where
    DB::Connection: Tables,
{
    async fn schema(&self, _: &TenantId, _: &Topic, _: Option<u32>) -> Result<Option<TopicSchema>> {
        unbuilt()
    }
    async fn add_schema(&self, _: &TenantId, _: &TopicSchema, _: AuditEntry) -> Result<()> {
        unbuilt()
    }
    async fn put_subscriber(&self, _: &TenantId, _: &Topic, _: &Subscriber, _: AuditEntry) -> Result<()> {
        unbuilt()
    }
    async fn remove_subscriber(&self, _: &TenantId, _: &Topic, _: &AgentId, _: AuditEntry) -> Result<bool> {
        unbuilt()
    }
    async fn subscribers(&self, _: &TenantId, _: &Topic) -> Result<Vec<Subscriber>> {
        unbuilt()
    }
    async fn topics(&self, _: &TenantId) -> Result<Vec<TopicInfo>> {
        unbuilt()
    }
    async fn feeds(&self) -> Result<Vec<Feed>> {
        unbuilt()
    }
    async fn feed(&self, _: &Feed, _: u64, _: Vec<Outgoing>, _: MailboxBound) -> Result<Vec<Mailbox>> {
        unbuilt()
    }
}
