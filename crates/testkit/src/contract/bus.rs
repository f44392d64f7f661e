//! What every bus must do. An engine's crate stamps it with [`crate::bus_contract`].

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::{any::Any, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::{join_all, select},
    stream::BoxStream,
};
use guildhall_domain::{
    ErrorCode, Principal, PrincipalKind, Result, TenantId, Timestamp, TraceContext,
    ports::{
        Bus,
        bus::{Durability, Envelope, Event, Hint, Published, ReplayFrom, Subject, Topic},
    },
};

use super::{Time, insist};
use crate::fault::{FaultPlan, Faulty};

/// For what must come and nothing has been seen to hold up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A bus under test.
pub struct Stage {
    pub bus: Arc<dyn Bus>,
    pub time: Time,
    /// How safe this engine says that an event is.
    pub durability: Durability,
    /// What must live as long as the test, such as the engine's process.
    pub engine: Box<dyn Any + Send + Sync>,
}

impl Stage {
    /// The same bus, with faults between it and whoever calls.
    pub fn behind_faults(self, seed: u64) -> Self {
        Self { bus: Arc::new(Faulty::new(self.bus, FaultPlan::seeded(seed))), ..self }
    }
}

/// Stamps the whole suite for one engine, bare and behind faults. `$stage` names an async function that gives
/// `Option<Stage>`, `None` when the run goes without that engine.
#[macro_export]
macro_rules! bus_contract {
    ($engine:ident, $stage:path) => {
        $crate::bus_contract! {
            @stamp $engine, $stage,
            a_hint_reaches_everyone_who_listens_with_all_it_carried
            a_hint_sent_as_soon_as_someone_listens_is_heard
            a_hint_is_heard_by_its_own_subject_only
            a_listener_who_falls_behind_misses_the_oldest_and_hears_the_newest
            events_are_replayed_in_order_with_all_they_carried
            a_replay_goes_on_after_the_last_one_seen
            a_replay_after_what_is_still_to_come_begins_behind_it
            a_replay_from_a_time_begins_with_the_first_of_that_time
            a_replay_from_now_gives_nothing_that_was_before
            a_replay_goes_on_with_what_comes_and_neither_misses_nor_repeats
            a_key_published_again_adds_nothing_and_says_so
            a_key_is_its_publishers_and_its_topics_own
            nothing_crosses_a_tenant_or_a_topic
            an_answer_says_how_safe_the_event_is
            a_topic_that_an_engine_could_misread_is_refused
            what_is_too_large_is_refused_and_what_is_just_small_enough_is_not
            ping_says_that_the_engine_answers
        }
    };
    (@stamp $engine:ident, $stage:path, $($test:ident)*) => {
        mod $engine {
            mod bare {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::bus::$test(&stage).await;
                })*
            }

            mod behind_faults {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::bus::$test(&stage.behind_faults(2)).await;
                })*
            }
        }
    };
}

const SUBJECT: Subject = Subject("test.happened");
const OTHER: Subject = Subject("test.happened.elsewhere");

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// From the agent `who`, with something in every field.
fn envelope(who: &str, payload: impl Into<Bytes>) -> Envelope {
    let mut principal = Principal::new(TenantId::default(), PrincipalKind::Agent, who, ["agent", "builder"]);
    principal.toolsets = Some(Arc::new(["mail".to_owned()].into()));
    Envelope {
        principal,
        trace: TraceContext {
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
            tracestate: "vendor=value".into(),
        },
        at: Timestamp::from_millis(1_763_632_800_123),
        headers: vec![("Kind".into(), "ä\r\n\0".into()), ("Kind".into(), String::new())],
        payload: payload.into(),
    }
}

fn number(envelope: &Envelope) -> usize {
    std::str::from_utf8(&envelope.payload).unwrap().parse().unwrap()
}

async fn hint(bus: &Arc<dyn Bus>, subject: Subject, envelope: Envelope) {
    insist(|| bus.hint(subject, envelope.clone())).await.unwrap();
}

async fn listen(bus: &Arc<dyn Bus>, subject: Subject) -> BoxStream<'static, Hint> {
    insist(|| bus.hints(subject)).await.unwrap()
}

async fn heard(hints: &mut BoxStream<'static, Hint>) -> Hint {
    let heard = tokio::time::timeout(PATIENCE, hints.next()).await;
    heard.expect("a hint was not heard").expect("the hints ended")
}

async fn publish(bus: &Arc<dyn Bus>, topic: &Topic, key: &str, envelope: Envelope) -> Published {
    insist(|| bus.publish(&envelope.principal.tenant, topic, Some(key), envelope.clone())).await.unwrap()
}

/// Reads a topic as a right caller does: when a replay breaks off, it goes on after the last one seen.
struct Follower {
    bus: Arc<dyn Bus>,
    tenant: TenantId,
    topic: Topic,
    from: ReplayFrom,
    events: Option<BoxStream<'static, Result<Event>>>,
}

