//! What every hot store must do. An engine's crate stamps it with [`crate::hot_contract`].

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::{any::Any, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use guildhall_domain::{
    ErrorCode, TenantId,
    ports::{
        Hot,
        hot::{HotKey, LeaseOutcome, Rate},
    },
};

use super::{Time, eventually, insist};
use crate::fault::{FaultPlan, Faulty};

/// Far longer than any test takes, however slow the machine.
const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(50);
/// Callers at once where they may get in each other's way.
const CROWD: usize = 32;

/// A store under test, and how time passes for it.
pub struct Stage {
    pub hot: Arc<dyn Hot>,
    pub time: Time,
    /// What must live as long as the test, such as the engine's process.
    pub engine: Box<dyn Any + Send + Sync>,
}

impl Stage {
    /// The same store, with faults between it and whoever calls.
    pub fn behind_faults(self, seed: u64) -> Self {
        Self { hot: Arc::new(Faulty::new(self.hot, FaultPlan::seeded(seed))), ..self }
    }
}

/// Stamps the whole suite for one engine, bare and behind faults. `$stage` names an async function that gives
/// `Option<Stage>`, `None` when the run goes without that engine.
#[macro_export]
macro_rules! hot_contract {
    ($engine:ident, $stage:path) => {
        $crate::hot_contract! {
            @stamp $engine, $stage,
            a_value_is_gone_when_its_time_has_run_out
            any_bytes_come_back_as_they_went_in
            put_if_absent_keeps_what_is_there_whoever_comes_next
            put_if_newer_never_goes_back_to_an_older_version
            versions_count_exactly_up_to_the_last
            remove_takes_values_away_and_nothing_else
            a_lease_has_one_holder_among_many_who_ask
            a_lease_is_renewed_by_its_holder_under_the_same_fence
            a_lease_is_given_back_by_its_holder_only
            a_fence_rises_with_every_new_grant
            a_bucket_never_gives_more_than_its_rate_and_burst
            a_bucket_made_smaller_holds_no_more_than_its_new_burst
            an_empty_bucket_says_how_long_to_wait_and_then_gives
            marks_only_rise
            marks_are_found_by_number_and_can_be_taken_away
            names_of_one_tenant_never_meet_those_of_another
            one_key_names_a_thing_of_each_kind_and_they_do_not_meet
            what_an_engine_cannot_hold_is_refused
            ping_says_that_the_engine_answers
        }
    };
    (@stamp $engine:ident, $stage:path, $($test:ident)*) => {
        mod $engine {
            mod bare {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::hot::$test(&stage).await;
                })*
            }

            mod behind_faults {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::hot::$test(&stage.behind_faults(2)).await;
                })*
            }
        }
    };
}

fn key(name: &str) -> HotKey {
    HotKey::new("test", &TenantId::default(), name)
}

async fn value_becomes(hot: &Arc<dyn Hot>, key: &HotKey, wanted: Option<&'static [u8]>) {
    let what = format!("the value of {} is {wanted:?}", key.as_str());
    eventually(&what, || async { Ok((hot.get(key).await?.as_deref() == wanted).then_some(())) }).await;
}

async fn version_becomes(hot: &Arc<dyn Hot>, key: &HotKey, wanted: Option<(u64, Bytes)>) {
    let what = format!("the version of {} is {wanted:?}", key.as_str());
    eventually(&what, || async { Ok((hot.get_versioned(key).await? == wanted).then_some(())) }).await;
}

async fn marks_become(hot: &Arc<dyn Hot>, set: &HotKey, from: i64, wanted: &[(&str, i64)]) {
    let wanted: Vec<(String, i64)> = wanted.iter().map(|(member, number)| ((*member).to_owned(), *number)).collect();
    let what = format!("the marks of {} from {from} are {wanted:?}", set.as_str());
    eventually(&what, || async { Ok((hot.marks(set, from).await? == wanted).then_some(())) }).await;
}

async fn lease(hot: &Arc<dyn Hot>, key: &HotKey, holder: &str, ttl: Duration) -> LeaseOutcome {
    insist(|| hot.lease(key, holder, ttl)).await.unwrap()
}

async fn held(hot: &Arc<dyn Hot>, key: &HotKey, holder: &str, ttl: Duration) -> u64 {
    match lease(hot, key, holder, ttl).await {
        LeaseOutcome::Held { fence } => fence,
        taken @ LeaseOutcome::Taken { .. } => panic!("{holder} did not get {}: {taken:?}", key.as_str()),
    }
}

