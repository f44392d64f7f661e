//! Gathers the entries of acts that have no transaction of their own, such as tool calls, and writes them in batches.
//!
//! [`Recorder::record`] never waits: the entry goes into a bounded queue. The [`Flusher`] empties it every 200 ms or
//! 500 entries and keeps at it while the sink is away. What the full queue could not take is counted for each tenant
//! and recorded as an entry of its own, so that the loss is in the audit as well.
//!
//! A sink whose answer was lost is asked again: an entry may be there twice, and is missing only if it was counted.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use guildhall_domain::{
    AuditEntry, Call, Clock, Error, Principal, Result, TenantId, audit::Outcome, ports::AgentRegistry,
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{sync::mpsc, time};

/// The act under which lost entries are recorded.
pub const DROPPED: &str = "audit.dropped";

#[derive(Debug, Clone)]
pub struct RecorderOptions {
    /// The service that records, for the entries about what was lost.
    pub service: &'static str,
    /// Entries that wait at most: 10 s of 1,000 calls a second, about 5 MB.
    pub queue: usize,
    /// A batch is written when it is this large …
    pub batch: usize,
    /// … or this long after the last one.
    pub every: Duration,
    /// How long the last batches may take when the process ends.
    pub farewell: Duration,
}

impl RecorderOptions {
    pub fn new(service: &'static str) -> Self {
        Self { service, queue: 10_000, batch: 500, every: Duration::from_millis(200), farewell: Duration::from_secs(5) }
    }
}

/// Where callers leave their entries. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<AuditEntry>,
    lost: Arc<Lost>,
}

/// The other end, to be run as a task.
pub struct Flusher {
    queue: mpsc::Receiver<AuditEntry>,
    lost: Arc<Lost>,
    options: RecorderOptions,
    clock: Arc<dyn Clock>,
    /// Taken from the queue and not a batch yet.
    gathered: Vec<AuditEntry>,
    /// Batches on their way, the oldest first. Kept here until the sink has said yes.
    unwritten: VecDeque<Vec<AuditEntry>>,
    failures: u32,
}

/// Entries that could not be kept.
#[derive(Default)]
struct Lost {
    /// Since the start.
    total: AtomicU64,
    /// Of these, what is not in the audit yet.
    unsaid: Mutex<BTreeMap<TenantId, u64>>,
}

/// Tenants whose losses are counted apart; those beyond are in the total and in the log.
const TENANTS_MAX: usize = 1_024;
/// Entries about losses in one batch, so that it keeps below the port's limit of 1,000.
const SAID_AT_ONCE: usize = 100;
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_LAST: Duration = Duration::from_secs(10);

impl Lost {
    fn add(&self, tenant: &TenantId, entries: u64) {
        self.total.fetch_add(entries, Ordering::Relaxed);
        let mut unsaid = self.unsaid.lock();
        if let Some(count) = unsaid.get_mut(tenant) {
            *count += entries;
        } else if unsaid.len() < TENANTS_MAX {
            unsaid.insert(tenant.clone(), entries);
        }
    }

    fn take(&self) -> Vec<(TenantId, u64)> {
        let mut unsaid = self.unsaid.lock();
        std::iter::from_fn(|| unsaid.pop_first()).take(SAID_AT_ONCE).collect()
    }
}

impl Recorder {
    pub fn new(options: RecorderOptions, clock: Arc<dyn Clock>) -> (Self, Flusher) {
        let (sender, queue) = mpsc::channel(options.queue);
        let lost = Arc::new(Lost::default());
        let recorder = Self { queue: sender, lost: lost.clone() };
        let (gathered, unwritten) = (Vec::new(), VecDeque::new());
        (recorder, Flusher { queue, lost, options, clock, gathered, unwritten, failures: 0 })
    }

    /// Never waits. When the queue is full the entry is dropped and counted.
    pub fn record(&self, entry: AuditEntry) {
        if let Err(mpsc::error::TrySendError::Full(entry) | mpsc::error::TrySendError::Closed(entry)) =
            self.queue.try_send(entry)
        {
            self.lost.add(&entry.tenant, 1);
        }
    }

    /// Entries lost since the start, for a metric.
    pub fn lost(&self) -> u64 {
        self.lost.total.load(Ordering::Relaxed)
    }
}

