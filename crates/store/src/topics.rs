//! The tables of topics: schemas with their versions, durable subscribers, and how far each topic was brought to them.

use std::future::Future;

use guildhall_domain::{
    AgentId, Result, TenantId, Timestamp,
    event::{Subscriber, TopicInfo, TopicSchema},
    ports::{bus::Topic, topic_store::Feed},
};
use sqlx::{FromRow, PgConnection, SqliteConnection};

use crate::{
    failure::{Failure, unreadable},
    row::{count, json, signed},
};

const SCHEMA: &str = "SELECT * FROM topic_schemas WHERE tenant = $1 AND topic = $2 AND ($3 IS NULL OR version = $3)
    ORDER BY version DESC LIMIT 1";
const ADD_SCHEMA: &str = "INSERT INTO topic_schemas (tenant, topic, version, schema, set_at, set_by)
    VALUES ($1, $2, $3, $4, $5, $6)";

const IS_SUBSCRIBER: &str = "SELECT COUNT(*) FROM topic_subscribers WHERE tenant = $1 AND topic = $2 AND agent_id = $3";
const SUBSCRIBERS_COUNT: &str = "SELECT COUNT(*) FROM topic_subscribers WHERE tenant = $1 AND topic = $2";
/// Whoever subscribes again keeps its first moment: since then events are its own already.
const PUT_SUBSCRIBER: &str = "INSERT INTO topic_subscribers (tenant, topic, agent_id, filter, since)
    VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, topic, agent_id) DO UPDATE SET filter = excluded.filter";
const REMOVE_SUBSCRIBER: &str = "DELETE FROM topic_subscribers WHERE tenant = $1 AND topic = $2 AND agent_id = $3";
const REMOVE_FROM_ALL: &str = "DELETE FROM topic_subscribers WHERE tenant = $1 AND agent_id = $2";
const SUBSCRIBERS: &str = "SELECT agent_id, filter, since FROM topic_subscribers
    WHERE tenant = $1 AND topic = $2 ORDER BY agent_id";
const TOPICS: &str = "SELECT topic, MAX(version) AS version, CAST(SUM(subscribers) AS BIGINT) AS subscribers FROM (
        SELECT topic, MAX(version) AS version, 0 AS subscribers FROM topic_schemas WHERE tenant = $1 GROUP BY topic
        UNION ALL
        SELECT topic, NULL, COUNT(*) FROM topic_subscribers WHERE tenant = $1 GROUP BY topic) AS each
    GROUP BY topic ORDER BY topic";

const BEGIN_FEED: &str = "INSERT INTO topic_feeds (tenant, topic, position, since) VALUES ($1, $2, 0, $3)
    ON CONFLICT DO NOTHING";
const END_FEED: &str = "DELETE FROM topic_feeds WHERE tenant = $1 AND topic = $2 AND NOT EXISTS
    (SELECT 1 FROM topic_subscribers WHERE tenant = $1 AND topic = $2)";
const END_FEEDS: &str = "DELETE FROM topic_feeds WHERE tenant = $1 AND NOT EXISTS
    (SELECT 1 FROM topic_subscribers WHERE tenant = $1 AND topic = topic_feeds.topic)";
const FEEDS: &str = "SELECT tenant, topic, position, since FROM topic_feeds ORDER BY tenant, topic";
/// `since` tells a feed from one of the same topic that ended before it.
const MOVE_FEED: &str = "UPDATE topic_feeds SET position = $5
    WHERE tenant = $1 AND topic = $2 AND position = $3 AND since = $4";

#[derive(Debug, FromRow)]
pub(crate) struct SchemaRow {
    topic: String,
    version: i64,
    schema: String,
    set_at: i64,
    set_by: String,
}

