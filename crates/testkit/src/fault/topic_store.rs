//! Faults before the store of topics.

use async_trait::async_trait;
use guildhall_domain::{
    AgentId, AuditEntry, Result, TenantId,
    event::{Subscriber, TopicInfo, TopicSchema},
    mail::Mailbox,
    ports::{
        TopicStore,
        bus::Topic,
        mail_store::{MailboxBound, Outgoing},
        topic_store::Feed,
    },
};

use super::{Faulty, read, write};

#[async_trait]
impl TopicStore for Faulty<dyn TopicStore> {
    async fn schema(&self, tenant: &TenantId, topic: &Topic, version: Option<u32>) -> Result<Option<TopicSchema>> {
        read(&self.plan, ("schema", tenant, topic, version), || self.inner.schema(tenant, topic, version)).await
    }

    async fn add_schema(&self, tenant: &TenantId, schema: &TopicSchema, audit: AuditEntry) -> Result<()> {
        write(&self.plan, || self.inner.add_schema(tenant, schema, audit.clone())).await
    }

    async fn put_subscriber(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        subscriber: &Subscriber,
        audit: AuditEntry,
    ) -> Result<()> {
        write(&self.plan, || self.inner.put_subscriber(tenant, topic, subscriber, audit.clone())).await
    }

    async fn remove_subscriber(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        agent: &AgentId,
        audit: AuditEntry,
    ) -> Result<bool> {
        write(&self.plan, || self.inner.remove_subscriber(tenant, topic, agent, audit.clone())).await
    }

    async fn subscribers(&self, tenant: &TenantId, topic: &Topic) -> Result<Vec<Subscriber>> {
        read(&self.plan, ("subscribers", tenant, topic), || self.inner.subscribers(tenant, topic)).await
    }

    async fn topics(&self, tenant: &TenantId) -> Result<Vec<TopicInfo>> {
        read(&self.plan, ("topics", tenant), || self.inner.topics(tenant)).await
    }

    async fn feeds(&self) -> Result<Vec<Feed>> {
        read(&self.plan, "feeds", || self.inner.feeds()).await
    }

    async fn feed(&self, feed: &Feed, to: u64, mail: Vec<Outgoing>, bound: MailboxBound) -> Result<Vec<Mailbox>> {
        write(&self.plan, || self.inner.feed(feed, to, mail.clone(), bound)).await
    }
}
