//! The hot store of a hall that is one process: maps behind locks, split so that callers seldom meet.
//!
//! Bounded by the number of entries: a key counts as one, so does each member of a set of marks. What has run out is
//! swept, shard by shard, by the writes that pass; a store that is full even so refuses what is new and says so.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use guildhall_domain::{
    Clock, Error, Result, Timestamp,
    ports::{
        Hot,
        hot::{HotKey, LeaseOutcome, Rate, Slice},
    },
};
use parking_lot::Mutex;

use crate::{
    bucket::Bucket,
    limits::{check_marks, check_rate, check_value, whole_millis},
};

/// About 200 MB of small entries. A hall with 10,000 agents needs some 50,000.
pub const ENTRIES_MAX: usize = 1_000_000;
/// More than cores by far, so that two callers seldom want the same one.
const SHARDS: usize = 64;
/// A shard looks through itself for what has run out this often, when something is written to it.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// A full store looks through all of itself at most this often, so that being full stays cheap.
const FULL_SWEEP_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Memory {
    clock: Arc<dyn Clock>,
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    entries: AtomicUsize,
    entries_max: usize,
    last_fence: AtomicU64,
    next_full_sweep_ms: AtomicI64,
}

#[derive(Default)]
struct Shard {
    values: HashMap<HotKey, Kept<Bytes>>,
    versioned: HashMap<HotKey, Kept<(u64, Bytes)>>,
    leases: HashMap<HotKey, Kept<Lease>>,
    buckets: HashMap<HotKey, Kept<Bucket>>,
    marks: HashMap<HotKey, HashMap<String, i64>>,
    /// Members of all sets of marks.
    marked: usize,
    next_sweep: Timestamp,
}

struct Kept<T> {
    it: T,
    until: Timestamp,
}

struct Lease {
    holder: String,
    fence: u64,
}

/// What an act in a shard is told: the time, and how many entries may be added.
#[derive(Clone, Copy)]
struct Now {
    time: Timestamp,
    room: usize,
}

/// The store is full: nothing was changed.
struct Full;

impl Memory {
    pub(crate) fn new(clock: Arc<dyn Clock>, entries_max: usize) -> Self {
        Self {
            clock,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            entries: AtomicUsize::new(0),
            entries_max,
            last_fence: AtomicU64::new(0),
            next_full_sweep_ms: AtomicI64::new(i64::MIN),
        }
    }

    fn shard(&self, key: &HotKey) -> &Mutex<Shard> {
        let hash = self.hasher.hash_one(key);
        &self.shards[usize::try_from(hash % SHARDS as u64).expect("less than SHARDS")]
    }

    fn read<R>(&self, key: &HotKey, look: impl FnOnce(&Shard, Timestamp) -> R) -> R {
        look(&self.shard(key).lock(), self.clock.now())
    }

    /// Runs `act` in the key's shard and keeps count of what it added. Callers of different shards may together go
    /// past the bound by one entry each.
    fn write<R>(&self, key: &HotKey, act: impl Fn(&mut Shard, Now) -> Result<R, Full>) -> Result<R> {
        match self.try_write(key, &act) {
            Ok(done) => return Ok(done),
            Err(Full) => self.sweep_all(),
        }
        self.try_write(key, &act).map_err(|Full| {
            Error::unavailable(format!(
                "the hot store in memory is full ({} entries): wait for some to run out, or use redis:// for hot.url",
                self.entries_max
            ))
        })
    }

    fn try_write<R>(&self, key: &HotKey, act: impl Fn(&mut Shard, Now) -> Result<R, Full>) -> Result<R, Full> {
        let time = self.clock.now();
        let mut shard = self.shard(key).lock();
        let before = shard.len();
        if time >= shard.next_sweep {
            shard.sweep(time);
        }
        let room = self.entries_max.saturating_sub(self.entries.load(Relaxed));
        let done = act(&mut shard, Now { time, room });
        self.count(before, shard.len());
        done
    }

    fn count(&self, before: usize, after: usize) {
        if after >= before {
            self.entries.fetch_add(after - before, Relaxed);
        } else {
            self.entries.fetch_sub(before - after, Relaxed);
        }
    }

    fn sweep_all(&self) {
        let time = self.clock.now();
        let due = self.next_full_sweep_ms.load(Relaxed);
        let next = (time + FULL_SWEEP_EVERY).as_millis();
        let mine =
            time.as_millis() >= due && self.next_full_sweep_ms.compare_exchange(due, next, Relaxed, Relaxed).is_ok();
        if mine {
            for shard in &self.shards {
                let mut shard = shard.lock();
                let before = shard.len();
                shard.sweep(time);
                self.count(before, shard.len());
            }
        }
    }

    fn next_fence(&self, now: Timestamp) -> u64 {
        let micros = u64::try_from(now.as_millis()).unwrap_or(0) * 1_000;
        let before = self
            .last_fence
            .fetch_update(Relaxed, Relaxed, |last| Some((last + 1).max(micros)))
            .expect("the update always gives a number");
        (before + 1).max(micros)
    }
}