pub async fn a_value_is_gone_when_its_time_has_run_out(stage: &Stage) {
    let hot = &stage.hot;
    let (lasting, passing) = (key("lasting"), key("passing"));
    insist(|| hot.put(&lasting, "a".into(), LONG)).await.unwrap();
    insist(|| hot.put(&passing, "b".into(), SHORT)).await.unwrap();
    insist(|| hot.put_if_newer(&passing, 1, "c".into(), SHORT)).await.unwrap();
    stage.time.pass(SHORT * 2).await;
    value_becomes(hot, &lasting, Some(b"a")).await;
    value_becomes(hot, &passing, None).await;
    version_becomes(hot, &passing, None).await;
    // What has run out counts as absent, and its version as none.
    insist(|| hot.put_if_absent(&passing, "d".into(), LONG)).await.unwrap();
    value_becomes(hot, &passing, Some(b"d")).await;
    insist(|| hot.put_if_newer(&passing, 0, "e".into(), LONG)).await.unwrap();
    version_becomes(hot, &passing, Some((0, "e".into()))).await;
}

pub async fn any_bytes_come_back_as_they_went_in(stage: &Stage) {
    const ALL: &[u8] = b"\0\xff\xfe\r\n$-1\r\n\x80";
    let hot = &stage.hot;
    insist(async || hot.put(&key("all"), Bytes::from_static(ALL), LONG).await).await.unwrap();
    insist(async || hot.put(&key("none"), Bytes::new(), LONG).await).await.unwrap();
    insist(async || hot.put_if_newer(&key("all"), 3, Bytes::from_static(ALL), LONG).await).await.unwrap();
    value_becomes(hot, &key("all"), Some(ALL)).await;
    value_becomes(hot, &key("none"), Some(b"")).await;
    version_becomes(hot, &key("all"), Some((3, Bytes::from_static(ALL)))).await;
}

pub async fn put_if_absent_keeps_what_is_there_whoever_comes_next(stage: &Stage) {
    let hot = &stage.hot;
    let contested = key("contested");
    let puts = (0..CROWD).map(|i| {
        let (contested, value) = (&contested, Bytes::from(i.to_string()));
        async move { insist(|| hot.put_if_absent(contested, value.clone(), LONG)).await.unwrap().then_some(value) }
    });
    let winners: Vec<Bytes> = join_all(puts).await.into_iter().flatten().collect();
    // The answer that would have said so may have been lost, so that nobody knows of having won.
    assert!(winners.len() <= 1, "{} were told that theirs was put", winners.len());
    let there = eventually("somebody's value is there", || hot.get(&contested)).await;
    assert!(winners.iter().all(|winner| *winner == there), "{winners:?} was told yes, {there:?} is there");
    assert!(!insist(|| hot.put_if_absent(&contested, "late".into(), LONG)).await.unwrap());
    assert_eq!(eventually("it is still there", || hot.get(&contested)).await, there);
}

pub async fn put_if_newer_never_goes_back_to_an_older_version(stage: &Stage) {
    let hot = &stage.hot;
    let task = key("task");
    assert!(insist(|| hot.put_if_newer(&task, 5, "five".into(), LONG)).await.unwrap());
    assert!(!insist(|| hot.put_if_newer(&task, 3, "three".into(), LONG)).await.unwrap(), "3 was kept over 5");
    version_becomes(hot, &task, Some((5, "five".into()))).await;
    assert!(insist(|| hot.put_if_newer(&task, 5, "other".into(), LONG)).await.unwrap(), "5 is there already");
    version_becomes(hot, &task, Some((5, "five".into()))).await;
    let puts = (6..6 + CROWD as u64).rev().map(|version| {
        let task = &task;
        async move { insist(|| hot.put_if_newer(task, version, version.to_string().into(), LONG)).await.unwrap() }
    });
    join_all(puts).await;
    let last = 5 + CROWD as u64;
    version_becomes(hot, &task, Some((last, last.to_string().into()))).await;
}

