//! Whether an agent is alive: its signs of life, and how they are judged.
//!
//! A sign goes into memory and into the hot store ([`marks`]), from where the other replicas read it; the database
//! learns of it once a minute. A status is never kept, it is judged from the last sign when someone asks. One
//! replica watches the judgements and says each change once ([`watch`]).
//!
//! The hot store may be away or come back empty. Then nobody falls silent for that alone: while it is away time
//! stands still for judging ([`Gauge::freeze`]), and afterwards every status is held for a while
//! ([`Gauge::hold_until`]), long enough that everyone who is alive has given a sign again.

pub(crate) mod marks;
pub(crate) mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use guildhall_domain::{Clock, Presence, Timestamp, agent::PresenceRule};

/// How often last signs go to the database, and so how much of them a killed hall forgets.
pub(crate) const SAVE_EVERY: Duration = Duration::from_secs(60);

/// What is known of one agent's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) seen: Option<Timestamp>,
    busy: Said,
    /// What it counted as when signs were lost; good while statuses are held.
    held: Option<Presence>,
}

/// Whether an agent is busy, and when it said so: two replicas may hear it in either order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Said {
    at: Timestamp,
    busy: bool,
}

impl Said {
    pub(crate) fn new(at: Timestamp, busy: bool) -> Self {
        Self { at, busy }
    }

    /// One number that rises with time: how the hot store keeps it.
    pub(crate) fn to_mark(self) -> i64 {
        self.at.as_millis().saturating_mul(2) + i64::from(self.busy)
    }

    pub(crate) fn from_mark(mark: i64) -> Self {
        Self { at: Timestamp::from_millis(mark.div_euclid(2)), busy: mark.rem_euclid(2) == 1 }
    }
}

impl Standing {
    pub(crate) fn since(seen: Option<Timestamp>) -> Self {
        Self { seen, ..Self::default() }
    }

    /// True when this sign is newer than the last one.
    pub(crate) fn sign(&mut self, at: Timestamp) -> bool {
        let newer = self.seen.is_none_or(|seen| at > seen);
        if newer {
            self.seen = Some(at);
        }
        newer
    }

    /// True when this says something new.
    pub(crate) fn say(&mut self, said: Said) -> bool {
        let newer = said.to_mark() > self.busy.to_mark();
        if newer {
            self.busy = said;
        }
        newer
    }

    pub(crate) fn said(&self) -> Option<Said> {
        (self.busy != Said::default()).then_some(self.busy)
    }

    pub(crate) fn hold(&mut self, status: Option<Presence>) {
        self.held = status;
    }
}

/// The point in time and the rule by which standings are judged together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now: Timestamp,
    hold_until: Timestamp,
    rule: PresenceRule,
}

impl Moment {
    pub(crate) fn judge(&self, standing: &Standing) -> Presence {
        let judged = self.rule.judge(standing.seen, standing.busy.busy, self.now);
        match standing.held {
            Some(held) if self.now < self.hold_until && liveliness(held) > liveliness(judged) => held,
            _ => judged,
        }
    }

    /// When time alone will change the judgement next.
    pub(crate) fn next_change(&self, standing: &Standing) -> Option<Timestamp> {
        let seen = standing.seen?;
        let silences = [seen + self.rule.idle_after, seen + self.rule.offline_after];
        let release = standing.held.map(|_| self.hold_until);
        silences.into_iter().chain(release).filter(|at| *at > self.now).min()
    }
}

fn liveliness(status: Presence) -> u8 {
    match status {
        Presence::Active | Presence::Busy => 2,
        Presence::Idle => 1,
        Presence::Offline => 0,
    }
}

/// The clock that presence is judged by: it stands still while signs of life cannot be read.
pub(crate) struct Gauge {
    pub(crate) rule: PresenceRule,
    clock: Arc<dyn Clock>,
    frozen_at: AtomicI64,
    hold_until: AtomicI64,
}

const NOT_FROZEN: i64 = i64::MAX;

