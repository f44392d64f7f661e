//! One lane: the topics that a replica follows while it holds the lane's lease.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use guildhall_domain::{
    TenantId,
    ports::{
        bus::Topic,
        hot::{HotKey, LeaseOutcome},
        topic_store::Feed,
    },
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Feeds, lane};

/// How late another replica takes over from one that died.
const LEASE: Duration = Duration::from_secs(10);
/// Three chances to renew it.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// A hot store that is well answers within a millisecond.
const HOT_WITHIN: Duration = Duration::from_millis(500);

type Name = (TenantId, Topic);

/// The topics of a lane that are followed, all of them by the one task that polls this.
#[derive(Default)]
struct Following {
    followers: FuturesUnordered<BoxFuture<'static, (Name, u64)>>,
    /// The guard ends the follower of that number when it is dropped.
    names: HashMap<Name, (u64, DropGuard)>,
    begun: u64,
}

impl Feeds {
    pub(super) async fn work(self: Arc<Self>, number: u8, stop: CancellationToken) {
        let key = HotKey::of_hall("feed", number);
        let mut all = self.all.subscribe();
        let mut following = Following::default();
        let mut renew = interval(RENEW_EVERY);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_ours = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = renew.tick() => {
                    is_ours = self.holds(&key).await;
                    let feeds = if is_ours { self.own(number, &all.borrow_and_update()) } else { Vec::new() };
                    following.keep_to(&feeds, &self);
                }
                changed = all.changed() => {
                    changed.expect("the sender is a part of self");
                    let feeds = self.own(number, &all.borrow_and_update());
                    if is_ours {
                        following.keep_to(&feeds, &self);
                    }
                }
                // It stands elsewhere than it thought, or its topic has no subscribers any more. It is followed again
                // from the next look on.
                Some((name, number)) = following.followers.next() => {
                    if following.has_ended(&name, number) {
                        self.look_again();
                    }
                }
            }
        }
        drop(following);
        if is_ours && timeout(HOT_WITHIN, self.desk.hot.release(&key, &self.holder)).await.is_err() {
            tracing::debug!("the lease on a lane of topics runs out by itself");
        }
    }

    /// Where the hot store cannot say, everyone works: the database lets only one of them.
    async fn holds(&self, key: &HotKey) -> bool {
        let asked = timeout(HOT_WITHIN, self.desk.hot.lease(key, &self.holder, LEASE)).await;
        !matches!(asked, Ok(Ok(LeaseOutcome::Taken { .. })))
    }

    fn own(&self, number: u8, all: &[Feed]) -> Vec<Feed> {
        all.iter().filter(|feed| lane(&feed.tenant, &feed.topic) == number).cloned().collect()
    }
}

impl Following {
    /// Follows these and no others.
    fn keep_to(&mut self, feeds: &[Feed], all: &Arc<Feeds>) {
        let wanted: HashSet<_> = feeds.iter().map(|feed| (&feed.tenant, &feed.topic)).collect();
        self.names.retain(|(tenant, topic), _| wanted.contains(&(tenant, topic)));
        for feed in feeds {
            let name = (feed.tenant.clone(), feed.topic.clone());
            if self.names.contains_key(&name) {
                continue;
            }
            self.begun += 1;
            let (stop, number) = (CancellationToken::new(), self.begun);
            self.names.insert(name.clone(), (number, stop.clone().drop_guard()));
            let (feeds, feed) = (all.clone(), feed.clone());
            self.followers.push(Box::pin(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = feeds.follow(feed) => {}
                }
                (name, number)
            }));
        }
    }

    /// True when it ended by itself.
    fn has_ended(&mut self, name: &Name, number: u64) -> bool {
        let by_itself = self.names.get(name).is_some_and(|(running, _)| *running == number);
        if by_itself {
            self.names.remove(name);
        }
        by_itself
    }
}
