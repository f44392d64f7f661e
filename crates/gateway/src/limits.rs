//! Rate limits per agent, shared by all replicas: the bucket is in the hot store, and each gateway takes a slice of
//! it at a time, so that most calls are judged in memory. Replicas together overshoot by at most one slice each.
//!
//! When the hot store is away each replica keeps the rate by itself: agents go on working, and N replicas let
//! through at most N times the rate for as long as that lasts.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_domain::{
    Error, Principal, Result, TenantId,
    ports::{
        Hot,
        hot::{HotKey, Rate, Slice},
    },
};
use parking_lot::Mutex;

/// A slice that was not used up by then is forgotten: its agent has gone to another replica.
const SLICE_GOOD_FOR: Duration = Duration::from_secs(1);
/// Agents with a slice here at the same time; above it the stale ones are forgotten, and failing that all, which costs one question each.
const BOUND: usize = 50_000;

type Owner = (TenantId, Arc<str>);

struct Held {
    tokens: u32,
    until: Instant,
    /// The bucket of this replica alone, used while the hot store is away.
    alone: Option<(f64, Instant)>,
}

pub(crate) struct Limits {
    hot: Arc<dyn Hot>,
    rate: Rate,
    slice: u32,
    held: Mutex<HashMap<Owner, Held>>,
}

impl Limits {
    pub(crate) fn new(hot: Arc<dyn Hot>, rate: Rate) -> Self {
        // A fifth of a burst: five questions empty a full bucket, and one replica can hoard little.
        let slice = (rate.burst / 5).max(1);
        Self { hot, rate, slice, held: Mutex::default() }
    }

    /// Lets one call pass, or says how long to wait. A caller without a name (only an open hall has them, on
    /// loopback) is nobody's agent and is not counted.
    pub(crate) async fn pass(&self, principal: &Principal) -> Result<()> {
        if principal.id.is_empty() {
            return Ok(());
        }
        let owner = (principal.tenant.clone(), principal.id.clone());
        if self.take_held(&owner) {
            return Ok(());
        }
        let bucket =
            HotKey::new("limit", &principal.tenant, format_args!("{}:{}", principal.kind.as_str(), principal.id));
        match self.hot.take(&bucket, self.slice, self.rate).await {
            Ok(Slice { granted: 0, wait }) => Err(Error::rate_limited(wait.max(Duration::from_millis(1)))),
            Ok(Slice { granted, .. }) => {
                self.keep(owner, granted - 1);
                Ok(())
            }
            Err(error) => {
                tracing::debug!(%error, "the hot store is away: this replica limits alone");
                self.pass_alone(owner)
            }
        }
    }

    fn take_held(&self, owner: &Owner) -> bool {
        let mut held = self.held.lock();
        match held.get_mut(owner) {
            Some(slice) if slice.tokens > 0 && slice.until > Instant::now() => {
                slice.tokens -= 1;
                true
            }
            _ => false,
        }
    }

    fn keep(&self, owner: Owner, tokens: u32) {
        let mut held = self.held.lock();
        if held.len() >= BOUND {
            let now = Instant::now();
            held.retain(|_, slice| slice.until > now);
            if held.len() >= BOUND {
                held.clear();
            }
        }
        held.insert(owner, Held { tokens, until: Instant::now() + SLICE_GOOD_FOR, alone: None });
    }

    fn pass_alone(&self, owner: Owner) -> Result<()> {
        let now = Instant::now();
        let mut held = self.held.lock();
        let full = f64::from(self.rate.burst);
        let slice = held.entry(owner).or_insert(Held { tokens: 0, until: now, alone: None });
        let (level, since) = slice.alone.unwrap_or((full, now));
        let level = (level + now.duration_since(since).as_secs_f64() * self.rate.per_second).min(full);
        if level >= 1.0 {
            slice.alone = Some((level - 1.0, now));
            slice.until = now + SLICE_GOOD_FOR;
            Ok(())
        } else {
            slice.alone = Some((level, now));
            Err(Error::rate_limited(Duration::from_secs_f64((1.0 - level) / self.rate.per_second)))
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_domain::PrincipalKind;
    use guildhall_testkit::clock::FixedClock;

    use super::*;

    const RATE: Rate = Rate { per_second: 10.0, burst: 20 };

    fn worker() -> Principal {
        Principal::new(TenantId::default(), PrincipalKind::Agent, "worker", ["agent"])
    }

    async fn passed(limits: &Limits, calls: u32) -> u32 {
        let mut passed = 0;
        for _ in 0..calls {
            passed += u32::from(limits.pass(&worker()).await.is_ok());
        }
        passed
    }

    #[tokio::test]
    async fn two_replicas_together_let_a_burst_pass_and_no_more() {
        // Its time stands still, so nothing is refilled.
        let hot = guildhall_hot::connect("memory:", Arc::new(FixedClock::default())).unwrap();
        let (one, other) = (Limits::new(hot.clone(), RATE), Limits::new(hot, RATE));
        let together = passed(&one, 7).await + passed(&other, 100).await + passed(&one, 100).await;
        assert_eq!(together, RATE.burst);
    }

    #[tokio::test]
    async fn an_excess_is_told_how_long_to_wait() {
        let hot = guildhall_hot::connect("memory:", Arc::new(FixedClock::default())).unwrap();
        let limits = Limits::new(hot, RATE);
        passed(&limits, RATE.burst).await;
        let error = limits.pass(&worker()).await.unwrap_err();
        assert_eq!(error.code, guildhall_domain::ErrorCode::RateLimited);
        let wait = error.retry_after.unwrap();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?} for one token at 10 a second");
    }

    #[tokio::test]
    async fn without_the_hot_store_a_replica_keeps_the_rate_by_itself() {
        // Nobody listens there: a Redis that is away.
        let hot = guildhall_hot::connect("redis://127.0.0.1:1", Arc::new(FixedClock::default())).unwrap();
        let limits = Limits::new(hot, Rate { per_second: 0.001, burst: 3 });
        assert_eq!(passed(&limits, 10).await, 3);
    }

    #[tokio::test]
    async fn agents_do_not_use_up_one_anothers_rate() {
        let hot = guildhall_hot::connect("memory:", Arc::new(FixedClock::default())).unwrap();
        let limits = Limits::new(hot, RATE);
        passed(&limits, 100).await;
        let namesake = Principal::new(TenantId::new("other").unwrap(), PrincipalKind::Agent, "worker", ["agent"]);
        assert!(limits.pass(&namesake).await.is_ok());
    }
}
