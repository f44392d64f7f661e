//! The port of topics over either engine.
//!
//! A feed is there as long as its topic has subscribers, and begins where the first of them came. Whoever brings
//! events to subscribers names the feed as it was read; its position moves in the transaction that delivers.

use std::sync::Arc;

use async_trait::async_trait;
use guildhall_domain::{
    AgentId, AuditEntry, Error, Result, TenantId,
    event::{SUBSCRIBERS_MAX, Subscriber, TopicInfo, TopicSchema},
    mail::Mailbox,
    ports::{
        TopicStore,
        bus::Topic,
        mail_store::{Addressees, MailboxBound, Outgoing},
        topic_store::Feed,
    },
};
use sqlx::Database;

use crate::{
    agent_store::Tables,
    engine::{Sql, in_time},
    failure::Failure,
    mail::send::{Sending, accept},
    many::Many,
    topics::{FeedRow, SchemaRow, SubscriberRow, TopicRow, TopicTables},
};

/// False when this very schema is there already: the answer to the first attempt was lost.
async fn add_schema(tables: &mut impl Tables, tenant: &TenantId, schema: &TopicSchema) -> Result<bool, Failure> {
    tables.take_turn().await?;
    let newest = tables.topic_schema(tenant, &schema.topic, None).await?.map(SchemaRow::schema).transpose()?;
    if newest.as_ref() == Some(schema) {
        return Ok(false);
    }
    let next = newest.map_or(0, |newest| newest.version) + 1;
    if schema.version != next {
        return Err(Error::conflict(format!(
            "the schema of {} has changed meanwhile: its next version is {next}, not {}; read it and try again",
            schema.topic, schema.version
        ))
        .into());
    }
    tables.add_topic_schema(tenant, schema).await?;
    Ok(true)
}

async fn put_subscriber(
    tables: &mut impl Tables,
    tenant: &TenantId,
    topic: &Topic,
    subscriber: &Subscriber,
) -> Result<(), Failure> {
    tables.take_turn().await?;
    let newcomer = !tables.is_subscriber(tenant, topic, &subscriber.agent_id).await?;
    if newcomer && tables.subscribers_count(tenant, topic).await? >= SUBSCRIBERS_MAX as u64 {
        return Err(Error::conflict(format!(
            "topic {topic} has {SUBSCRIBERS_MAX} durable subscribers already, and takes no more: unsubscribe one, or \
             follow its stream"
        ))
        .into());
    }
    tables.put_subscriber(tenant, topic, subscriber).await
}

/// An event goes to however many subscribe: one whose mailbox is full, or who has left, does not hold up the others.
fn for_many(mail: Outgoing) -> Outgoing {
    let to = match mail.to {
        Addressees::One(Mailbox::Agent(agent)) => Addressees::Many(vec![agent]),
        to => to,
    };
    Outgoing { to, ..mail }
}

fn overtaken(feed: &Feed) -> Failure {
    Error::conflict(format!(
        "events of {} have been brought to its subscribers from elsewhere, or its last subscriber has left: read the \
         feed again",
        feed.topic
    ))
    .into()
}

#[async_trait]
impl<DB: Database> TopicStore for Sql<DB>
where
    DB::Connection: Tables,
{
    async fn schema(&self, tenant: &TenantId, topic: &Topic, version: Option<u32>) -> Result<Option<TopicSchema>> {
        let mut tables = self.reader().await?;
        let row = in_time(tables.topic_schema(tenant, topic, version)).await;
        tables.done(row)?.map(SchemaRow::schema).transpose()
    }

    async fn add_schema(&self, tenant: &TenantId, schema: &TopicSchema, audit: AuditEntry) -> Result<()> {
        let (tenant, schema, scribe) = (tenant.clone(), schema.clone(), Arc::clone(&self.scribe));
        let add = self.writer.write(move |tables| {
            Box::pin(async move {
                if add_schema(tables, &tenant, &schema).await? {
                    scribe.record(tables, &[audit]).await?;
                }
                Ok(())
            })
        });
        add.await
    }

    async fn put_subscriber(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        subscriber: &Subscriber,
        audit: AuditEntry,
    ) -> Result<()> {
        let (tenant, topic, subscriber) = (tenant.clone(), topic.clone(), subscriber.clone());
        let scribe = Arc::clone(&self.scribe);
        let put = self.writer.write(move |tables| {
            Box::pin(async move {
                put_subscriber(tables, &tenant, &topic, &subscriber).await?;
                scribe.record(tables, &[audit]).await
            })
        });
        put.await
    }

    async fn remove_subscriber(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        agent: &AgentId,
        audit: AuditEntry,
    ) -> Result<bool> {
        let (tenant, topic, agent) = (tenant.clone(), topic.clone(), agent.clone());
        let scribe = Arc::clone(&self.scribe);
        let remove = self.writer.write(move |tables| {
            Box::pin(async move {
                tables.take_turn().await?;
                let was_one = tables.remove_subscriber(&tenant, &topic, &agent).await?;
                if was_one {
                    scribe.record(tables, &[audit]).await?;
                }
                Ok(was_one)
            })
        });
        remove.await
    }

    async fn subscribers(&self, tenant: &TenantId, topic: &Topic) -> Result<Vec<Subscriber>> {
        let mut tables = self.reader().await?;
        let rows = in_time(tables.subscribers(tenant, topic)).await;
        tables.done(rows)?.into_iter().map(SubscriberRow::subscriber).collect()
    }

    async fn topics(&self, tenant: &TenantId) -> Result<Vec<TopicInfo>> {
        let mut tables = self.reader().await?;
        let rows = in_time(tables.topics(tenant)).await;
        tables.done(rows)?.into_iter().map(TopicRow::info).collect()
    }

    async fn feeds(&self) -> Result<Vec<Feed>> {
        let mut tables = self.reader().await?;
        let rows = in_time(tables.feeds()).await;
        tables.done(rows)?.into_iter().map(FeedRow::feed).collect()
    }
    async fn feed(&self, feed: &Feed, to: u64, mail: Vec<Outgoing>, bound: MailboxBound) -> Result<Vec<Mailbox>> {
        let (feed, scribe) = (feed.clone(), Arc::clone(&self.mail_scribe));
        let mail = mail.into_iter().map(for_many).collect();
        let sending = Sending::new(&scribe, &feed.tenant, mail, bound);
        let bring = self.writer.write_apart(move |tables| {
            Box::pin(async move {
                if !tables.move_feed(&feed, to).await? {
                    return Err(overtaken(&feed));
                }
                let mut wake = Vec::new();
                for accepted in accept(tables, &scribe, &[sending]).await? {
                    wake.extend(accepted?.wake);
                }
                Ok(wake)
            })
        });
        bring.await
    }
}