impl Shard {
    fn len(&self) -> usize {
        self.values.len() + self.versioned.len() + self.leases.len() + self.buckets.len() + self.marked
    }

    fn sweep(&mut self, now: Timestamp) {
        self.values.retain(|_, kept| kept.until > now);
        self.versioned.retain(|_, kept| kept.until > now);
        self.leases.retain(|_, kept| kept.until > now);
        self.buckets.retain(|_, kept| kept.until > now);
        self.next_sweep = now + SWEEP_EVERY;
    }
}

fn alive<'a, T>(map: &'a HashMap<HotKey, Kept<T>>, key: &HotKey, now: Timestamp) -> Option<&'a T> {
    map.get(key).filter(|kept| kept.until > now).map(|kept| &kept.it)
}

/// Replaces what is there, alive or not; what is new needs room.
fn keep<T>(map: &mut HashMap<HotKey, Kept<T>>, key: &HotKey, it: T, until: Timestamp, room: usize) -> Result<(), Full> {
    match map.get_mut(key) {
        Some(kept) => *kept = Kept { it, until },
        None if room == 0 => return Err(Full),
        None => {
            map.insert(key.clone(), Kept { it, until });
        }
    }
    Ok(())
}

fn until(now: Timestamp, ttl: Duration) -> Timestamp {
    now + Duration::from_millis(whole_millis(ttl))
}

#[async_trait]
impl Hot for Memory {
    async fn get(&self, key: &HotKey) -> Result<Option<Bytes>> {
        Ok(self.read(key, |shard, now| alive(&shard.values, key, now).cloned()))
    }

    async fn put(&self, key: &HotKey, value: Bytes, ttl: Duration) -> Result<()> {
        check_value(&value)?;
        self.write(key, |shard, now| keep(&mut shard.values, key, value.clone(), until(now.time, ttl), now.room))
    }

    async fn put_if_absent(&self, key: &HotKey, value: Bytes, ttl: Duration) -> Result<bool> {
        check_value(&value)?;
        self.write(key, |shard, now| {
            if alive(&shard.values, key, now.time).is_some() {
                return Ok(false);
            }
            keep(&mut shard.values, key, value.clone(), until(now.time, ttl), now.room)?;
            Ok(true)
        })
    }

    async fn put_if_newer(&self, key: &HotKey, version: u64, value: Bytes, ttl: Duration) -> Result<bool> {
        check_value(&value)?;
        self.write(key, |shard, now| {
            let value = match alive(&shard.versioned, key, now.time) {
                Some((there, _)) if *there > version => return Ok(false),
                Some((there, same)) if *there == version => same.clone(),
                _ => value.clone(),
            };
            keep(&mut shard.versioned, key, (version, value), until(now.time, ttl), now.room)?;
            Ok(true)
        })
    }

    async fn get_versioned(&self, key: &HotKey) -> Result<Option<(u64, Bytes)>> {
        Ok(self.read(key, |shard, now| alive(&shard.versioned, key, now).cloned()))
    }

    async fn remove(&self, key: &HotKey) -> Result<()> {
        self.write(key, |shard, _| {
            shard.values.remove(key);
            shard.versioned.remove(key);
            Ok(())
        })
    }

    async fn lease(&self, key: &HotKey, holder: &str, ttl: Duration) -> Result<LeaseOutcome> {
        self.write(key, |shard, now| {
            let fence = match shard.leases.get(key).filter(|kept| kept.until > now.time) {
                Some(kept) if kept.it.holder == holder => kept.it.fence,
                Some(kept) => {
                    let remaining = kept.until.since(now.time);
                    return Ok(LeaseOutcome::Taken { by: kept.it.holder.clone(), remaining });
                }
                None => self.next_fence(now.time),
            };
            let lease = Lease { holder: holder.to_owned(), fence };
            keep(&mut shard.leases, key, lease, until(now.time, ttl), now.room)?;
            Ok(LeaseOutcome::Held { fence })
        })
    }

    async fn release(&self, key: &HotKey, holder: &str) -> Result<bool> {
        self.write(key, |shard, now| {
            let held = alive(&shard.leases, key, now.time).is_some_and(|lease| lease.holder == holder);
            if held {
                shard.leases.remove(key);
            }
            Ok(held)
        })
    }

    async fn take(&self, bucket: &HotKey, want: u32, rate: Rate) -> Result<Slice> {
        check_rate(rate)?;
        self.write(bucket, |shard, now| {
            let there = alive(&shard.buckets, bucket, now.time).copied();
            let mut tokens = there.unwrap_or_else(|| Bucket::full(rate, now.time));
            let slice = tokens.take(want, rate, now.time);
            keep(&mut shard.buckets, bucket, tokens, tokens.full_at(rate), now.room)?;
            Ok(slice)
        })
    }