impl SchemaRow {
    pub(crate) fn schema(self) -> Result<TopicSchema> {
        Ok(TopicSchema {
            topic: Topic::new(self.topic)?,
            version: u32::try_from(self.version).map_err(unreadable)?,
            schema: serde_json::from_str(&self.schema).map_err(unreadable)?,
            set_at: Timestamp::from_millis(self.set_at),
            set_by: self.set_by,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct SubscriberRow {
    agent_id: String,
    filter: Option<String>,
    since: i64,
}

impl SubscriberRow {
    pub(crate) fn subscriber(self) -> Result<Subscriber> {
        Ok(Subscriber {
            agent_id: self.agent_id.parse()?,
            filter: self.filter,
            since: Timestamp::from_millis(self.since),
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct TopicRow {
    topic: String,
    version: Option<i64>,
    subscribers: i64,
}

impl TopicRow {
    pub(crate) fn info(self) -> Result<TopicInfo> {
        Ok(TopicInfo {
            topic: Topic::new(self.topic)?,
            schema_version: self.version.map(u32::try_from).transpose().map_err(unreadable)?,
            subscribers: usize::try_from(self.subscribers).map_err(unreadable)?,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct FeedRow {
    tenant: String,
    topic: String,
    position: i64,
    since: i64,
}

impl FeedRow {
    pub(crate) fn feed(self) -> Result<Feed> {
        Ok(Feed {
            tenant: self.tenant.parse()?,
            topic: Topic::new(self.topic)?,
            position: count(self.position)?,
            since: Timestamp::from_millis(self.since),
        })
    }
}

pub(crate) trait TopicTables: Send {
    /// The newest when `version` is not said.
    fn topic_schema(
        &mut self,
        tenant: &TenantId,
        topic: &Topic,
        version: Option<u32>,
    ) -> impl Future<Output = Result<Option<SchemaRow>, Failure>> + Send;
    fn add_topic_schema(
        &mut self,
        tenant: &TenantId,
        schema: &TopicSchema,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    fn is_subscriber(
        &mut self,
        tenant: &TenantId,
        topic: &Topic,
        agent: &AgentId,
    ) -> impl Future<Output = Result<bool, Failure>> + Send;
    fn subscribers_count(
        &mut self,
        tenant: &TenantId,
        topic: &Topic,
    ) -> impl Future<Output = Result<u64, Failure>> + Send;
    /// Begins the feed when there is none.
    fn put_subscriber(
        &mut self,
        tenant: &TenantId,
        topic: &Topic,
        subscriber: &Subscriber,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// False when it was none. The last one ends the feed.
    fn remove_subscriber(
        &mut self,
        tenant: &TenantId,
        topic: &Topic,
        agent: &AgentId,
    ) -> impl Future<Output = Result<bool, Failure>> + Send;
    /// The agent leaves.
    fn remove_from_all_topics(
        &mut self,
        tenant: &TenantId,
        agent: &AgentId,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    fn subscribers(
        &mut self,
        tenant: &TenantId,
        topic: &Topic,
    ) -> impl Future<Output = Result<Vec<SubscriberRow>, Failure>> + Send;
    fn topics(&mut self, tenant: &TenantId) -> impl Future<Output = Result<Vec<TopicRow>, Failure>> + Send;

    fn feeds(&mut self) -> impl Future<Output = Result<Vec<FeedRow>, Failure>> + Send;
    /// False when the feed is not as it was read.
    fn move_feed(&mut self, feed: &Feed, to: u64) -> impl Future<Output = Result<bool, Failure>> + Send;
}

macro_rules! topic_tables {
    ($connection:ty) => {
        impl TopicTables for $connection {
            async fn topic_schema(
                &mut self,
                tenant: &TenantId,
                topic: &Topic,
                version: Option<u32>,
            ) -> Result<Option<SchemaRow>, Failure> {
                let find = sqlx::query_as(SCHEMA).bind(tenant.as_str()).bind(topic.as_str());
                Ok(find.bind(version.map(i64::from)).fetch_optional(self).await?)
            }

            async fn add_topic_schema(&mut self, tenant: &TenantId, schema: &TopicSchema) -> Result<(), Failure> {
                let add = sqlx::query(ADD_SCHEMA)
                    .bind(tenant.as_str())
                    .bind(schema.topic.as_str())
                    .bind(i64::from(schema.version))
                    .bind(json(&schema.schema)?)
                    .bind(schema.set_at.as_millis())
                    .bind(&schema.set_by);
                add.execute(self).await?;
                Ok(())
            }

            async fn is_subscriber(
                &mut self,
                tenant: &TenantId,
                topic: &Topic,
                agent: &AgentId,
            ) -> Result<bool, Failure> {
                let find = sqlx::query_scalar(IS_SUBSCRIBER).bind(tenant.as_str()).bind(topic.as_str());
                let found: i64 = find.bind(agent.as_str()).fetch_one(self).await?;
                Ok(found > 0)
            }

            async fn subscribers_count(&mut self, tenant: &TenantId, topic: &Topic) -> Result<u64, Failure> {
                let find = sqlx::query_scalar(SUBSCRIBERS_COUNT).bind(tenant.as_str()).bind(topic.as_str());
                Ok(count(find.fetch_one(self).await?)?)
            }

            async fn put_subscriber(
                &mut self,
                tenant: &TenantId,
                topic: &Topic,
                subscriber: &Subscriber,
            ) -> Result<(), Failure> {
                let since = subscriber.since.as_millis();
                let put = sqlx::query(PUT_SUBSCRIBER)
                    .bind(tenant.as_str())
                    .bind(topic.as_str())
                    .bind(subscriber.agent_id.as_str())
                    .bind(&subscriber.filter)
                    .bind(since);
                put.execute(&mut *self).await?;
                let begin = sqlx::query(BEGIN_FEED).bind(tenant.as_str()).bind(topic.as_str()).bind(since);
                begin.execute(self).await?;
                Ok(())
            }

            async fn remove_subscriber(
                &mut self,
                tenant: &TenantId,
                topic: &Topic,
                agent: &AgentId,
            ) -> Result<bool, Failure> {
                let remove = sqlx::query(REMOVE_SUBSCRIBER).bind(tenant.as_str()).bind(topic.as_str());
                if remove.bind(agent.as_str()).execute(&mut *self).await?.rows_affected() == 0 {
                    return Ok(false);
                }
                sqlx::query(END_FEED).bind(tenant.as_str()).bind(topic.as_str()).execute(self).await?;
                Ok(true)
            }

            async fn remove_from_all_topics(&mut self, tenant: &TenantId, agent: &AgentId) -> Result<(), Failure> {
                let remove = sqlx::query(REMOVE_FROM_ALL).bind(tenant.as_str()).bind(agent.as_str());
                if remove.execute(&mut *self).await?.rows_affected() > 0 {
                    sqlx::query(END_FEEDS).bind(tenant.as_str()).execute(self).await?;
                }
                Ok(())
            }

            async fn subscribers(&mut self, tenant: &TenantId, topic: &Topic) -> Result<Vec<SubscriberRow>, Failure> {
                let find = sqlx::query_as(SUBSCRIBERS).bind(tenant.as_str()).bind(topic.as_str());
                Ok(find.fetch_all(self).await?)
            }

            async fn topics(&mut self, tenant: &TenantId) -> Result<Vec<TopicRow>, Failure> {
                Ok(sqlx::query_as(TOPICS).bind(tenant.as_str()).fetch_all(self).await?)
            }

            async fn feeds(&mut self) -> Result<Vec<FeedRow>, Failure> {
                Ok(sqlx::query_as(FEEDS).fetch_all(self).await?)
            }

            async fn move_feed(&mut self, feed: &Feed, to: u64) -> Result<bool, Failure> {
                let moved = sqlx::query(MOVE_FEED)
                    .bind(feed.tenant.as_str())
                    .bind(feed.topic.as_str())
                    .bind(signed(feed.position))
                    .bind(feed.since.as_millis())
                    .bind(signed(to));
                Ok(moved.execute(self).await?.rows_affected() > 0)
            }
        }
    };
}

topic_tables!(SqliteConnection);
topic_tables!(PgConnection);
