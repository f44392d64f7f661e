//! Visits to receivers: one at a time to each, some at once in all.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use guildhall_domain::{
    Agent, Clock, Result, Timestamp,
    mail::{
        Delivered,
        delivery::{NACK_DELAY_MAX, Settling, TakeMail, Verdict, backoff},
    },
    ports::Mail,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Key, hall, key,
    post::{NotTaken, POST_WITHIN, Posted, Postman},
};

/// Receivers visited at once. Each visit holds a connection and at most 3 MiB of messages, so 200 MB in the worst case.
/// A visit brings what one taking gave, and who has more waits in line again: however slow these are and however much
/// they have, none of them keeps the others waiting for longer than [`TAKE`] times [`POST_WITHIN`].
const AT_ONCE: usize = 64;
/// Taken at a time: few, so that little is held from a replica that could bring it sooner.
const TAKE: usize = 10;
/// Enough to post all that was taken to a receiver that uses all its time.
const LEASE: Duration = Duration::from_secs(TAKE as u64 * POST_WITHIN.as_secs() + 20);
const TAKER: &str = "webhook";
/// A receiver that comes back gets its mail within this, unless it asked for more.
const REST_MAX: Duration = Duration::from_secs(60);

/// What each visit needs.
pub(super) struct Visit {
    pub(super) mail: Arc<dyn Mail>,
    pub(super) postman: Postman,
    pub(super) stop: CancellationToken,
}

/// How a visit went.
enum Ended {
    /// All that there was to bring has been brought.
    Done,
    /// What was taken has been brought; there may be more.
    More,
    /// The receiver does not take mail for now; it may have said for how long.
    Trouble(Option<Duration>),
}

impl Visit {
    async fn pay(&self, to: &Agent) -> Result<Ended> {
        if self.stop.is_cancelled() {
            return Ok(Ended::Done);
        }
        let take = TakeMail { limit: TAKE, wait: Duration::ZERO, taker: TAKER.to_owned(), lease: LEASE, told: false };
        let taken = self.mail.take(&hall(&to.tenant), &to.agent_id, take).await?;
        if taken.is_empty() {
            return Ok(Ended::Done);
        }
        self.bring(to, taken).await
    }

    /// One after the other. The first that is not taken ends it: with it went back what its sender sent later.
    async fn bring(&self, to: &Agent, taken: Vec<Delivered>) -> Result<Ended> {
        let mut taken = taken.into_iter();
        while let Some(one) = taken.next() {
            let posted = tokio::select! {
                posted = self.postman.post(to, &one.message) => posted,
                () = self.stop.cancelled() => {
                    self.settle(to, [one].into_iter().chain(taken).map(|one| (one, Verdict::Return))).await?;
                    return Ok(Ended::Done);
                }
            };
            metrics::counter!("guildhall_webhooks_total", "result" => posted.as_str()).increment(1);
            let (verdict, not_taken) = match posted {
                Posted::Taken => (Verdict::Ack, None),
                Posted::Gone { reason } => (Verdict::Refuse { reason }, None),
                Posted::NotTaken(NotTaken { reason, retry_after, is_trouble }) => {
                    let longer = retry_after.filter(|wait| *wait > backoff(one.attempt));
                    let delay = longer.map(|wait| wait.min(NACK_DELAY_MAX));
                    let ended = if is_trouble { Ended::Trouble(delay) } else { Ended::More };
                    (Verdict::Nack { delay, reason: Some(reason) }, Some(ended))
                }
            };
            self.settle(to, [(one, verdict)]).await?;
            if let Some(ended) = not_taken {
                self.settle(to, taken.map(|one| (one, Verdict::Return))).await?;
                return Ok(ended);
            }
        }
        Ok(Ended::More)
    }