pub async fn versions_count_exactly_up_to_the_last(stage: &Stage) {
    let hot = &stage.hot;
    for (name, version) in [("two digits", 10), ("past a double", 1 << 53), ("the last", u64::MAX)] {
        let task = key(name);
        assert!(insist(|| hot.put_if_newer(&task, version - 1, "before".into(), LONG)).await.unwrap());
        assert!(insist(|| hot.put_if_newer(&task, version, "after".into(), LONG)).await.unwrap());
        assert!(!insist(|| hot.put_if_newer(&task, version - 1, "before".into(), LONG)).await.unwrap(), "{name}");
        version_becomes(hot, &task, Some((version, "after".into()))).await;
    }
}

pub async fn remove_takes_values_away_and_nothing_else(stage: &Stage) {
    let hot = &stage.hot;
    let thing = key("thing");
    insist(|| hot.put(&thing, "a".into(), LONG)).await.unwrap();
    insist(|| hot.put_if_newer(&thing, 9, "b".into(), LONG)).await.unwrap();
    insist(async || hot.put(&key("other"), "c".into(), LONG).await).await.unwrap();
    held(hot, &thing, "holder", LONG).await;
    insist(|| hot.remove(&thing)).await.unwrap();
    value_becomes(hot, &thing, None).await;
    version_becomes(hot, &thing, None).await;
    value_becomes(hot, &key("other"), Some(b"c")).await;
    assert!(matches!(lease(hot, &thing, "someone", LONG).await, LeaseOutcome::Taken { .. }), "the lease went too");
    insist(async || hot.remove(&key("never there")).await).await.unwrap();
}

pub async fn a_lease_has_one_holder_among_many_who_ask(stage: &Stage) {
    let hot = &stage.hot;
    let sealer = key("sealer");
    let asked = (0..CROWD).map(|i| {
        let sealer = &sealer;
        async move { lease(hot, sealer, &format!("replica {i}"), LONG).await }
    });
    let answers = join_all(asked).await;
    let holders = answers.iter().filter(|answer| matches!(answer, LeaseOutcome::Held { .. })).count();
    assert_eq!(holders, 1, "of {CROWD} who asked");
}

pub async fn a_lease_is_renewed_by_its_holder_under_the_same_fence(stage: &Stage) {
    let hot = &stage.hot;
    let sealer = key("sealer");
    let first = held(hot, &sealer, "a:1\n\0ä", LONG).await;
    assert_eq!(held(hot, &sealer, "a:1\n\0ä", LONG * 2).await, first);
    match lease(hot, &sealer, "b", LONG).await {
        LeaseOutcome::Taken { by, remaining } => {
            assert_eq!(by, "a:1\n\0ä");
            assert!(remaining > LONG && remaining <= LONG * 2, "{remaining:?} remain of a lease renewed for two hours");
        }
        held @ LeaseOutcome::Held { .. } => panic!("b has it as well: {held:?}"),
    }
}

pub async fn a_lease_is_given_back_by_its_holder_only(stage: &Stage) {
    let hot = &stage.hot;
    let sealer = key("sealer");
    held(hot, &sealer, "a", LONG).await;
    assert!(!insist(|| hot.release(&sealer, "b")).await.unwrap(), "b gave back what a has");
    assert!(matches!(lease(hot, &sealer, "b", LONG).await, LeaseOutcome::Taken { .. }));
    // The first answer may have been lost; then the second says that a has it no more.
    insist(|| hot.release(&sealer, "a")).await.unwrap();
    held(hot, &sealer, "b", LONG).await;
    assert!(!insist(|| hot.release(&sealer, "a")).await.unwrap(), "a gave back what b has");
}

pub async fn a_fence_rises_with_every_new_grant(stage: &Stage) {
    let hot = &stage.hot;
    let lock = key("lock");
    let mut last = 0;
    for (holder, how_it_ends) in
        [("a", "runs out"), ("a", "runs out"), ("b", "given back"), ("b", "given back"), ("a", "")]
    {
        let ttl = if how_it_ends == "runs out" { SHORT } else { LONG };
        let fence = held(hot, &lock, holder, ttl).await;
        assert!(fence > last, "the fence of {holder} is {fence}, the one before was {last}");
        last = fence;
        if how_it_ends == "runs out" {
            stage.time.pass(SHORT * 2).await;
        } else {
            insist(|| hot.release(&lock, holder)).await.unwrap();
        }
    }
}

