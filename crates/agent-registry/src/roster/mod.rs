//! Everyone who is here, in memory, so that looking costs no database read.
//!
//! The copy follows the database's order of changes: it is at version n when it has seen every change up to n. It
//! learns of changes by its own writes, by hints of other replicas, and by asking every 2 s. Whoever commits a change
//! leaves its version in the hot store before it answers; a reader that finds itself behind that version fetches what
//! it lacks first. So a caller sees on any replica what it was told on another.

mod tenant;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::BoxStream};
use guildhall_domain::{
    Agent, AgentChange, AgentId, AgentPage, AgentQuery, Entropy, Error, Result, TenantId,
    agent::{Delivery, subject},
    ports::{AgentStore, Bus, bus::Hint, hot::HotKey},
};
use guildhall_runtime::Trouble;
use parking_lot::{Mutex, RwLock};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) use self::tenant::{Shown, TenantRoster};
use crate::{announce::version_of, hot::Brief, presence::Gauge};

/// A hint may be lost: this is how late its change is then seen.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// A bus that is away does not hold up the asking.
const LISTEN_WITHIN: Duration = Duration::from_millis(500);
/// Changes fetched at a time: a page of 1,000 records is about 1 MB.
const FETCH: usize = 1_000;
/// How long a read waits for the changes it lacks before it is answered without them.
const FETCH_WITHIN: Duration = Duration::from_secs(1);
/// A version is only needed until every replica has asked the database by itself.
const VERSION_KEPT: Duration = Duration::from_secs(3_600);

pub(crate) struct Roster {
    store: Arc<dyn AgentStore>,
    hot: Arc<Brief>,
    gauge: Arc<Gauge>,
    version_key: HotKey,
    tenants: RwLock<HashMap<TenantId, Arc<TenantRoster>>>,
    feed: Mutex<Feed>,
    loaded: AtomicBool,
    fetching: tokio::sync::Mutex<()>,
    /// The newest version in the hot store that the database was already asked for: it is not asked for it twice.
    asked_for: AtomicU64,
}

/// How far this copy is in the order of changes.
#[derive(Default)]
struct Feed {
    /// Every change up to here has been seen.
    seen: u64,
    /// Own changes that were seen before older ones of others. Bounded by the own writes of [`ASK_EVERY`].
    ahead: BTreeSet<u64>,
}

impl Feed {
    fn close_ranks(&mut self) {
        while self.ahead.remove(&(self.seen + 1)) {
            self.seen += 1;
        }
        self.ahead = self.ahead.split_off(&(self.seen + 1));
    }
}

impl Roster {
    pub(crate) fn new(store: Arc<dyn AgentStore>, hot: Arc<Brief>, gauge: Arc<Gauge>) -> Self {
        Self {
            store,
            hot,
            gauge,
            version_key: HotKey::of_hall("roster", "version"),
            tenants: RwLock::default(),
            feed: Mutex::default(),
            loaded: AtomicBool::new(false),
            fetching: tokio::sync::Mutex::default(),
            asked_for: AtomicU64::new(0),
        }
    }

    pub(crate) async fn list(&self, tenant: &TenantId, query: &AgentQuery) -> Result<AgentPage> {
        self.catch_up().await?;
        let Some(tenant) = self.known_tenant(tenant) else { return Ok(AgentPage::default()) };
        Ok(tenant.list(query, self.gauge.moment()))
    }

    pub(crate) async fn get(&self, tenant: &TenantId, agent: &AgentId) -> Result<Option<Arc<Agent>>> {
        self.catch_up().await?;
        if let Some(found) = self.known(tenant, agent) {
            return Ok(Some(found));
        }
        // The hot store may have lost the version that would have told.
        self.fetch().await?;
        Ok(self.known(tenant, agent))
    }

    /// Of every tenant.
    pub(crate) async fn wanting(&self, delivery: Delivery) -> Result<Vec<Arc<Agent>>> {
        self.catch_up().await?;
        let moment = self.gauge.moment();
        Ok(self.tenants().iter().flat_map(|(_, roster)| roster.wanting(delivery, moment)).collect())
    }

    /// As far as this copy knows.
    pub(crate) fn known(&self, tenant: &TenantId, agent: &AgentId) -> Option<Arc<Agent>> {
        self.known_tenant(tenant)?.get(agent, self.gauge.moment())
    }

    pub(crate) fn known_tenant(&self, tenant: &TenantId) -> Option<Arc<TenantRoster>> {
        self.tenants.read().get(tenant).cloned()
    }

