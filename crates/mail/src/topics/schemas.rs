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