impl Gauge {
    /// Frozen until signs were read for the first time, and as early as the database may be behind.
    pub(crate) fn new(rule: PresenceRule, clock: Arc<dyn Clock>) -> Self {
        let frozen_at = AtomicI64::new((clock.now() - SAVE_EVERY).as_millis());
        Self { rule, clock, frozen_at, hold_until: AtomicI64::new(i64::MIN) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn moment(&self) -> Moment {
        self.moment_at(self.clock.now().min(Timestamp::from_millis(self.frozen_at.load(Ordering::Relaxed))))
    }

    pub(crate) fn moment_at(&self, now: Timestamp) -> Moment {
        let hold_until = Timestamp::from_millis(self.hold_until.load(Ordering::Relaxed));
        Moment { now, hold_until, rule: self.rule }
    }

    /// Time stands still at `at`, unless it does already.
    pub(crate) fn freeze(&self, at: Timestamp) {
        self.frozen_at.fetch_min(at.as_millis(), Ordering::Relaxed);
    }

    /// Since when time stands still.
    pub(crate) fn frozen_at(&self) -> Option<Timestamp> {
        let at = self.frozen_at.load(Ordering::Relaxed);
        (at != NOT_FROZEN).then(|| Timestamp::from_millis(at))
    }

    pub(crate) fn thaw(&self) {
        self.frozen_at.store(NOT_FROZEN, Ordering::Relaxed);
    }

    pub(crate) fn hold_until(&self, until: Timestamp) {
        self.hold_until.fetch_max(until.as_millis(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use guildhall_testkit::clock::FixedClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn gauge() -> (Arc<FixedClock>, Gauge) {
        let clock = Arc::new(FixedClock::default());
        let gauge = Gauge::new(PresenceRule::default(), clock.clone());
        (clock, gauge)
    }

    #[test]
    fn time_stands_still_until_signs_were_read_and_while_they_cannot_be() {
        let (clock, gauge) = gauge();
        let last_sign = clock.now() - 100 * SECOND;
        // What the database knows may be a minute old.
        assert_eq!(gauge.moment().judge(&Standing::since(Some(last_sign))), Presence::Active);
        gauge.thaw();
        assert_eq!(gauge.moment().judge(&Standing::since(Some(last_sign))), Presence::Offline);

        let alive = Standing::since(Some(clock.now()));
        gauge.freeze(clock.now());
        clock.advance(500 * SECOND);
        gauge.freeze(clock.now());
        assert_eq!(gauge.moment().judge(&alive), Presence::Active, "a hot store that is away silenced an agent");
        gauge.thaw();
        assert_eq!(gauge.moment().judge(&alive), Presence::Offline);
    }

    #[test]
    fn a_held_status_is_kept_until_the_hold_ends_and_never_hides_a_better_one() {
        let (clock, gauge) = gauge();
        gauge.thaw();
        let mut held = Standing::since(Some(clock.now() - 80 * SECOND));
        held.hold(Some(Presence::Active));
        let mut gone = Standing::since(Some(clock.now() - 300 * SECOND));
        gone.hold(Some(Presence::Offline));
        gauge.hold_until(clock.now() + 90 * SECOND);
        clock.advance(89 * SECOND);
        assert_eq!(gauge.moment().judge(&held), Presence::Active);
        assert_eq!(gauge.moment().judge(&gone), Presence::Offline);
        assert_eq!(gauge.moment().next_change(&held), Some(clock.now() + SECOND));
        gone.sign(clock.now());
        assert_eq!(gauge.moment().judge(&gone), Presence::Active);
        clock.advance(SECOND);
        assert_eq!(gauge.moment().judge(&held), Presence::Offline);
    }

    #[test]
    fn the_later_word_about_being_busy_wins_in_whatever_order_it_comes() {
        let at = |ms| Timestamp::from_millis(ms);
        let mut standing = Standing::since(Some(at(10)));
        assert!(standing.say(Said::new(at(5), true)));
        assert!(standing.say(Said::new(at(7), false)));
        assert!(!standing.say(Said::new(at(6), true)));
        let said = standing.said().unwrap();
        assert_eq!(Said::from_mark(said.to_mark()), Said::new(at(7), false));
    }

    #[test]
    fn an_older_sign_takes_nothing_back() {
        let mut standing = Standing::since(Some(Timestamp::from_millis(10)));
        assert!(!standing.sign(Timestamp::from_millis(9)) && !standing.sign(Timestamp::from_millis(10)));
        assert!(standing.sign(Timestamp::from_millis(11)));
        assert_eq!(standing.seen, Some(Timestamp::from_millis(11)));
    }
}
