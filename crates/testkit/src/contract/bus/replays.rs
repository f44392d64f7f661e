//! Replaying: what is kept, then what comes, without a gap and without a repeat.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures::{
    StreamExt, TryStreamExt,
    future::{join_all, select},
    stream,
};
use guildhall_domain::{
    Result, TenantId, Timestamp,
    ports::bus::{Envelope, ReplayFrom, Standing, Topic},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Follower, Stage, envelope, insist, number, publish, tenant, topic};

pub async fn events_are_replayed_in_order_with_all_they_carried(stage: &Stage) {
    let bus = &stage.bus;
    let log = topic("build.done");
    let mut published = Vec::new();
    for i in 0..20 {
        published.push(publish(bus, &log, &i.to_string(), envelope("a", i.to_string())).await.sequence);
    }
    assert!(published.is_sorted_by(|a, b| a < b), "sequences do not rise: {published:?}");
    let mut follower = Follower::of(bus, &TenantId::default(), &log, ReplayFrom::After(0));
    let mut before = Timestamp::default();
    for (i, sequence) in published.into_iter().enumerate() {
        let event = follower.next().await;
        assert_eq!(event.sequence, sequence);
        assert_eq!(event.envelope, envelope("a", i.to_string()));
        assert!(event.published_at >= before);
        before = event.published_at;
    }
}

pub async fn a_replay_goes_on_after_the_last_one_seen(stage: &Stage) {
    let bus = &stage.bus;
    let log = topic("t");
    let mut sequences = Vec::new();
    for i in 0..5 {
        sequences.push(publish(bus, &log, &i.to_string(), envelope("a", i.to_string())).await.sequence);
    }
    for (i, sequence) in sequences.into_iter().enumerate().take(4) {
        let mut follower = Follower::of(bus, &TenantId::default(), &log, ReplayFrom::After(sequence));
        assert_eq!(follower.numbers_up_to(4).await, (i + 1..5).collect::<Vec<_>>());
    }
}

pub async fn a_replay_after_what_is_still_to_come_begins_behind_it(stage: &Stage) {
    let bus = &stage.bus;
    let log = topic("t");
    let first = publish(bus, &log, "0", envelope("a", "0")).await.sequence;
    let from = ReplayFrom::After(first + 3);
    let mut follower = Follower::of(bus, &TenantId::default(), &log, from);
    follower.begin().await;
    for i in 1..6 {
        publish(bus, &log, &i.to_string(), envelope("a", i.to_string())).await;
    }
    let seen = follower.next().await;
    assert!(seen.sequence > first + 3, "{} was given, only what is after {} was asked for", seen.sequence, first + 3);
}

pub async fn a_replay_from_a_time_begins_with_the_first_of_that_time(stage: &Stage) {
    let bus = &stage.bus;
    let log = topic("t");
    for i in 0..6 {
        stage.time.pass(Duration::from_millis(20)).await;
        publish(bus, &log, &i.to_string(), envelope("a", i.to_string())).await;
    }
    let mut all = Follower::of(bus, &TenantId::default(), &log, ReplayFrom::After(0));
    let mut times = Vec::new();
    for _ in 0..6 {
        times.push(all.next().await.published_at);
    }
    for (i, time) in times.into_iter().enumerate() {
        let mut follower = Follower::of(bus, &TenantId::default(), &log, ReplayFrom::Time(time));
        assert_eq!(follower.numbers_up_to(5).await, (i..6).collect::<Vec<_>>(), "from {time}");
        let just_after = ReplayFrom::Time(time + Duration::from_millis(1));
        let mut follower = Follower::of(bus, &TenantId::default(), &log, just_after);
        if i < 5 {
            assert_eq!(follower.numbers_up_to(5).await, (i + 1..6).collect::<Vec<_>>(), "after {time}");
        }
    }
    let before_all = ReplayFrom::Time(Timestamp::from_millis(0));
    let mut follower = Follower::of(bus, &TenantId::default(), &log, before_all);
    assert_eq!(follower.numbers_up_to(5).await, (0..6).collect::<Vec<_>>());
}