impl Follower {
    fn of(bus: &Arc<dyn Bus>, tenant: &TenantId, topic: &Topic, from: ReplayFrom) -> Self {
        Self { bus: bus.clone(), tenant: tenant.clone(), topic: topic.clone(), from, events: None }
    }

    async fn begin(&mut self) -> &mut BoxStream<'static, Result<Event>> {
        if self.events.is_none() {
            self.events = Some(insist(|| self.bus.replay(&self.tenant, &self.topic, self.from)).await.unwrap());
        }
        self.events.as_mut().unwrap()
    }

    async fn next(&mut self) -> Event {
        loop {
            let events = self.begin().await;
            let next = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event did not come");
            match next.expect("a replay ended without an error") {
                Ok(event) => {
                    self.from = ReplayFrom::After(event.sequence);
                    return event;
                }
                Err(error) => {
                    assert!(error.retryable, "{error}");
                    self.events = None;
                }
            }
        }
    }

    async fn numbers_up_to(&mut self, last: usize) -> Vec<usize> {
        let mut numbers = Vec::new();
        while numbers.last() != Some(&last) {
            numbers.push(number(&self.next().await.envelope));
        }
        numbers
    }
}

pub async fn a_hint_reaches_everyone_who_listens_with_all_it_carried(stage: &Stage) {
    let bus = &stage.bus;
    let (mut one, mut two) = (listen(bus, SUBJECT).await, listen(bus, SUBJECT).await);
    let sent = envelope("a", "payload");
    hint(bus, SUBJECT, sent.clone()).await;
    for listener in [&mut one, &mut two] {
        assert_eq!(heard(listener).await, Hint { subject: SUBJECT.to_string(), envelope: sent.clone() });
    }
    drop(one);
    hint(bus, SUBJECT, envelope("a", "later")).await;
    while heard(&mut two).await.envelope.payload != "later" {}
}

pub async fn a_hint_sent_as_soon_as_someone_listens_is_heard(stage: &Stage) {
    let bus = &stage.bus;
    for i in 0..30 {
        let mut listener = listen(bus, SUBJECT).await;
        hint(bus, SUBJECT, envelope("a", i.to_string())).await;
        while number(&heard(&mut listener).await.envelope) != i {}
    }
}

pub async fn a_hint_is_heard_by_its_own_subject_only(stage: &Stage) {
    let bus = &stage.bus;
    let (mut here, mut elsewhere) = (listen(bus, SUBJECT).await, listen(bus, OTHER).await);
    hint(bus, OTHER, envelope("a", "elsewhere")).await;
    hint(bus, SUBJECT, envelope("a", "here")).await;
    assert_eq!(heard(&mut here).await.envelope.payload, "here");
    assert_eq!(heard(&mut elsewhere).await.envelope.payload, "elsewhere");
}

pub async fn a_listener_who_falls_behind_misses_the_oldest_and_hears_the_newest(stage: &Stage) {
    const SENT: usize = 3_000;
    let bus = &stage.bus;
    let (mut slow, mut quick) = (listen(bus, SUBJECT).await, listen(bus, SUBJECT).await);
    let send = async {
        for i in 0..SENT {
            hint(bus, SUBJECT, envelope("a", i.to_string())).await;
        }
    };
    let read = async { while number(&heard(&mut quick).await.envelope) + 1 < SENT {} };
    tokio::join!(send, read);
    let mut kept = Vec::new();
    while kept.last() != Some(&(SENT - 1)) {
        kept.push(number(&heard(&mut slow).await.envelope));
    }
    assert!(kept[0] > 0, "nothing was missed by a listener that slept through {SENT}");
    assert!(kept.len() > 500, "only {} of the newest were kept", kept.len());
    assert!(kept.is_sorted());
}

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

pub async fn a_key_published_again_adds_nothing_and_says_so(stage: &Stage) {
    let bus = &stage.bus;
    let log = topic("t");
    let first = publish(bus, &log, "key", envelope("a", "1")).await;
    let again = publish(bus, &log, "key", envelope("a", "2")).await;
    assert!(again.duplicate);
    assert_eq!(again.sequence, first.sequence);
    let at_once = join_all((3..20).map(|i| publish(bus, &log, "contested", envelope("a", i.to_string())))).await;
    assert!(at_once.iter().filter(|published| !published.duplicate).count() <= 1);
    let places: std::collections::BTreeSet<u64> = at_once.iter().map(|published| published.sequence).collect();
    assert_eq!(places.len(), 1, "one key is in two places: {places:?}");
    publish(bus, &log, "end", envelope("a", "99")).await;
    let mut follower = Follower::of(bus, &TenantId::default(), &log, ReplayFrom::After(0));
    let there = follower.numbers_up_to(99).await;
    assert_eq!((there.len(), there[0]), (3, 1), "{there:?}");
}

