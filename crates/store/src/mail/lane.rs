//! A lane: calls of one kind, of many callers at once, done together in one transaction.
//!
//! A group is taken from what waits only once its transaction has begun: while one is under way the next gathers, and
//! it holds all that has come until it is its turn. The more comes, the larger the groups, and the less each call pays
//! of what a transaction costs.
//!
//! A group is first done on the assumption that nothing speaks against its calls. Where something does it is undone, and
//! done with care; where it fails even so, each of its calls is done alone. For some groups after one that had to be
//! done again, or in which a call was refused, care is taken from the start.

use std::{
    collections::VecDeque,
    mem,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use guildhall_domain::{Error, ErrorCode, Result};
use parking_lot::Mutex;
use sqlx::Database;
use tokio::sync::{Semaphore, oneshot};

use crate::{audit::Scribe, disk::Until, failure::Failure, writer::Writer};

/// What a group may weigh: beyond this the commit's share of each call is nothing any more, only the wait grows.
pub(crate) const GROUP_WEIGHT: usize = 512;
/// What may wait: some seconds of work. More is refused, for it would time out anyway.
const WAITING_WEIGHT: usize = 16 * GROUP_WEIGHT;
/// Groups that are done with care after one that needed it.
const WARY_GROUPS: usize = 16;

/// How a group is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// As if nothing spoke against it; `Raced` when something does.
    Little,
    /// After a look at all that may.
    Full,
}

/// A call that can be done together with others of its kind.
pub(crate) trait Call<C>: Sized + Send + Sync + 'static {
    type Answer: Send + 'static;
    /// What its caller waits for.
    const UNTIL: Until = Until::Kept;

    /// What it adds to a group.
    fn weight(&self) -> usize {
        1
    }

    /// Does all of them as if one came after the other, with few statements. An inner error is of one call, which
    /// then has written nothing; the outer one is of the group, of which then nothing stands.
    fn run_all<'a>(
        tables: &'a mut C,
        scribe: &'a Scribe,
        calls: &'a [Self],
        care: Care,
    ) -> impl Future<Output = Result<Vec<Result<Self::Answer>>, Failure>> + Send + 'a;
}

type Caller<A> = oneshot::Sender<Result<A>>;

struct Waiting<K, A> {
    calls: VecDeque<(K, Caller<A>)>,
    weight: usize,
    /// A group has been ordered, and has not been taken yet.
    ordered: bool,
    closed: bool,
}

struct Group<K, A> {
    calls: Arc<Vec<K>>,
    callers: Vec<Caller<A>>,
}

/// The group that a transaction has taken, once it has begun.
type Taken<K, A> = Arc<Mutex<Option<Group<K, A>>>>;

struct Inner<DB: Database, K: Call<DB::Connection>> {
    waiting: Mutex<Waiting<K, K::Answer>>,
    underway: Semaphore,
    at_once: u32,
    /// Groups that are still done with care.
    wary: AtomicUsize,
    writer: Arc<Writer<DB>>,
    scribe: Arc<Scribe>,
}

pub(crate) struct Lane<DB: Database, K: Call<DB::Connection>>(Arc<Inner<DB, K>>);

impl<DB: Database, K: Call<DB::Connection>> Lane<DB, K> {
    /// `at_once`: groups under way at once.
    pub(crate) fn new(writer: &Arc<Writer<DB>>, scribe: &Arc<Scribe>, at_once: u32) -> Self {
        let waiting = Waiting { calls: VecDeque::new(), weight: 0, ordered: false, closed: false };
        Self(Arc::new(Inner {
            waiting: Mutex::new(waiting),
            underway: Semaphore::new(at_once as usize),
            at_once,
            wary: AtomicUsize::new(0),
            writer: Arc::clone(writer),
            scribe: Arc::clone(scribe),
        }))
    }

    /// A call whose caller goes away before its group is taken is not begun.
    pub(crate) async fn push(&self, call: K) -> Result<K::Answer> {
        let (caller, answer) = oneshot::channel();
        let order = self.0.waiting.lock().add(call, caller)?;
        if order {
            tokio::spawn(Arc::clone(&self.0).run_group());
        }
        answer.await.unwrap_or_else(|_| {
            Err(Error::timeout("the database's writer failed on this call; whether it took effect is not known"))
        })
    }

    /// Does what waits, then ends. Later calls are refused.
    pub(crate) async fn close(&self) {
        self.0.waiting.lock().closed = true;
        loop {
            let _all = self.0.underway.acquire_many(self.0.at_once).await;
            if !self.0.waiting.lock().ordered {
                return;
            }
        }
    }
}

impl<K, A> Waiting<K, A> {
    /// True when a group is to be ordered.
    fn add<C>(&mut self, call: K, caller: Caller<A>) -> Result<bool>
    where
        K: Call<C, Answer = A>,
    {
        if self.closed {
            return Err(Error::unavailable("the hall is shutting down; repeat the call later"));
        }
        let weight = call.weight();
        // Whatever it weighs, one call alone is taken.
        if self.weight > 0 && self.weight + weight > WAITING_WEIGHT {
            return Err(Error::unavailable(format!(
                "{} calls wait for the database already; nothing was changed, repeat the call later",
                self.calls.len()
            )));
        }
        self.weight += weight;
        self.calls.push_back((call, caller));
        Ok(!mem::replace(&mut self.ordered, true))
    }

