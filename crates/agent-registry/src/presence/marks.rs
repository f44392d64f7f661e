//! Signs of life in the hot store: one set of marks a tenant for when an agent was last seen, one for whether it said
//! that it is busy, one for the status that was last announced.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use guildhall_domain::{
    AgentId, Error, Presence, Result, TenantId, Timestamp,
    ports::{
        Hot,
        hot::{HotKey, LeaseOutcome},
    },
};
use tokio::time::timeout;

use super::Said;
use crate::hot::Brief;

/// Marks in one command: Redis answers nobody else meanwhile, for some 5 ms.
const AT_ONCE: usize = 5_000;
/// What the background waits for one answer. Longer, and the hot store counts as away.
const WITHIN: Duration = Duration::from_secs(1);
/// Outlives every hall that is in use; when it ends all the same, statuses are held once.
const EPOCH_KEPT: Duration = Duration::from_secs(365 * 24 * 3_600);
/// How late another replica takes over from one that died. Renewed every second.
const WATCHER_LEASE: Duration = Duration::from_secs(5);

pub(crate) struct Marks {
    hot: Arc<dyn Hot>,
    brief: Arc<Brief>,
    /// A mark could not be put: what memory knows has to be put again.
    missed: AtomicBool,
}

/// The status that was last said of an agent, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    at: Timestamp,
    pub(super) status: Presence,
}

impl Announced {
    pub(super) fn new(at: Timestamp, status: Presence) -> Self {
        Self { at, status }
    }

    /// Later than the one before, whatever the clocks of two replicas say: a mark only rises.
    pub(super) fn then(self, at: Timestamp, status: Presence) -> Self {
        Self { at: at.max(self.at + Duration::from_millis(1)), status }
    }

    fn to_mark(self) -> i64 {
        let status = match self.status {
            Presence::Active => 0,
            Presence::Busy => 1,
            Presence::Idle => 2,
            Presence::Offline => 3,
        };
        self.at.as_millis().saturating_mul(4) + status
    }

    fn from_mark(mark: i64) -> Self {
        let status = match mark.rem_euclid(4) {
            0 => Presence::Active,
            1 => Presence::Busy,
            2 => Presence::Idle,
            _ => Presence::Offline,
        };
        Self { at: Timestamp::from_millis(mark.div_euclid(4)), status }
    }
}

impl Marks {
    pub(crate) fn new(hot: Arc<dyn Hot>, brief: Arc<Brief>) -> Self {
        Self { hot, brief, missed: AtomicBool::new(false) }
    }

    /// On the path of a call: what does not get through is put again by the background.
    pub(crate) async fn put_soon(&self, tenant: &TenantId, signs: &[(AgentId, Timestamp)], said: &[(AgentId, Said)]) {
        if self.brief.ask(|hot| put(hot, tenant, signs, said)).await.is_none() {
            self.missed.store(true, Ordering::Relaxed);
        }
    }

    pub(super) async fn put(
        &self,
        tenant: &TenantId,
        signs: &[(AgentId, Timestamp)],
        said: &[(AgentId, Said)],
    ) -> Result<()> {
        within(put(&*self.hot, tenant, signs, said)).await
    }