    async fn mark(&self, set: &HotKey, marks: &[(String, i64)]) -> Result<()> {
        check_marks(marks)?;
        self.write(set, |shard, now| {
            let there = shard.marks.get(set);
            let new = marks.iter().filter(|(member, _)| there.is_none_or(|m| !m.contains_key(member))).count();
            if new > now.room {
                return Err(Full);
            }
            if marks.is_empty() {
                return Ok(());
            }
            let members = shard.marks.entry(set.clone()).or_default();
            let before = members.len();
            for (member, number) in marks {
                members.entry(member.clone()).and_modify(|there| *there = (*there).max(*number)).or_insert(*number);
            }
            shard.marked += members.len() - before;
            Ok(())
        })
    }

    async fn marks(&self, set: &HotKey, from: i64) -> Result<Vec<(String, i64)>> {
        let mut found: Vec<_> = self.read(set, |shard, _| {
            let members = shard.marks.get(set).into_iter().flatten();
            members.filter(|(_, number)| **number >= from).map(|(member, number)| (member.clone(), *number)).collect()
        });
        found.sort_by(|(a, at_a), (b, at_b)| (at_a, a).cmp(&(at_b, b)));
        Ok(found)
    }

    async fn unmark(&self, set: &HotKey, members: &[String]) -> Result<()> {
        self.write(set, |shard, _| {
            let Some(there) = shard.marks.get_mut(set) else { return Ok(()) };
            let before = there.len();
            for member in members {
                there.remove(member);
            }
            shard.marked -= before - there.len();
            if there.is_empty() {
                shard.marks.remove(set);
            }
            Ok(())
        })
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use guildhall_domain::{ErrorCode, TenantId};
    use guildhall_testkit::clock::FixedClock;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn key(name: impl std::fmt::Display) -> HotKey {
        HotKey::new("test", &TenantId::default(), name)
    }

    fn small() -> (Arc<FixedClock>, Memory) {
        let clock = Arc::new(FixedClock::default());
        (clock.clone(), Memory::new(clock, 100))
    }

    #[tokio::test]
    async fn a_full_store_refuses_what_is_new_and_still_replaces_and_removes() {
        let (_, memory) = small();
        for i in 0..100 {
            memory.put(&key(i), "a".into(), MINUTE).await.unwrap();
        }
        let refused = memory.put(&key("one more"), "a".into(), MINUTE).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Unavailable);
        assert!(refused.message.contains("full (100 entries)"), "{refused}");
        let rate = Rate { per_second: 1.0, burst: 1 };
        assert!(memory.lease(&key("lease"), "a", MINUTE).await.is_err());
        assert!(memory.take(&key("bucket"), 1, rate).await.is_err());
        assert!(memory.mark(&key("set"), &[("a".to_owned(), 1)]).await.is_err());
        memory.put(&key(7), "b".into(), MINUTE).await.unwrap();
        memory.remove(&key(7)).await.unwrap();
        memory.put(&key("one more"), "a".into(), MINUTE).await.unwrap();
    }

    #[tokio::test]
    async fn what_has_run_out_makes_room() {
        let (clock, memory) = small();
        for i in 0..100 {
            memory.put(&key(i), "a".into(), MINUTE).await.unwrap();
        }
        clock.advance(MINUTE);
        for i in 100..200 {
            memory.put(&key(i), "a".into(), MINUTE).await.unwrap();
        }
        assert_eq!(memory.entries.load(Relaxed), 100);
    }

    #[tokio::test]
    async fn writes_sweep_what_has_run_out_before_the_store_is_full() {
        let (clock, memory) = small();
        for i in 0..50 {
            memory.put(&key(i), "a".into(), MINUTE).await.unwrap();
        }
        clock.advance(MINUTE * 2);
        // The same keys fall into the same shards; releasing adds nothing.
        for i in 0..50 {
            memory.release(&key(i), "nobody").await.unwrap();
        }
        assert_eq!(memory.entries.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn every_member_of_a_set_of_marks_counts_and_is_uncounted_when_taken_away() {
        let (_, memory) = small();
        let marks: Vec<_> = (0..100).map(|i| (i.to_string(), i)).collect();
        memory.mark(&key("set"), &marks).await.unwrap();
        memory.mark(&key("set"), &marks).await.unwrap();
        assert!(memory.put(&key("a"), "a".into(), MINUTE).await.is_err());
        let members: Vec<_> = marks.into_iter().map(|(member, _)| member).collect();
        memory.unmark(&key("set"), &members).await.unwrap();
        memory.unmark(&key("set"), &members).await.unwrap();
        assert_eq!(memory.entries.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_value_is_there_until_its_last_millisecond() {
        let (clock, memory) = small();
        memory.put(&key("a"), "a".into(), MINUTE).await.unwrap();
        clock.advance(MINUTE - Duration::from_millis(1));
        assert!(memory.get(&key("a")).await.unwrap().is_some());
        clock.advance(Duration::from_millis(1));
        assert!(memory.get(&key("a")).await.unwrap().is_none());
    }
}