pub async fn a_key_is_its_publishers_and_its_topics_own(stage: &Stage) {
    let bus = &stage.bus;
    let (here, elsewhere) = (topic("a"), topic("a.b"));
    let mut person = envelope("a", "2");
    person.principal.kind = PrincipalKind::Person;
    let mut foreign = envelope("a", "3");
    foreign.principal.tenant = tenant("other");
    let mut sequences = Vec::new();
    for (log, envelope) in [
        (&here, envelope("a", "0")),
        (&here, envelope("b", "1")),
        (&here, person),
        (&here, foreign),
        (&elsewhere, envelope("a", "4")),
    ] {
        let first = publish(bus, log, "key", envelope.clone()).await;
        let again = publish(bus, log, "key", envelope.clone()).await;
        assert!(again.duplicate && again.sequence == first.sequence);
        sequences.push((wide(&envelope.principal.tenant, log), first.sequence));
    }
    let places: std::collections::BTreeSet<_> = sequences.iter().collect();
    assert_eq!(places.len(), sequences.len(), "another's event was taken for a repeat: {sequences:?}");
    let mut follower = Follower::of(bus, &TenantId::default(), &here, ReplayFrom::After(0));
    assert_eq!(follower.numbers_up_to(2).await, [0, 1, 2]);
}

fn wide(tenant: &TenantId, topic: &Topic) -> String {
    format!("{tenant} {topic}")
}

pub async fn nothing_crosses_a_tenant_or_a_topic(stage: &Stage) {
    let bus = &stage.bus;
    let tenants = ["a", "b", "a-b", "0"].map(tenant);
    let topics = ["x", "X", "x.y", "x.y.z", "y", "a.x", "b", "x-y", "x_y", "0"].map(topic);
    let logs: Vec<(TenantId, Topic)> =
        tenants.iter().flat_map(|tenant| topics.iter().map(|topic| (tenant.clone(), topic.clone()))).collect();
    for round in ["first", "last"] {
        for (tenant, topic) in &logs {
            let mut envelope = envelope("a", format!("{round} of {}", wide(tenant, topic)));
            envelope.principal.tenant = tenant.clone();
            publish(bus, topic, round, envelope).await;
        }
    }
    for (tenant, topic) in &logs {
        let mut follower = Follower::of(bus, tenant, topic, ReplayFrom::After(0));
        for round in ["first", "last"] {
            assert_eq!(follower.next().await.envelope.payload, format!("{round} of {}", wide(tenant, topic)));
        }
    }
}

pub async fn an_answer_says_how_safe_the_event_is(stage: &Stage) {
    let published = publish(&stage.bus, &topic("t"), "key", envelope("a", "1")).await;
    assert_eq!(published.durability, stage.durability);
    // Without a key every publish counts.
    let (log, envelope) = (topic("t"), envelope("a", "2"));
    let one = insist(|| stage.bus.publish(&envelope.principal.tenant, &log, None, envelope.clone())).await.unwrap();
    let two = insist(|| stage.bus.publish(&envelope.principal.tenant, &log, None, envelope.clone())).await.unwrap();
    assert!(!one.duplicate && !two.duplicate && two.sequence > one.sequence);
}

pub async fn a_topic_that_an_engine_could_misread_is_refused(stage: &Stage) {
    for bad in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "*",
        "a.*",
        ">",
        "a.>",
        "a b",
        "a\n",
        "$SYS",
        "ä",
        "-a",
        "'; --",
        &"x".repeat(129),
    ] {
        assert!(Topic::new(bad).is_err_and(|error| error.code == ErrorCode::InvalidParams), "{bad:?} was taken");
    }
    let longest = topic(&"x".repeat(128));
    publish(&stage.bus, &longest, "key", envelope("a", "1")).await;
    let mut follower = Follower::of(&stage.bus, &TenantId::default(), &longest, ReplayFrom::After(0));
    assert_eq!(number(&follower.next().await.envelope), 1);
}

pub async fn what_is_too_large_is_refused_and_what_is_just_small_enough_is_not(stage: &Stage) {
    const MOST: usize = 512 * 1024;
    let (bus, log) = (&stage.bus, topic("t"));
    let sized = |bytes: usize| Envelope { headers: vec![], ..envelope("a", vec![0xff; bytes]) };
    let over = sized(MOST + 1);
    let refused = [
        insist(|| bus.publish(&over.principal.tenant, &log, Some("over"), over.clone())).await.map(drop),
        insist(|| bus.hint(SUBJECT, over.clone())).await,
    ];
    for answer in refused {
        assert_eq!(answer.unwrap_err().code, ErrorCode::PayloadTooLarge);
    }
    let mut listener = listen(bus, SUBJECT).await;
    hint(bus, SUBJECT, sized(MOST)).await;
    assert_eq!(heard(&mut listener).await.envelope, sized(MOST));
    publish(bus, &log, "most", sized(MOST)).await;
    let mut follower = Follower::of(bus, &TenantId::default(), &log, ReplayFrom::After(0));
    assert_eq!(follower.next().await.envelope, sized(MOST));
}

pub async fn ping_says_that_the_engine_answers(stage: &Stage) {
    insist(|| stage.bus.ping()).await.unwrap();
}