pub async fn a_bucket_never_gives_more_than_its_rate_and_burst(stage: &Stage) {
    let hot = &stage.hot;
    let bucket = key("calls");
    let rate = Rate { per_second: 200.0, burst: 20 };
    let start = stage.time.now();
    let takers = (0..CROWD).map(|_| {
        let bucket = &bucket;
        async move {
            let mut taken = 0;
            for _ in 0..10 {
                // A lost answer may have taken tokens that nobody has: fewer then, never more.
                taken += hot.take(bucket, 3, rate).await.map_or(0, |slice| slice.granted);
                tokio::task::yield_now().await;
            }
            taken
        }
    });
    let ticks = async {
        for _ in 0..100 {
            stage.time.pass(Duration::from_millis(1)).await;
            tokio::task::yield_now().await;
        }
    };
    let (taken, ()) = tokio::join!(join_all(takers), ticks);
    let taken: u32 = taken.into_iter().sum();
    let most = f64::from(rate.burst) + rate.per_second * (stage.time.now() - start).as_secs_f64();
    assert!(f64::from(taken) <= most, "{taken} were given, {most} is the most");
    assert!(taken > 0);
}

pub async fn a_bucket_made_smaller_holds_no_more_than_its_new_burst(stage: &Stage) {
    let hot = &stage.hot;
    let bucket = key("calls");
    let (large, small) = (Rate { per_second: 0.01, burst: 100 }, Rate { per_second: 0.01, burst: 5 });
    insist(|| hot.take(&bucket, 1, large)).await.unwrap();
    let slice = insist(|| hot.take(&bucket, 100, small)).await.unwrap();
    assert!(slice.granted <= 5, "{slice:?}");
}

pub async fn an_empty_bucket_says_how_long_to_wait_and_then_gives(stage: &Stage) {
    let hot = &stage.hot;
    // So slow that it does not refill while the test runs.
    let slow = Rate { per_second: 0.01, burst: 5 };
    let first = hot.take(&key("slow"), 50, slow).await;
    assert!(first.is_err() || first.is_ok_and(|slice| slice.granted <= 5));
    let empty = insist(async || hot.take(&key("slow"), 50, slow).await).await.unwrap();
    assert!(empty.granted == 0 && empty.wait > LONG / 60 && empty.wait <= Duration::from_secs(100), "{empty:?}");

    let quick = Rate { per_second: 50.0, burst: 5 };
    eventually("a bucket of 5 is full again", || async {
        let slice = hot.take(&key("quick"), 5, quick).await?;
        stage.time.pass(Duration::from_millis(100)).await;
        Ok((slice.granted == 5).then_some(()))
    })
    .await;
    eventually("one more after the wait", || async {
        stage.time.pass(Duration::from_millis(100)).await;
        let emptied = hot.take(&key("quick"), 5, quick).await?;
        let Ok(nothing) = hot.take(&key("quick"), 5, quick).await else { return Ok(None) };
        if emptied.granted == 0 || nothing.granted > 0 {
            return Ok(None);
        }
        assert!(!nothing.wait.is_zero() && nothing.wait <= Duration::from_millis(20), "{nothing:?} at 50 a second");
        stage.time.pass(nothing.wait).await;
        Ok((hot.take(&key("quick"), 1, quick).await?.granted == 1).then_some(()))
    })
    .await;
}

pub async fn marks_only_rise(stage: &Stage) {
    let hot = &stage.hot;
    let set = key("seen");
    let rising = (0..CROWD as i64).rev().map(|number| {
        let (set, marks) = (&set, [("a".to_owned(), number), ("b".to_owned(), -number)]);
        async move { insist(|| hot.mark(set, &marks)).await.unwrap() }
    });
    join_all(rising).await;
    let last = CROWD as i64 - 1;
    marks_become(hot, &set, i64::MIN, &[("b", 0), ("a", last)]).await;
    insist(async || hot.mark(&set, &[("a".to_owned(), 3), ("b".to_owned(), -5), ("b".to_owned(), 7)]).await)
        .await
        .unwrap();
    marks_become(hot, &set, i64::MIN, &[("b", 7), ("a", last)]).await;
}