    /// Whether any mark was missed since the last time this was asked.
    pub(super) fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::Relaxed)
    }

    /// An agent that has left. Marks that stay behind are of no effect, only of some bytes.
    pub(crate) async fn forget(&self, tenant: &TenantId, agent: &AgentId) {
        let member = [agent.to_string()];
        let (seen, busy, announced) = (seen(tenant), busy(tenant), announced(tenant));
        self.brief
            .ask(|hot| {
                futures::future::try_join3(
                    hot.unmark(&seen, &member),
                    hot.unmark(&busy, &member),
                    hot.unmark(&announced, &member),
                )
            })
            .await;
    }

    /// When the marks began. A hot store that came back empty has a new beginning, `now`, the same for all replicas.
    pub(super) async fn epoch(&self, now: Timestamp) -> Result<Timestamp> {
        let key = HotKey::of_hall("presence", "epoch");
        if let Some(began) = within(self.hot.get(&key)).await? {
            return read_epoch(&began);
        }
        within(self.hot.put_if_absent(&key, now.as_millis().to_string().into(), EPOCH_KEPT)).await?;
        match within(self.hot.get(&key)).await? {
            Some(began) => read_epoch(&began),
            None => Err(Error::unavailable("the hot store forgets at once what it is given")),
        }
    }

    /// Tenants with a sign of life at or after `from`.
    pub(super) async fn tenants(&self, from: Timestamp) -> Result<Vec<TenantId>> {
        let marks = within(self.hot.marks(&tenants(), from.as_millis())).await?;
        Ok(marks.into_iter().filter_map(|(tenant, _)| TenantId::new(tenant).ok()).collect())
    }

    pub(super) async fn signs(&self, tenant: &TenantId, from: Timestamp) -> Result<Vec<(AgentId, Timestamp)>> {
        let marks = within(self.hot.marks(&seen(tenant), from.as_millis())).await?;
        Ok(of_agents(marks, Timestamp::from_millis))
    }

    pub(super) async fn said(&self, tenant: &TenantId, from: Timestamp) -> Result<Vec<(AgentId, Said)>> {
        let marks = within(self.hot.marks(&busy(tenant), Said::new(from, false).to_mark())).await?;
        Ok(of_agents(marks, Said::from_mark))
    }

    pub(super) async fn announced(&self, tenant: &TenantId) -> Result<Vec<(AgentId, Announced)>> {
        let marks = within(self.hot.marks(&announced(tenant), 0)).await?;
        Ok(of_agents(marks, Announced::from_mark))
    }

    pub(super) async fn announce(&self, tenant: &TenantId, news: &[(AgentId, Announced)]) -> Result<()> {
        let marks: Vec<_> = news.iter().map(|(agent, announced)| (agent.to_string(), announced.to_mark())).collect();
        within(self.hot.mark(&announced(tenant), &marks)).await
    }

    /// The fence of the lease to watch; `None` when someone other than `holder` has it.
    pub(super) async fn watch(&self, holder: &str) -> Result<Option<u64>> {
        match within(self.hot.lease(&watcher(), holder, WATCHER_LEASE)).await? {
            LeaseOutcome::Held { fence } => Ok(Some(fence)),
            LeaseOutcome::Taken { .. } => Ok(None),
        }
    }

    pub(super) async fn stop_watching(&self, holder: &str) -> Result<()> {
        within(self.hot.release(&watcher(), holder)).await.map(drop)
    }
}

async fn put(hot: &dyn Hot, tenant: &TenantId, signs: &[(AgentId, Timestamp)], said: &[(AgentId, Said)]) -> Result<()> {
    if let Some(newest) = signs.iter().map(|(_, at)| at.as_millis()).max() {
        let marks: Vec<_> = signs.iter().map(|(agent, at)| (agent.to_string(), at.as_millis())).collect();
        for some in marks.chunks(AT_ONCE) {
            hot.mark(&seen(tenant), some).await?;
        }
        hot.mark(&tenants(), &[(tenant.to_string(), newest)]).await?;
    }
    if !said.is_empty() {
        let marks: Vec<_> = said.iter().map(|(agent, said)| (agent.to_string(), said.to_mark())).collect();
        for some in marks.chunks(AT_ONCE) {
            hot.mark(&busy(tenant), some).await?;
        }
    }
    Ok(())
}

fn of_agents<T>(marks: Vec<(String, i64)>, read: impl Fn(i64) -> T) -> Vec<(AgentId, T)> {
    marks.into_iter().filter_map(|(agent, mark)| Some((AgentId::new(agent).ok()?, read(mark)))).collect()
}

fn read_epoch(began: &Bytes) -> Result<Timestamp> {
    let millis = std::str::from_utf8(began).ok().and_then(|text| text.parse().ok());
    millis.map(Timestamp::from_millis).ok_or_else(|| {
        Error::internal("the hot store's key presence::epoch holds what no hall has put there: remove that key")
    })
}

async fn within<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(WITHIN, answer).await.unwrap_or_else(|_| Err(Error::timeout("the hot store has not answered for 1 s")))
}

fn seen(tenant: &TenantId) -> HotKey {
    HotKey::new("presence", tenant, "seen")
}

fn busy(tenant: &TenantId) -> HotKey {
    HotKey::new("presence", tenant, "busy")
}

fn announced(tenant: &TenantId) -> HotKey {
    HotKey::new("presence", tenant, "announced")
}

fn tenants() -> HotKey {
    HotKey::of_hall("presence", "tenants")
}

fn watcher() -> HotKey {
    HotKey::of_hall("presence", "watcher")
}