/// Writes batches through the port of agent-registry.
pub fn to_registry(
    registry: Arc<dyn AgentRegistry>,
    service: &'static str,
) -> impl Fn(Vec<AuditEntry>) -> BoxFuture<'static, Result<()>> {
    let principal = Arc::new(Principal::hall(TenantId::default(), service));
    move |entries| {
        let (registry, call) = (registry.clone(), Call::new(principal.clone()));
        Box::pin(async move { registry.record_audit(&call, entries).await })
    }
}

impl Flusher {
    /// Writes until `stop`, then what is still queued, for [`RecorderOptions::farewell`] at most.
    pub async fn run<S, F>(mut self, sink: S, stop: impl Future<Output = ()>)
    where
        S: Fn(Vec<AuditEntry>) -> F,
        F: Future<Output = Result<()>>,
    {
        let stop = pin!(stop);
        tokio::select! {
            () = stop => {}
            () = self.write_while_there_are_callers(&sink) => {}
        }
        self.queue.close();
        self.failures = 0;
        let farewell = self.options.farewell;
        if time::timeout(farewell, self.write_the_rest(&sink)).await.is_err() {
            let lost = self.queue.len() + self.gathered.len() + self.unwritten.iter().map(Vec::len).sum::<usize>();
            tracing::error!(audit.lost = lost, "{lost} audit entries could not be written before the process ended");
        }
    }

    async fn write_while_there_are_callers<S, F>(&mut self, sink: &S)
    where
        S: Fn(Vec<AuditEntry>) -> F,
        F: Future<Output = Result<()>>,
    {
        loop {
            let until = time::Instant::now() + self.options.every;
            while self.gathered.len() < self.options.batch {
                let room = self.options.batch - self.gathered.len();
                match time::timeout_at(until, self.queue.recv_many(&mut self.gathered, room)).await {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            self.write_gathered(sink).await;
        }
    }

    async fn write_the_rest<S, F>(&mut self, sink: &S)
    where
        S: Fn(Vec<AuditEntry>) -> F,
        F: Future<Output = Result<()>>,
    {
        loop {
            let room = self.options.batch - self.gathered.len().min(self.options.batch);
            if room > 0 && self.queue.recv_many(&mut self.gathered, room).await == 0 {
                return self.write_gathered(sink).await;
            }
            self.write_gathered(sink).await;
        }
    }

    /// Tries until everything is written, or refused for good and counted as lost.
    async fn write_gathered<S, F>(&mut self, sink: &S)
    where
        S: Fn(Vec<AuditEntry>) -> F,
        F: Future<Output = Result<()>>,
    {
        for (tenant, entries) in self.lost.take() {
            self.gathered.push(self.about_lost(tenant, entries));
        }
        if !self.gathered.is_empty() {
            self.unwritten.push_back(std::mem::take(&mut self.gathered));
        }
        while let Some(batch) = self.unwritten.front() {
            match sink(batch.clone()).await {
                Ok(()) => {
                    self.unwritten.pop_front();
                    self.failures = 0;
                }
                Err(error) if !error.retryable && batch.len() > 1 => self.halve(),
                Err(error) => {
                    if !error.retryable {
                        self.give_up();
                    }
                    self.wait(&error).await;
                }
            }
        }
    }

    /// The first batch was refused for good. Halved until the entry that is to blame stands alone: one bad entry
    /// must not take the others along, or it would be a way to hide them.
    fn halve(&mut self) {
        let Some(mut batch) = self.unwritten.pop_front() else { return };
        let second_half = batch.split_off(batch.len() / 2);
        self.unwritten.push_front(second_half);
        self.unwritten.push_front(batch);
    }

    fn give_up(&mut self) {
        for entry in self.unwritten.pop_front().into_iter().flatten() {
            self.lost.add(&entry.tenant, 1);
        }
    }

    async fn wait(&mut self, error: &Error) {
        let pause = BACKOFF_LAST.min(BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16)));
        self.failures += 1;
        tracing::warn!(
            error = %error,
            audit.batches = self.unwritten.len(),
            "audit entries are not written yet, next try in {pause:?}: {error}"
        );
        time::sleep(pause).await;
    }

    fn about_lost(&self, tenant: TenantId, entries: u64) -> AuditEntry {
        let by = Principal::hall(tenant, self.options.service);
        AuditEntry {
            outcome: Outcome::Failed,
            ..AuditEntry::done(&by, self.clock.now(), DROPPED, "audit", json!({ "entries": entries }))
        }
    }
}