pub async fn marks_are_found_by_number_and_can_be_taken_away(stage: &Stage) {
    let hot = &stage.hot;
    let set = key("seen");
    let now = 1_767_225_600_123;
    let marks = [("odd\n\0name".to_owned(), now), ("b".to_owned(), now - 1), ("a".to_owned(), now)];
    insist(|| hot.mark(&set, &marks)).await.unwrap();
    insist(async || hot.mark(&set, &[]).await).await.unwrap();
    marks_become(hot, &set, now - 1, &[("b", now - 1), ("a", now), ("odd\n\0name", now)]).await;
    marks_become(hot, &set, now, &[("a", now), ("odd\n\0name", now)]).await;
    marks_become(hot, &key("other set"), 0, &[]).await;
    insist(async || hot.unmark(&set, &["odd\n\0name".to_owned(), "never there".to_owned()]).await).await.unwrap();
    insist(async || hot.unmark(&set, &[]).await).await.unwrap();
    insist(async || hot.unmark(&key("other set"), &["a".to_owned()]).await).await.unwrap();
    marks_become(hot, &set, 0, &[("b", now - 1), ("a", now)]).await;
}

pub async fn names_of_one_tenant_never_meet_those_of_another(stage: &Stage) {
    const ODD: [&str; 12] =
        ["", ":", "a", "a:b", "b:a", "::a", "a\0", "a\n", "*", "{a}", "a:b:c", "\u{1f511} schlüssel"];
    let hot = &stage.hot;
    let tenants = ["a", "b", "a-b"].map(|tenant| TenantId::new(tenant).unwrap());
    let keys: Vec<HotKey> = ODD
        .iter()
        .flat_map(|name| tenants.iter().map(move |tenant| HotKey::new("test", tenant, name)))
        .chain(ODD.iter().map(|name| HotKey::of_hall("test", name)))
        .collect();
    for (i, key) in keys.iter().enumerate() {
        insist(|| hot.put(key, i.to_string().into(), LONG)).await.unwrap();
    }
    for (i, key) in keys.iter().enumerate() {
        let there = eventually("every name has its value", || hot.get(key)).await;
        assert_eq!(there, i.to_string(), "{} was overwritten by another name", key.as_str());
    }
}

pub async fn one_key_names_a_thing_of_each_kind_and_they_do_not_meet(stage: &Stage) {
    let hot = &stage.hot;
    let same = key("same");
    held(hot, &same, "holder", LONG).await;
    insist(|| hot.take(&same, 1, Rate { per_second: 1.0, burst: 1 })).await.unwrap();
    insist(async || hot.mark(&same, &[("member".to_owned(), 1)]).await).await.unwrap();
    insist(|| hot.put_if_newer(&same, 1, "versioned".into(), LONG)).await.unwrap();
    value_becomes(hot, &same, None).await;
    insist(|| hot.put(&same, "plain".into(), LONG)).await.unwrap();
    value_becomes(hot, &same, Some(b"plain")).await;
    version_becomes(hot, &same, Some((1, "versioned".into()))).await;
    marks_become(hot, &same, 0, &[("member", 1)]).await;
    held(hot, &same, "holder", LONG).await;
}

pub async fn what_an_engine_cannot_hold_is_refused(stage: &Stage) {
    let hot = &stage.hot;
    let most = Bytes::from(vec![7; 1024 * 1024]);
    let more = Bytes::from(vec![7; 1024 * 1024 + 1]);
    insist(async || hot.put(&key("large"), most.clone(), LONG).await).await.unwrap();
    let refused = [
        insist(async || hot.put(&key("large"), more.clone(), LONG).await).await,
        insist(async || hot.put_if_absent(&key("absent"), more.clone(), LONG).await).await.map(drop),
        insist(async || hot.put_if_newer(&key("large"), 1, more.clone(), LONG).await).await.map(drop),
    ];
    for answer in refused {
        assert_eq!(answer.unwrap_err().code, ErrorCode::PayloadTooLarge);
    }
    for number in [i64::MIN, i64::MAX, (1 << 53) + 1] {
        let refused = insist(async || hot.mark(&key("seen"), &[("a".to_owned(), number)]).await).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidParams, "a mark of {number}");
    }
    for rate in [(0.0, 1), (-1.0, 1), (f64::NAN, 1), (f64::INFINITY, 1), (1.0, 0)] {
        let rate = Rate { per_second: rate.0, burst: rate.1 };
        let refused = insist(async || hot.take(&key("calls"), 1, rate).await).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidParams, "{rate:?}");
    }
}

pub async fn ping_says_that_the_engine_answers(stage: &Stage) {
    insist(|| stage.hot.ping()).await.unwrap();
}
