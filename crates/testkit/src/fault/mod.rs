//! Faults between a caller and a port: an answer that is lost, a delay, a call that arrives twice, a stale read.
//!
//! [`Faulty`] stands in for the port. Each of its methods is one line: [`write`] for what has an effect, [`read`] for
//! what has none. A suite that passes behind it does what a right caller does: it repeats what is idempotent and
//! waits for reads to catch up (see [`crate::contract`]).

mod bus;
mod hot;
mod mail;
mod mail_store;
mod registry;
mod store;
mod topic_store;

use std::{any::Any, collections::HashMap, fmt::Debug, sync::Arc, time::Duration};

use guildhall_domain::{Error, Result};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Stale answers kept for [`Fault::StaleRead`]; all are dropped when there would be more.
const ANSWERS_MAX: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The call is made and takes effect, the caller gets a `Timeout`.
    LostAnswer,
    Delay(Duration),
    /// The call arrives twice, the caller gets the second answer.
    Repeat,
    /// A read gives what the same read gave before; a write runs as it should.
    StaleRead,
}

/// Decides, call by call, what goes wrong. The same seed decides the same.
pub struct FaultPlan {
    dice: Mutex<StdRng>,
    answers: Mutex<HashMap<String, Box<dyn Any + Send>>>,
}

impl FaultPlan {
    /// Says its seed on standard error, which a test shows when it fails.
    pub fn seeded(seed: u64) -> Self {
        eprintln!("faults of seed {seed}");
        Self { dice: Mutex::new(StdRng::seed_from_u64(seed)), answers: Mutex::default() }
    }

    /// A plan of its own for what goes on after the call, such as a stream.
    pub(crate) fn fork(&self) -> Self {
        Self { dice: Mutex::new(StdRng::seed_from_u64(self.dice.lock().random())), answers: Mutex::default() }
    }

    /// One call in three meets a fault: often enough to hit every method, seldom enough that repeats come to an end.
    pub fn next(&self) -> Fault {
        let mut dice = self.dice.lock();
        match dice.random_range(0..12) {
            0 => Fault::LostAnswer,
            1 => Fault::Delay(Duration::from_millis(dice.random_range(1..20))),
            2 => Fault::Repeat,
            3 => Fault::StaleRead,
            _ => Fault::None,
        }
    }

    fn answer_before<T: Clone + 'static>(&self, read: &str) -> Option<T> {
        self.answers.lock().get(read).and_then(|answer| answer.downcast_ref::<T>()).cloned()
    }

    fn remember<T: Clone + Send + 'static>(&self, read: String, answer: &T) {
        let mut answers = self.answers.lock();
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        answers.insert(read, Box::new(answer.clone()));
    }
}

/// A port with faults before it.
pub struct Faulty<P: ?Sized> {
    pub(crate) inner: Arc<P>,
    pub(crate) plan: FaultPlan,
}

impl<P: ?Sized> Faulty<P> {
    pub fn new(inner: Arc<P>, plan: FaultPlan) -> Self {
        Self { inner, plan }
    }
}

/// A call that may change something.
pub async fn write<T, F: Future<Output = Result<T>>>(plan: &FaultPlan, call: impl Fn() -> F) -> Result<T> {
    match plan.next() {
        Fault::None | Fault::StaleRead => call().await,
        Fault::LostAnswer => lost(call().await),
        Fault::Delay(time) => {
            tokio::time::sleep(time).await;
            call().await
        }
        Fault::Repeat => {
            let _first = call().await;
            call().await
        }
    }
}

/// A call without effect. `key`: what is read, method and arguments.
pub async fn read<T, F>(plan: &FaultPlan, key: impl Debug, call: impl Fn() -> F) -> Result<T>
where
    T: Clone + Send + 'static,
    F: Future<Output = Result<T>>,
{
    let key = format!("{key:?}");
    let answer = match plan.next() {
        Fault::None | Fault::Repeat => call().await,
        Fault::LostAnswer => lost(call().await),
        Fault::Delay(time) => {
            tokio::time::sleep(time).await;
            call().await
        }
        Fault::StaleRead => match plan.answer_before(&key) {
            Some(stale) => return Ok(stale),
            None => call().await,
        },
    };
    if let Ok(answer) = &answer {
        plan.remember(key, answer);
    }
    answer
}

fn lost<T>(answer: Result<T>) -> Result<T> {
    drop(answer);
    Err(Error::timeout("the answer was lost on its way (a fault the test made)"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use guildhall_domain::ErrorCode;

    use super::*;

    /// Calls until every kind of outcome has been seen; the bound is far above what 12 sides need.
    #[tokio::test]
    async fn every_fault_happens_and_does_what_its_name_says() {
        let (plan, done) = (FaultPlan::seeded(7), AtomicU32::new(0));
        let (mut lost, mut repeated) = (false, false);
        for _ in 0..500 {
            let before = done.load(Ordering::SeqCst);
            let answer = write(&plan, || async { Ok(done.fetch_add(1, Ordering::SeqCst)) }).await;
            let effects = done.load(Ordering::SeqCst) - before;
            assert!(effects >= 1, "a fault kept the call from taking effect");
            lost |= answer.is_err_and(|e| e.code == ErrorCode::Timeout);
            repeated |= effects == 2;
        }
        assert!(lost && repeated);
    }

    #[tokio::test]
    async fn a_stale_read_gives_the_answer_before_and_never_that_of_another_read() {
        let (plan, now) = (FaultPlan::seeded(7), AtomicU32::new(0));
        let mut stale = false;
        for round in 0..500 {
            now.store(round, Ordering::SeqCst);
            let newest = read(&plan, "round", || async { Ok(now.load(Ordering::SeqCst)) }).await;
            stale |= newest.is_ok_and(|seen| seen < round);
            let other = read(&plan, ("other", round), || async { Ok(u32::MAX) }).await;
            assert!(other.is_err() || other == Ok(u32::MAX));
        }
        assert!(stale);
    }
}