    async fn settle(&self, of: &Agent, said: impl IntoIterator<Item = (Delivered, Verdict)>) -> Result<()> {
        let settling = |(one, verdict): (Delivered, Verdict)| Settling {
            message_id: one.message.message_id,
            lease: one.lease,
            verdict,
        };
        let settlings: Vec<_> = said.into_iter().map(settling).collect();
        if settlings.is_empty() {
            return Ok(());
        }
        for settled in self.mail.settle(&hall(&of.tenant), &of.agent_id, settlings).await? {
            if let Err(error) = settled {
                tracing::debug!(%error, agent.id = %of.agent_id, "a message brought to {} is settled already", of.agent_id);
            }
        }
        Ok(())
    }
}

/// A receiver that is left alone for a while.
#[derive(Default)]
struct Rest {
    /// Visits in a row that ended in trouble.
    troubles: u32,
    until: Timestamp,
}

/// Bounded by the number of agents that want webhooks: each is here once at most.
pub(super) struct Visits {
    visit: Arc<Visit>,
    clock: Arc<dyn Clock>,
    running: JoinSet<(Arc<Agent>, Ended)>,
    visited: HashSet<Key>,
    /// Something came for them while they were visited.
    again: HashMap<Key, Arc<Agent>>,
    queue: VecDeque<Arc<Agent>>,
    queued: HashSet<Key>,
    rests: HashMap<Key, Rest>,
}

impl Visits {
    pub(super) fn new(visit: Arc<Visit>, clock: Arc<dyn Clock>) -> Self {
        Self {
            visit,
            clock,
            running: JoinSet::new(),
            visited: HashSet::new(),
            again: HashMap::new(),
            queue: VecDeque::new(),
            queued: HashSet::new(),
            rests: HashMap::new(),
        }
    }

    /// Visits the agent soon, unless it is to be left alone.
    pub(super) fn pay(&mut self, to: &Arc<Agent>) {
        let key = key(to);
        if self.rests.get(&key).is_some_and(|rest| self.clock.now() < rest.until) {
            return;
        }
        if self.visited.contains(&key) {
            self.again.insert(key, to.clone());
        } else if self.queued.insert(key) {
            self.queue.push_back(to.clone());
            self.begin();
        }
    }

    fn begin(&mut self) {
        while self.running.len() < AT_ONCE
            && let Some(to) = self.queue.pop_front()
        {
            let key = key(&to);
            self.queued.remove(&key);
            self.visited.insert(key);
            let visit = self.visit.clone();
            self.running.spawn(async move {
                let paid = AssertUnwindSafe(visit.pay(&to)).catch_unwind().await;
                let ended = match paid {
                    Ok(Ok(ended)) => ended,
                    Ok(Err(error)) => {
                        tracing::warn!(%error, agent.id = %to.agent_id, "mail is not brought to {} for now", to.agent_id);
                        Ended::Trouble(None)
                    }
                    // The panic hook has said what it was.
                    Err(_panic) => Ended::Trouble(None),
                };
                (to, ended)
            });
        }
    }

    /// Waits until a visit ends, and begins the next. Never ready while there is none.
    pub(super) async fn one_ends(&mut self) {
        let Some(ended) = self.running.join_next().await else { return std::future::pending().await };
        let (visited, ended) = ended.expect("a visit is neither cut short nor panics through");
        let key = key(&visited);
        self.visited.remove(&key);
        let again = self.again.remove(&key);
        match ended {
            Ended::Done | Ended::More => {
                self.rests.remove(&key);
                let more = matches!(ended, Ended::More).then_some(visited);
                if let Some(to) = again.or(more) {
                    self.pay(&to);
                }
            }
            Ended::Trouble(asked) => {
                let rest = self.rests.entry(key).or_default();
                rest.troubles = rest.troubles.saturating_add(1);
                rest.until = self.clock.now() + asked.unwrap_or_default().max(backoff(rest.troubles).min(REST_MAX));
            }
        }
        self.begin();
    }

    /// Keeps account of these alone.
    pub(super) fn forget_others(&mut self, known: impl Fn(&Key) -> bool) {
        self.rests.retain(|key, _| known(key));
        self.again.retain(|key, _| known(key));
    }

    /// Every visit gives back what it has not brought.
    pub(super) async fn end(mut self) {
        while self.running.join_next().await.is_some() {}
    }
}
