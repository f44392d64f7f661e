//! Events as mail: to those who subscribed, each once, in order, whatever happens to replicas and engines.

use std::time::Duration;

use guildhall_domain::{
    Clock, TenantId, TraceContext,
    audit::AuditQuery,
    event::NewEvent,
    mail::{Priority, kind},
    ports::{
        Bus,
        bus::{Envelope, Published},
    },
};
use guildhall_testkit::engines::eventually;
use serde_json::{Value, json};

use super::{
    audited, contents, event, publish,
    stage::{Engines, Replica, admin, agent, id},
    take, topic,
};

const SOON: Duration = Duration::from_secs(30);
/// For what must not come.
const AWHILE: Duration = Duration::from_millis(400);

async fn subscribe(replica: &Replica, who: &str, to: &str, filter: Option<&str>) {
    replica.topics.subscribe(&agent(who), &topic(to), &id(who), filter.map(str::to_owned)).await.unwrap();
}

/// An event of topic `ci`, past the hall.
async fn say(engines: &Engines, bus: &dyn Bus, n: usize) -> Published {
    let envelope = Envelope {
        principal: (*agent("worker").principal).clone(),
        trace: TraceContext::default(),
        at: engines.clock.now(),
        headers: Vec::new(),
        payload: n.to_string().into(),
    };
    bus.publish(&TenantId::default(), &topic("ci"), None, envelope).await.unwrap()
}

