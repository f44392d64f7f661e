//! The schemas of topics, compiled, as new as publishing needs them.
//!
//! What is known of a topic is good for 2 s and until a hint says that it has changed; then one caller looks, and the
//! others wait for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_domain::{Result, TenantId, ports::TopicStore, ports::bus::Topic};
use guildhall_event_rules::Schema;
use parking_lot::Mutex;

/// How long a replica that missed a hint takes events by the schema before.
const GOOD_FOR: Duration = Duration::from_secs(2);
/// Topics whose schemas are kept ready. One that is not costs its publisher a look into the database.
const TOPICS_MAX: u64 = 2_048;

pub(super) struct Schemas {
    store: Arc<dyn TopicStore>,
    topics: moka::sync::Cache<(TenantId, Topic), Arc<Shelf>>,
}

/// What is known of one topic.
#[derive(Default)]
struct Shelf {
    known: Mutex<Option<Known>>,
    looking: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Known {
    version: Option<u32>,
    schema: Option<Arc<Schema>>,
    good_until: Instant,
}

impl Schemas {
    pub(super) fn new(store: Arc<dyn TopicStore>) -> Self {
        Self { store, topics: moka::sync::Cache::new(TOPICS_MAX) }
    }

    /// `None`: the topic takes anything.
    pub(super) async fn of(&self, tenant: &TenantId, topic: &Topic) -> Result<Option<Arc<Schema>>> {
        let shelf = self.topics.get_with((tenant.clone(), topic.clone()), Arc::default);
        if let Some(known) = shelf.good() {
            return Ok(known.schema);
        }
        let _looking = shelf.looking.lock().await;
        if let Some(known) = shelf.good() {
            return Ok(known.schema);
        }
        let before = shelf.known.lock().clone();
        // From before the question, so that what is forgotten while it is asked counts.
        let good_until = Instant::now() + GOOD_FOR;
        let newest = self.store.schema(tenant, topic, None).await?;
        let version = newest.as_ref().map(|newest| newest.version);
        let schema = match (newest, before) {
            (_, Some(before)) if before.version == version => before.schema,
            (Some(newest), _) => Some(Arc::new(Schema::compile(&newest.schema)?)),
            (None, _) => None,
        };
        *shelf.known.lock() = Some(Known { version, schema: schema.clone(), good_until });
        Ok(schema)
    }

    /// The topic's schema may have changed: the next who asks looks. A look that is under way is not waited for; its
    /// shelf is taken down with it.
    pub(super) fn forget(&self, tenant: &TenantId, topic: &Topic) {
        self.topics.invalidate(&(tenant.clone(), topic.clone()));
    }
}

impl Shelf {
    fn good(&self) -> Option<Known> {
        self.known.lock().as_ref().filter(|known| Instant::now() < known.good_until).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use futures::future::join_all;
    use guildhall_domain::{
        AgentId, AuditEntry, Timestamp,
        event::{Subscriber, TopicInfo, TopicSchema},
        mail::{Body, Mailbox},
        ports::{
            mail_store::{MailboxBound, Outgoing},
            topic_store::Feed,
        },
    };
    use serde_json::json;

    use super::*;

    const ONLY_SCHEMAS: &str = "publishing asks the database for schemas alone";

    /// One schema, and how often it was asked for.
    #[derive(Default)]
    struct Counted {
        looks: AtomicU32,
        version: AtomicU32,
    }

    #[async_trait]
    impl TopicStore for Counted {
        async fn schema(&self, _: &TenantId, topic: &Topic, version: Option<u32>) -> Result<Option<TopicSchema>> {
            assert_eq!(version, None);
            self.looks.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            let version = self.version.load(Ordering::SeqCst);
            Ok(Some(TopicSchema {
                topic: topic.clone(),
                version,
                schema: json!({ "const": version }),
                set_at: Timestamp::default(),
                set_by: String::new(),
            }))
        }

        async fn add_schema(&self, _: &TenantId, _: &TopicSchema, _: AuditEntry) -> Result<()> {
            unreachable!("{ONLY_SCHEMAS}")
        }

        async fn put_subscriber(&self, _: &TenantId, _: &Topic, _: &Subscriber, _: AuditEntry) -> Result<()> {
            unreachable!("{ONLY_SCHEMAS}")
        }

        async fn remove_subscriber(&self, _: &TenantId, _: &Topic, _: &AgentId, _: AuditEntry) -> Result<bool> {
            unreachable!("{ONLY_SCHEMAS}")
        }

        async fn subscribers(&self, _: &TenantId, _: &Topic) -> Result<Vec<Subscriber>> {
            unreachable!("{ONLY_SCHEMAS}")
        }

        async fn topics(&self, _: &TenantId) -> Result<Vec<TopicInfo>> {
            unreachable!("{ONLY_SCHEMAS}")
        }

        async fn feeds(&self) -> Result<Vec<Feed>> {
            unreachable!("{ONLY_SCHEMAS}")
        }

        async fn feed(&self, _: &Feed, _: u64, _: Vec<Outgoing>, _: MailboxBound) -> Result<Vec<Mailbox>> {
            unreachable!("{ONLY_SCHEMAS}")
        }
    }

    #[tokio::test]
    async fn a_thousand_events_ask_for_their_schema_once_and_once_more_when_it_changed() {
        let (store, here, topic) = (Arc::new(Counted::default()), TenantId::default(), Topic::new("t").unwrap());
        let schemas = Schemas::new(store.clone());
        let takes = async |content: u32| {
            let schema = schemas.of(&here, &topic).await.unwrap().expect("the topic has a schema");
            schema.check(&Body::from_value(&content).unwrap()).is_ok()
        };
        for version in 0..3 {
            store.version.store(version, Ordering::SeqCst);
            schemas.forget(&here, &topic);
            let (began, before) = (Instant::now(), store.looks.load(Ordering::SeqCst));
            let taken = join_all((0..1_000).map(|_| takes(version))).await;
            assert!(taken.into_iter().all(|taken| taken), "the schema before {version} was asked");
            let looks = store.looks.load(Ordering::SeqCst) - before;
            // A machine that stands still for a while has reason to look again.
            let most = 1 + began.elapsed().as_secs() / GOOD_FOR.as_secs();
            assert!((1..=most).contains(&looks.into()), "{looks} looks for 1,000 events");
        }
    }
}
