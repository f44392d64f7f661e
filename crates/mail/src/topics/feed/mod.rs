//! Brings the events of topics to their durable subscribers.
//!
//! Topics are spread over a few lanes. A lane is worked by one replica, which holds its lease and follows all its
//! topics in one task ([`lane`]). A topic is followed from where it was brought to last ([`follow`]): events are taken
//! in batches, become mail ([`letter`]) for those whose filter they match, and mail and position go into the database
//! in one transaction, so that nothing is lost and nothing comes twice. Where two replicas follow one topic, as they
//! may while the hot store is away, the position lets one of them and stops the other.

mod follow;
mod lane;
mod letter;

use std::{sync::Arc, time::Duration};

use guildhall_domain::{
    TenantId,
    clock::new_ulid,
    ports::{bus::Topic, topic_store::Feed},
};
use guildhall_runtime::{Task, Trouble};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::desk::Desk;

/// Tasks that topics share, and what can be spread over replicas.
const LANES: u8 = 16;
/// How late a topic is followed whose first subscription was not heard of.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Batches on their way into the database at once: more would hold up those who send.
const DELIVERIES_AT_ONCE: usize = 4;

pub(crate) struct Feeds {
    desk: Arc<Desk>,
    /// This process, as leases know it.
    holder: String,
    /// Every topic with subscribers, as of the last look.
    all: watch::Sender<Arc<Vec<Feed>>>,
    look: Notify,
    deliveries: Semaphore,
}

impl Feeds {
    pub(crate) fn new(desk: &Arc<Desk>) -> Arc<Self> {
        let holder = new_ulid(&*desk.clock, &*desk.entropy).to_string();
        let (all, _) = watch::channel(Arc::default());
        let deliveries = Semaphore::new(DELIVERIES_AT_ONCE);
        Arc::new(Self { desk: desk.clone(), holder, all, look: Notify::new(), deliveries })
    }

    pub(crate) fn tasks(self: &Arc<Self>) -> Vec<Task> {
        let feeds = self.clone();
        let lanes = (0..LANES).map(|number| {
            let feeds = self.clone();
            Task::new("mail.feed", move |stop| async move { feeds.work(number, stop).await })
        });
        let look = Task::new("mail.feeds", move |stop| async move { feeds.keep_looking(stop).await });
        lanes.chain([look]).collect()
    }

    /// A topic's subscribers have changed, or a topic stands elsewhere than was thought.
    pub(crate) fn look_again(&self) {
        self.look.notify_one();
    }

    async fn keep_looking(&self, stop: CancellationToken) {
        let mut trouble = Trouble::new("topics with subscribers cannot be listed", self.desk.entropy.clone());
        loop {
            let wait = match self.desk.topics.feeds().await {
                Ok(feeds) => {
                    trouble.is_over();
                    self.all.send_replace(Arc::new(feeds));
                    LOOK_EVERY
                }
                Err(error) => trouble.is(&error),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
                () = self.look.notified() => {}
            }
        }
    }
}

/// The same on every replica.
fn lane(tenant: &TenantId, topic: &Topic) -> u8 {
    Sha256::new().chain_update(tenant.as_str()).chain_update([0]).chain_update(topic.as_str()).finalize()[0] % LANES
}