    /// The next group, and whether another is to be ordered.
    fn take<C>(&mut self) -> (Group<K, A>, bool)
    where
        K: Call<C, Answer = A>,
    {
        let (mut calls, mut callers, mut taken) = (Vec::new(), Vec::new(), 0);
        while let Some((next, _)) = self.calls.front() {
            let weight = next.weight();
            if taken > 0 && taken + weight > GROUP_WEIGHT {
                break;
            }
            let Some((call, caller)) = self.calls.pop_front() else { break };
            self.weight -= weight;
            if !caller.is_closed() {
                taken += weight;
                calls.push(call);
                callers.push(caller);
            }
        }
        self.ordered = !self.calls.is_empty();
        (Group { calls: Arc::new(calls), callers }, self.ordered)
    }
}

impl<DB: Database, K: Call<DB::Connection>> Inner<DB, K> {
    fn take(self: &Arc<Self>) -> Group<K, K::Answer> {
        let (group, more) = self.waiting.lock().take();
        if more {
            tokio::spawn(Arc::clone(self).run_group());
        }
        group
    }

    async fn run_group(self: Arc<Self>) {
        let _place = self.underway.acquire().await;
        let taken: Taken<K, K::Answer> = Arc::default();
        let (lane, keep) = (Arc::clone(&self), Arc::clone(&taken));
        let care = self.care();
        let (done, raced) = self
            .run(care, move || {
                let group = lane.take();
                let calls = Arc::clone(&group.calls);
                *keep.lock() = Some(group);
                (0..calls.len(), calls)
            })
            .await;
        // A transaction that could not begin has taken none.
        let group = taken.lock().take();
        let Group { calls, callers } = group.unwrap_or_else(|| self.take());
        let again = match &done {
            Err(_) if raced => true,
            // The engine refuses something: with care that is known beforehand, or it is known of whom.
            Err(error) => error.code == ErrorCode::Internal && (care == Care::Little || calls.len() > 1),
            Ok(_) => false,
        };
        if !again {
            return self.answer(callers, done);
        }
        self.be_wary();
        if care == Care::Little {
            let all = Arc::clone(&calls);
            let (done, _) = self.run(Care::Full, move || (0..all.len(), all)).await;
            if done.is_ok() {
                return self.answer(callers, done);
            }
        }
        self.run_each(calls, callers).await;
    }

    /// Whether another transaction, or what care would have seen, has undone it, is said beside the answers.
    async fn run(
        &self,
        care: Care,
        calls: impl FnOnce() -> (Range<usize>, Arc<Vec<K>>) + Send + 'static,
    ) -> (Result<Vec<Result<K::Answer>>>, bool) {
        let raced = Arc::new(AtomicBool::new(false));
        let (scribe, lost) = (Arc::clone(&self.scribe), Arc::clone(&raced));
        let done = self.writer.write_apart_until(K::UNTIL, move |tables| {
            Box::pin(async move {
                let (which, calls) = calls();
                let calls = &calls[which];
                if calls.is_empty() {
                    return Ok(Vec::new());
                }
                let answers = K::run_all(tables, &scribe, calls, care).await;
                lost.store(answers.as_ref().is_err_and(Failure::is_race), Ordering::Relaxed);
                answers
            })
        });
        (done.await, raced.load(Ordering::Relaxed))
    }

    fn answer(&self, callers: Vec<Caller<K::Answer>>, done: Result<Vec<Result<K::Answer>>>) {
        match done {
            Ok(answers) => {
                if answers.iter().any(Result::is_err) {
                    self.be_wary();
                }
                callers.into_iter().zip(answers).for_each(|(caller, answer)| drop(caller.send(answer)));
            }
            Err(error) => callers.into_iter().for_each(|caller| drop(caller.send(Err(error.clone())))),
        }
    }

    /// The group met what the engine refuses or what another process did at the same moment, and all of it was undone:
    /// done alone, only that one can fail.
    async fn run_each(&self, calls: Arc<Vec<K>>, callers: Vec<Caller<K::Answer>>) {
        for (n, caller) in callers.into_iter().enumerate() {
            let calls = Arc::clone(&calls);
            let (done, _) = self.run(Care::Full, move || (n..n + 1, calls)).await;
            let answer = done.and_then(|mut answers| answers.pop().expect("each call is answered"));
            let _ = caller.send(answer);
        }
    }

    fn care(&self) -> Care {
        let wary = self.wary.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |groups| groups.checked_sub(1));
        if wary.is_ok() { Care::Full } else { Care::Little }
    }

    fn be_wary(&self) {
        self.wary.store(WARY_GROUPS, Ordering::Relaxed);
    }
}
