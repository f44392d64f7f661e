//! What a call costs the server: counted, so that it is the same on any machine.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::{TryStreamExt, future::join_all};
use guildhall_domain::{
    Principal, PrincipalKind, TenantId, Timestamp, TraceContext,
    ports::{
        Bus,
        bus::{Envelope, ReplayFrom, Retention, Subject, Topic},
    },
};
use guildhall_testkit::{clock::FixedClock, engines::Nats};

use super::JetStream;
use crate::BusOptions;

fn connect(nats: &Nats) -> JetStream {
    let retention = Retention { age: Duration::from_secs(3_600), bytes: 1 << 30 };
    let clock = Arc::new(FixedClock::default());
    let options = BusOptions { data_dir: "/nowhere".into(), clock, retention, nats_syncs_always: false };
    JetStream::new(&nats.url(), options).unwrap()
}

fn envelope() -> Envelope {
    Envelope {
        principal: Principal::new(TenantId::default(), PrincipalKind::Agent, "a", ["agent"]),
        trace: TraceContext::default(),
        at: Timestamp::default(),
        headers: vec![("kind".into(), "build".into())],
        payload: "1".into(),
    }
}

/// Messages to the server and from it, so far.
fn messages(bus: &JetStream) -> (u64, u64) {
    let statistics = bus.0.connection.get().unwrap().link.client().statistics();
    (statistics.out_messages.load(Relaxed), statistics.in_messages.load(Relaxed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_one_message_and_one_answer_and_a_hint_one_message() {
    const EVENTS: u64 = 300;
    let Some(nats) = Nats::start().await else { return };
    let (bus, here, topic) = (connect(&nats), TenantId::default(), Topic::new("t").unwrap());
    // The first makes the stream.
    bus.publish(&here, &topic, None, envelope()).await.unwrap();
    let before = messages(&bus);
    let publish = async |key: Option<String>| bus.publish(&here, &topic, key.as_deref(), envelope()).await.unwrap();
    join_all((0..EVENTS).map(|i| publish((i % 2 == 0).then(|| i.to_string())))).await;
    let after = messages(&bus);
    assert_eq!((after.0 - before.0, after.1 - before.1), (EVENTS, EVENTS));
    for _ in 0..EVENTS {
        bus.hint(Subject("test.happened"), envelope()).await.unwrap();
    }
    bus.publish(&here, &topic, None, envelope()).await.unwrap();
    let last = messages(&bus);
    assert_eq!((last.0 - after.0, last.1 - after.1), (EVENTS + 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_past_costs_one_question_where_nothing_is_and_a_consumer_for_a_page() {
    let Some(nats) = Nats::start().await else { return };
    let (bus, here) = (connect(&nats), TenantId::default());
    let topics = ["t", "empty"].map(|name| Topic::new(name).unwrap());
    for _ in 0..20 {
        bus.publish(&here, &topics[0], None, envelope()).await.unwrap();
    }
    // It may be on a stream of its own, which is made once.
    let read = async |topic: &Topic| -> usize {
        let events: Vec<_> = bus.past(&here, topic, ReplayFrom::After(0)).await.unwrap().try_collect().await.unwrap();
        events.len()
    };
    read(&topics[1]).await;
    // The newest event's place; and the consumer, made, asked and removed.
    for (topic, there, questions) in [(&topics[1], 0, 1), (&topics[0], 20, 4)] {
        let before = messages(&bus).0;
        assert_eq!(read(topic).await, there);
        assert_eq!(messages(&bus).0 - before, questions);
    }
}