/// Nothing more comes to `who`.
async fn nothing_comes(replica: &Replica, who: &str) {
    let taken = take(&*replica.mail, &id(who), AWHILE).await;
    assert!(taken.is_empty(), "{who} got {:?}", taken.first().map(|mail| mail.message.body.as_text().to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_comes_as_a_message_from_its_publisher() {
    let engines = Engines::embedded();
    let (here, _there) = engines.replicas().await;
    here.register("reader").await;
    here.register("builder").await;
    subscribe(&here, "reader", "ci", None).await;
    let headers = vec![("kind".to_owned(), "build".to_owned())];
    let published = NewEvent { headers, ..event(&json!({ "n": 1.50 })) };
    let sequence = here.topics.publish(&agent("builder"), &topic("ci"), published).await.unwrap().sequence;
    let taken = take(&*here.mail, &id("reader"), SOON).await;
    let message = &taken.first().expect("the event did not come").message;
    assert_eq!((message.from.as_str(), &*message.to.to_string()), ("builder", "topic:ci"));
    assert_eq!((&*message.kind, message.priority), (kind::EVENT, Priority::Normal));
    let letter: Value = message.body.parse().unwrap();
    let published_at = letter["published_at"].as_str().unwrap();
    let wanted = json!({ "topic": "ci", "sequence": sequence, "published_at": published_at,
        "headers": { "kind": "build" }, "event": { "n": 1.50 } });
    assert_eq!(letter, wanted);
    let audit = audited(&here, AuditQuery { act: Some("message.send".into()), ..AuditQuery::default() }).await;
    assert_eq!((audit.len(), &*audit[0].actor, &*audit[0].target), (1, "builder", "topic:ci"));

    publish(&here, &admin(), "ci", &json!(2)).await.unwrap();
    let taken = take(&*here.mail, &id("reader"), SOON).await;
    let letter: Value = taken[0].message.body.parse().unwrap();
    assert_eq!((taken[0].message.from.as_str(), &letter["publisher"]), ("hall", &json!("person:operator")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_published_since_and_what_the_filter_wants_comes_embedded() {
    only_what_was_published_since_and_what_the_filter_wants_comes(Engines::embedded()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_published_since_and_what_the_filter_wants_comes_distributed() {
    let Some(engines) = Engines::distributed().await else { return };
    only_what_was_published_since_and_what_the_filter_wants_comes(engines).await;
}

async fn only_what_was_published_since_and_what_the_filter_wants_comes(engines: Engines) {
    let (here, there) = engines.replicas().await;
    for who in ["all", "late", "picky", "headers", "elsewhere"] {
        here.register(who).await;
    }
    let worker = agent("worker");
    publish(&here, &worker, "ci", &json!(0)).await.unwrap();
    engines.clock.advance(Duration::from_millis(10));
    subscribe(&here, "all", "ci", None).await;
    subscribe(&there, "picky", "ci", Some("event > 1")).await;
    subscribe(&here, "headers", "ci", Some("headers.kind == 'x'")).await;
    subscribe(&here, "elsewhere", "ci.other", None).await;
    publish(&here, &worker, "ci", &json!(1)).await.unwrap();
    engines.clock.advance(Duration::from_millis(10));
    subscribe(&there, "late", "ci", None).await;
    publish(&there, &worker, "ci", &json!(2)).await.unwrap();
    let with = NewEvent { headers: vec![("kind".into(), "x".into())], ..event(&json!(3)) };
    here.topics.publish(&worker, &topic("ci"), with).await.unwrap();

    assert_eq!(contents(&here, "all", 3).await, [1, 2, 3]);
    assert_eq!(contents(&there, "late", 2).await, [2, 3]);
    assert_eq!(contents(&here, "picky", 2).await, [2, 3]);
    assert_eq!(contents(&here, "headers", 1).await, [3]);

    here.topics.unsubscribe(&agent("all"), &topic("ci"), &id("all")).await.unwrap();
    subscribe(&here, "picky", "ci", Some("event == 5")).await;
    for n in [4, 5] {
        publish(&here, &worker, "ci", &json!(n)).await.unwrap();
    }
    assert_eq!(contents(&here, "late", 2).await, [4, 5]);
    assert_eq!(contents(&here, "picky", 1).await, [5]);
    for who in ["all", "late", "picky", "headers", "elsewhere"] {
        nothing_comes(&there, who).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_while_nobody_fed_comes_later_and_in_order() {
    let engines = Engines::embedded();
    let (here, there) = engines.replicas().await;
    here.register("reader").await;
    subscribe(&here, "reader", "ci", None).await;
    publish(&here, &agent("worker"), "ci", &json!(0)).await.unwrap();
    assert_eq!(contents(&here, "reader", 1).await, [0]);
    let bus = engines.reach("nobody").bus;
    drop((here, there));
    for n in 1..250 {
        say(&engines, &*bus, n).await;
    }
    let (here, _there) = engines.replicas().await;
    assert_eq!(contents(&here, "reader", 249).await, (1..250).collect::<Vec<_>>());
    nothing_comes(&here, "reader").await;
}

/// Replicas come and go, each without a word, while events are published: all of them arrive once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_killed_neither_lose_an_event_nor_bring_one_twice_embedded() {
    replicas_that_are_killed_neither_lose_an_event_nor_bring_one_twice(Engines::embedded(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_killed_neither_lose_an_event_nor_bring_one_twice_distributed() {
    let Some(engines) = Engines::distributed().await else { return };
    replicas_that_are_killed_neither_lose_an_event_nor_bring_one_twice(engines, false).await;
}

/// Without leases every replica feeds every topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_all_feed_at_once_bring_no_event_twice() {
    let Some(engines) = Engines::distributed().await else { return };
    replicas_that_are_killed_neither_lose_an_event_nor_bring_one_twice(engines, true).await;
}

async fn replicas_that_are_killed_neither_lose_an_event_nor_bring_one_twice(engines: Engines, without_leases: bool) {
    const EVENTS: usize = 400;
    let (here, steady) = engines.replicas().await;
    here.register("one").await;
    here.register("two").await;
    subscribe(&here, "one", "ci", None).await;
    subscribe(&here, "two", "ci", Some("event % 2 == 0")).await;
    let publishing = async {
        for n in 0..EVENTS {
            publish(&steady, &agent("worker"), "ci", &json!(n)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let killing = async {
        let mut replica = here;
        for n in 0..4 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(replica);
            let mut reached = engines.reach(&format!("replica-{n}"));
            if without_leases {
                reached.hot = guildhall_hot::connect("redis://127.0.0.1:1", engines.clock.clone()).unwrap();
            }
            // Leases run out by a clock that stands still otherwise.
            engines.clock.advance(Duration::from_secs(11));
            replica = Replica::start(&format!("replica-{n}"), reached, engines.clock.clone());
            replica.is_ready().await;
        }
        replica
    };
    let ((), last) = tokio::join!(publishing, killing);
    assert_eq!(contents(&last, "one", EVENTS).await, (0..EVENTS).collect::<Vec<_>>());
    assert_eq!(contents(&last, "two", EVENTS / 2).await, (0..EVENTS).step_by(2).collect::<Vec<_>>());
    nothing_comes(&last, "one").await;
    nothing_comes(&steady, "two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_goes_away_and_comes_back_costs_no_event() {
    let Some(engines) = Engines::distributed().await else { return };
    let (here, _there) = engines.replicas().await;
    here.register("reader").await;
    subscribe(&here, "reader", "ci", None).await;
    let worker = agent("worker");
    publish(&here, &worker, "ci", &json!(0)).await.unwrap();
    assert_eq!(contents(&here, "reader", 1).await, [0]);
    engines.nats.as_ref().unwrap().restart().await;
    eventually("an event is taken again", Duration::from_secs(30), async || {
        publish(&here, &worker, "ci", &json!(1)).await.ok()
    })
    .await;
    assert_eq!(contents(&here, "reader", 1).await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_retention_removed_before_they_were_brought_do_not_hold_up_the_others() {
    let engines = Engines::embedded();
    let (here, there) = engines.replicas().await;
    here.register("reader").await;
    subscribe(&here, "reader", "ci", None).await;
    let worker = agent("worker");
    publish(&here, &worker, "ci", &json!(0)).await.unwrap();
    assert_eq!(contents(&here, "reader", 1).await, [0]);
    let reached = engines.reach("nobody");
    drop((here, there));
    let lost = say(&engines, &*reached.bus, 1).await.sequence;
    // The stage keeps events for an hour.
    engines.clock.advance(Duration::from_secs(2 * 3_600));
    say(&engines, &*reached.bus, 2).await;
    eventually("the old event is removed", SOON, async || {
        let standing = reached.bus.standing(&TenantId::default(), &topic("ci"), 0).await.unwrap();
        (standing.first_kept > lost).then_some(())
    })
    .await;
    let (here, _there) = engines.replicas().await;
    assert_eq!(contents(&here, "reader", 1).await, [2]);
    let feeds = reached.store.topics().feeds().await.unwrap();
    assert!(feeds[0].position > lost, "{feeds:?}");
}