pub async fn a_replay_from_now_gives_nothing_that_was_before(stage: &Stage) {
    let bus = &stage.bus;
    let log = topic("t");
    for i in 0..10 {
        publish(bus, &log, &i.to_string(), envelope("a", i.to_string())).await;
    }
    let mut follower = Follower::of(bus, &TenantId::default(), &log, ReplayFrom::Now);
    follower.begin().await;
    // More than one: whoever had seen nothing yet when a replay broke off begins anew with what is new then.
    let publish = async {
        for i in 10.. {
            publish(bus, &log, &i.to_string(), envelope("a", i.to_string())).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let next = async { number(&follower.next().await.envelope) };
    let futures::future::Either::Right((first, _)) = select(Box::pin(publish), Box::pin(next)).await else {
        unreachable!("publishing never ends")
    };
    assert!(first >= 10, "{first} was published before");
}

pub async fn a_replay_goes_on_with_what_comes_and_neither_misses_nor_repeats(stage: &Stage) {
    const PUBLISHERS: usize = 8;
    const EACH: usize = 40;
    let bus = &stage.bus;
    let log = topic("busy");
    let publishers = (0..PUBLISHERS).map(|who| {
        let log = &log;
        async move {
            for i in 0..EACH {
                let number = who * EACH + i;
                publish(bus, log, &i.to_string(), envelope(&format!("agent-{who}"), number.to_string())).await;
            }
        }
    });
    // One from before the first event, the others while events come.
    let followers = (0..4).map(|i| {
        let log = &log;
        async move {
            tokio::time::sleep(Duration::from_millis(i * 15)).await;
            let mut follower = Follower::of(bus, &TenantId::default(), log, ReplayFrom::After(0));
            let mut seen: Vec<(u64, usize)> = Vec::new();
            while seen.len() < PUBLISHERS * EACH {
                let event = follower.next().await;
                seen.push((event.sequence, number(&event.envelope)));
            }
            seen
        }
    });
    let (_, seen) = tokio::join!(join_all(publishers), join_all(followers));
    for one in &seen {
        assert!(one.is_sorted_by(|a, b| a.0 < b.0), "a sequence came twice or went back");
        assert_eq!(one, &seen[0], "two who follow saw different logs");
    }
    let mut numbers: Vec<usize> = seen[0].iter().map(|(_, number)| *number).collect();
    for who in 0..PUBLISHERS {
        let own: Vec<usize> = numbers.iter().copied().filter(|number| number / EACH == who).collect();
        assert!(own.is_sorted(), "what agent-{who} published one after the other is out of order: {own:?}");
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..PUBLISHERS * EACH).collect::<Vec<_>>(), "an event is missing or there twice");
}

/// These events, some at once.
async fn publish_all(stage: &Stage, log: &Topic, numbers: std::ops::Range<usize>) {
    let publish = |i: usize| async move {
        publish(&stage.bus, log, &i.to_string(), envelope("a", i.to_string())).await;
    };
    stream::iter(numbers).for_each_concurrent(32, publish).await;
}

/// The whole topic, as far as it goes, for comparison.
async fn sequences(stage: &Stage, log: &Topic, number: usize) -> Vec<u64> {
    let mut follower = Follower::of(&stage.bus, &TenantId::default(), log, ReplayFrom::After(0));
    let mut sequences = Vec::with_capacity(number);
    while sequences.len() < number {
        sequences.push(follower.next().await.sequence);
    }
    sequences
}

pub async fn readers_who_come_and_go_while_events_come_neither_miss_nor_see_one_twice(stage: &Stage) {
    const EVENTS: usize = 600;
    let log = topic("busy");
    let publishing = async {
        for begin in (0..EVENTS).step_by(50) {
            publish_all(stage, &log, begin..begin + 50).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let readers = (0..6).map(|seed| {
        let log = &log;
        async move {
            let mut dice = StdRng::seed_from_u64(seed);
            let mut seen: Vec<u64> = Vec::new();
            while seen.len() < EVENTS {
                let from = ReplayFrom::After(seen.last().copied().unwrap_or(0));
                let mut follower = Follower::of(&stage.bus, &TenantId::default(), log, from);
                for _ in 0..dice.random_range(1..120).min(EVENTS - seen.len()) {
                    seen.push(follower.next().await.sequence);
                    if dice.random_range(0..40) == 0 {
                        tokio::time::sleep(Duration::from_millis(dice.random_range(0..8))).await;
                    }
                }
            }
            seen
        }
    });
    let ((), seen) = tokio::join!(publishing, join_all(readers));
    let all = sequences(stage, &log, EVENTS).await;
    assert!(all.is_sorted_by(|a, b| a < b), "a sequence came twice or went back");
    for (seed, seen) in seen.into_iter().enumerate() {
        assert_eq!(seen, all, "the reader of seed {seed} missed an event or saw one twice");
    }
}

pub async fn a_reader_who_stands_still_holds_up_nobody_and_misses_nothing(stage: &Stage) {
    // More than any engine keeps waiting for one reader.
    const EVENTS: usize = 1_500;
    let log = topic("busy");
    publish_all(stage, &log, 0..1).await;
    let follower = || Follower::of(&stage.bus, &TenantId::default(), &log, ReplayFrom::After(0));
    let (mut still, mut quick) = (follower(), follower());
    still.next().await;
    let reading = async {
        for _ in 0..EVENTS {
            quick.next().await;
        }
    };
    tokio::join!(publish_all(stage, &log, 1..EVENTS), reading);
    let all = sequences(stage, &log, EVENTS).await;
    let mut seen = vec![all[0]];
    while seen.len() < EVENTS {
        seen.push(still.next().await.sequence);
    }
    assert_eq!(seen, all);
}

pub async fn many_who_follow_one_topic_all_see_all_of_it(stage: &Stage) {
    const EVENTS: usize = 40;
    const READERS: usize = 100;
    let log = topic("busy");
    publish_all(stage, &log, 0..EVENTS / 2).await;
    let reading = (0..READERS).map(|_| sequences(stage, &log, EVENTS));
    let (seen, ()) = tokio::join!(join_all(reading), publish_all(stage, &log, EVENTS / 2..EVENTS));
    for one in &seen {
        assert_eq!(one, &seen[0]);
    }
}

/// All of it, and that it ended. When it breaks off, the rest is asked for.
async fn past(stage: &Stage, log: &Topic, mut from: ReplayFrom) -> Vec<usize> {
    let (here, mut numbers) = (TenantId::default(), Vec::new());
    'asked: loop {
        let mut events = insist(|| stage.bus.past(&here, log, from)).await.unwrap();
        while let Some(event) = events.next().await {
            let Ok(event) = event else { continue 'asked };
            from = ReplayFrom::After(event.sequence);
            numbers.push(number(&event.envelope));
        }
        return numbers;
    }
}

pub async fn what_is_past_ends_with_what_was_there_when_it_was_asked_for(stage: &Stage) {
    // More than any engine reads at once.
    const EVENTS: usize = 300;
    let (bus, log) = (&stage.bus, topic("t"));
    publish_all(stage, &topic("other"), 0..3).await;
    let mut sequences = Vec::new();
    for i in 0..EVENTS {
        sequences.push(publish(bus, &log, &i.to_string(), envelope("a", i.to_string())).await.sequence);
    }
    publish_all(stage, &topic("other"), 3..6).await;
    for seen in [0, 1, 255, 256, EVENTS - 1] {
        let after = ReplayFrom::After(sequences.get(seen.wrapping_sub(1)).copied().unwrap_or(0));
        assert_eq!(past(stage, &log, after).await, (seen..EVENTS).collect::<Vec<_>>());
    }
    let from_time = past(stage, &log, ReplayFrom::Time(Timestamp::from_millis(0))).await;
    assert_eq!(from_time, (0..EVENTS).collect::<Vec<_>>());
    let last = sequences[EVENTS - 1];
    for nothing in [ReplayFrom::Now, ReplayFrom::After(last), ReplayFrom::After(last + 7)] {
        assert_eq!(past(stage, &log, nothing).await, [0; 0], "from {nothing:?}");
    }
    assert_eq!(past(stage, &topic("t.empty"), ReplayFrom::After(0)).await, [0; 0]);
}

pub async fn what_is_past_has_nothing_that_came_after_it_was_asked_for(stage: &Stage) {
    let here = TenantId::default();
    // Until one does not break off.
    for attempt in 0.. {
        let log = topic(&format!("t.{attempt}"));
        publish_all(stage, &log, 0..3).await;
        let asked = insist(|| stage.bus.past(&here, &log, ReplayFrom::After(0))).await.unwrap();
        publish_all(stage, &log, 3..6).await;
        let read: Result<BTreeSet<usize>> = asked.map_ok(|event| number(&event.envelope)).try_collect().await;
        if let Ok(read) = read {
            assert_eq!(read, (0..3).collect());
            return;
        }
    }
}

pub async fn what_is_past_of_a_topic_where_nothing_comes_is_given_at_once(stage: &Stage) {
    // A bus that waits to see whether more comes waits each time; a busy machine does not.
    const AT_ONCE: Duration = Duration::from_millis(200);
    let (full, empty) = (topic("full"), topic("empty"));
    publish_all(stage, &full, 0..3).await;
    for (log, from, there) in [
        (&full, ReplayFrom::After(0), 3),
        (&full, ReplayFrom::Time(Timestamp::from_millis(0)), 3),
        (&full, ReplayFrom::After(u64::from(u32::MAX)), 0),
        (&empty, ReplayFrom::After(0), 0),
    ] {
        let mut quickest = Duration::MAX;
        for _ in 0..10 {
            let start = Instant::now();
            assert_eq!(past(stage, log, from).await.len(), there);
            quickest = quickest.min(start.elapsed());
        }
        assert!(quickest < AT_ONCE, "{there} events from {from:?} took {quickest:?} at best");
    }
}

pub async fn large_events_are_replayed_however_many_they_are(stage: &Stage) {
    const BYTES: usize = 480 * 1024;
    // Together more than any engine reads at once.
    const EVENTS: usize = 20;
    let (bus, log) = (&stage.bus, topic("t"));
    let large = |i: usize| Envelope { headers: vec![], ..envelope("a", format!("{}{i}", "0".repeat(BYTES))) };
    for i in 0..EVENTS {
        publish(bus, &log, &i.to_string(), large(i)).await;
    }
    let mut follower = Follower::of(bus, &TenantId::default(), &log, ReplayFrom::After(0));
    assert_eq!(follower.numbers_up_to(EVENTS - 1).await, (0..EVENTS).collect::<Vec<_>>());
    assert_eq!(past(stage, &log, ReplayFrom::After(0)).await, (0..EVENTS).collect::<Vec<_>>());
}

pub async fn a_reader_can_ask_how_the_log_stands(stage: &Stage) {
    let (bus, log) = (&stage.bus, topic("t"));
    let standing = async |tenant: TenantId, after| insist(|| bus.standing(&tenant, &log, after)).await.unwrap();
    let here = TenantId::default();
    let before = standing(here.clone(), 0).await;
    assert!(before.first_kept <= 1 && before.clear_until == Some(0), "{before:?}");
    let first = publish(bus, &log, "1", envelope("a", "1")).await.sequence;
    let last = publish(bus, &log, "2", envelope("a", "2")).await.sequence;
    let Standing { first_kept, clear_until } = standing(here.clone(), 0).await;
    assert!(first_kept <= first && clear_until.is_none(), "{first_kept}, {clear_until:?}");
    assert_eq!(standing(here.clone(), first).await.clear_until, None);
    let read = standing(here, last).await.clear_until.expect("nothing is left to read");
    assert!(read >= last);
    // What is published after the answer stands behind the place it named.
    assert!(publish(bus, &log, "3", envelope("a", "3")).await.sequence > read);
    let nothing = standing(tenant("other"), 0).await;
    assert!(nothing.clear_until.is_some(), "another tenant's events are taken for one's own");
}