    pub(crate) fn tenants(&self) -> Vec<(TenantId, Arc<TenantRoster>)> {
        self.tenants.read().iter().map(|(id, tenant)| (id.clone(), tenant.clone())).collect()
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Takes a change that this replica has just committed, and tells the others where the order of changes is now.
    pub(crate) async fn committed(&self, change: AgentChange) {
        let version = change.version();
        {
            let mut feed = self.feed.lock();
            // Not newer than what was fetched: then it was fetched, or something newer was.
            if version > feed.seen {
                self.take(change);
                feed.ahead.insert(version);
                feed.close_ranks();
            }
        }
        self.hot.ask(|hot| hot.put_if_newer(&self.version_key, version, Bytes::new(), VERSION_KEPT)).await;
    }

    /// Fetches what others have changed, if the hot store says that there is something. Without the hot store, or
    /// without the database, the copy serves as it is.
    async fn catch_up(&self) -> Result<()> {
        if !self.is_loaded() {
            return Err(Error::unavailable(
                "agent-registry has not read its agents from the database yet; repeat in a second",
            )
            .with_retry_after(Duration::from_secs(1)));
        }
        let newest = self.hot.ask(|hot| hot.get_versioned(&self.version_key)).await.flatten();
        let newest = newest.map_or(0, |(version, _)| version);
        if newest > self.feed.lock().seen && newest > self.asked_for.load(Ordering::Relaxed) {
            match timeout(FETCH_WITHIN, self.fetch()).await {
                Ok(Ok(())) => {
                    self.asked_for.fetch_max(newest, Ordering::Relaxed);
                }
                Ok(Err(error)) => tracing::debug!(%error, "agents are shown as of a moment ago"),
                Err(_) => tracing::debug!("agents are shown as of a moment ago: the database is slow"),
            }
        }
        Ok(())
    }

    /// Reads every change that this copy has not seen.
    pub(crate) async fn fetch(&self) -> Result<()> {
        let _one_at_a_time = self.fetching.lock().await;
        loop {
            let after = self.feed.lock().seen;
            let changes = self.store.changes(after, FETCH).await?;
            let (got, mut removed) = (changes.len(), false);
            let seen = {
                let mut feed = self.feed.lock();
                for change in changes {
                    let version = change.version();
                    if version > feed.seen {
                        removed |= matches!(change, AgentChange::Gone { .. });
                        self.take(change);
                        feed.seen = version;
                    }
                }
                feed.close_ranks();
                feed.seen
            };
            if removed {
                self.tenants().iter().for_each(|(_, tenant)| tenant.forget_gone(seen));
            }
            if got < FETCH {
                self.loaded.store(true, Ordering::Release);
                return Ok(());
            }
        }
    }

    fn take(&self, change: AgentChange) {
        match change {
            AgentChange::Present(agent) => {
                self.tenant(&agent.tenant).put(agent);
            }
            AgentChange::Gone { tenant, agent_id, version } => self.tenant(&tenant).drop_out(&agent_id, version),
        }
    }

    fn tenant(&self, tenant: &TenantId) -> Arc<TenantRoster> {
        if let Some(known) = self.known_tenant(tenant) {
            return known;
        }
        self.tenants.write().entry(tenant.clone()).or_default().clone()
    }

    /// Keeps the copy fresh until `stop`. `on_hint` is called when another replica has told of a change.
    pub(crate) async fn follow(
        &self,
        bus: &dyn Bus,
        entropy: Arc<dyn Entropy>,
        on_hint: impl Fn(),
        stop: CancellationToken,
    ) {
        let mut trouble = Trouble::new("agents cannot be read from the database", entropy);
        let mut hints = None;
        loop {
            let wait = match self.fetch().await {
                Ok(()) => {
                    trouble.is_over();
                    ASK_EVERY
                }
                Err(error) => trouble.is(&error),
            };
            if hints.is_none() {
                hints = listen(bus).await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                more = self.news(&mut hints) => {
                    if more {
                        on_hint();
                    } else {
                        hints = None;
                    }
                }
            }
        }
    }

    /// Waits for hints of a change that this copy has not seen; false when no more hints come.
    async fn news(&self, hints: &mut Option<BoxStream<'static, Hint>>) -> bool {
        let Some(hints) = hints else { return std::future::pending().await };
        loop {
            let Some(first) = hints.next().await else { return false };
            let mut newest = version_of(&first);
            while let Some(Some(hint)) = hints.next().now_or_never() {
                newest = newest.max(version_of(&hint));
            }
            if newest > self.feed.lock().seen {
                return true;
            }
        }
    }
}

/// Hints of every change of a record. `None` while the bus is away: then the copy asks by itself.
async fn listen(bus: &dyn Bus) -> Option<BoxStream<'static, Hint>> {
    let subjects = [subject::JOINED, subject::CHANGED, subject::LEFT];
    let listening = futures::future::try_join_all(subjects.map(|subject| bus.hints(subject)));
    match timeout(LISTEN_WITHIN, listening).await {
        Ok(Ok(streams)) => Some(futures::stream::select_all(streams).boxed()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "hints of other replicas cannot be heard");
            None
        }
        Err(_) => None,
    }
}
