//! Engines that are away at start, go away, hang, or come back with nothing in them.

use std::time::{Duration, Instant};

use guildhall_domain::{
    AgentQuery, Clock, ErrorCode, NewAgent, Presence, agent::subject, ports::agent_registry::RegistrationRight,
};
use guildhall_testkit::engines::{Disk, Postgres, eventually};

use crate::{
    replicas::{admin, announced, beat, id, register, status},
    stage::{Engines, Replica, hall},
};

const LOOKS: Duration = Duration::from_millis(2_500);
const WITHIN: Duration = Duration::from_secs(60);

async fn two(engines: &Engines) -> (Replica, Replica) {
    let here = engines.reach("here");
    here.store.migrate().await.unwrap();
    let here = Replica::start("here", here, engines.clock.clone());
    let there = Replica::start("there", engines.reach("there"), engines.clock.clone());
    here.is_ready().await;
    there.is_ready().await;
    (here, there)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_store_that_comes_back_empty_turns_nobody_offline() {
    let Some(engines) = Engines::distributed().await else { return };
    let (clock, redis) = (engines.clock.clone(), engines.redis.as_ref().unwrap());
    let (here, there) = two(&engines).await;
    let mut hints = engines.reach("ear").bus.hints(subject::STATUS).await.unwrap();
    for name in ["a", "b"] {
        register(&*here.registry, name).await;
    }
    tokio::time::sleep(LOOKS).await;
    clock.advance(Duration::from_secs(50));
    here.registry.heartbeats(&hall(), beat("a", clock.now())).await.unwrap();
    tokio::time::sleep(LOOKS).await;

    redis.kill();
    redis.restart().await;
    // Both would be idle or offline by the clock, and nobody could have heard of a sign.
    clock.advance(Duration::from_secs(60));
    tokio::time::sleep(LOOKS * 2).await;
    for registry in [&here.registry, &there.registry] {
        for name in ["a", "b"] {
            assert_eq!(status(&**registry, name).await, Presence::Active, "{name} fell silent with the hot store");
        }
    }
    assert_eq!(announced(&mut hints), Vec::<String>::new());

    there.registry.heartbeats(&hall(), beat("a", clock.now())).await.unwrap();
    clock.advance(Duration::from_secs(59));
    tokio::time::sleep(LOOKS).await;
    assert_eq!(status(&*here.registry, "a").await, Presence::Active, "signs are heard again");
    clock.advance(Duration::from_secs(100));
    eventually("silence counts again", WITHIN, async || {
        (status(&*here.registry, "a").await == Presence::Offline
            && status(&*here.registry, "b").await == Presence::Offline)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_hot_store_and_the_bus_calls_are_answered_and_statuses_stay() {
    let Some(engines) = Engines::distributed().await else { return };
    let clock = engines.clock.clone();
    let (here, there) = two(&engines).await;
    register(&*here.registry, "a").await;
    tokio::time::sleep(LOOKS).await;
    engines.redis.as_ref().unwrap().pause();
    engines.nats.as_ref().unwrap().kill();
    // Until the loops have noticed.
    tokio::time::sleep(LOOKS * 2).await;
    clock.advance(Duration::from_secs(300));

    let begin = Instant::now();
    register(&*here.registry, "b").await;
    here.registry.heartbeats(&hall(), beat("a", clock.now())).await.unwrap();
    for name in ["a", "b"] {
        assert_eq!(status(&*here.registry, name).await, Presence::Active);
    }
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "calls waited {:?} for engines they can do without",
        begin.elapsed()
    );
    assert_eq!(status(&*there.registry, "a").await, Presence::Active, "time stands still where signs cannot be read");
    eventually("the other replica asks the database by itself", WITHIN, async || {
        let page = there.registry.list(&admin(), AgentQuery::default()).await.unwrap();
        (page.total == 2).then_some(())
    })
    .await;

    engines.redis.as_ref().unwrap().resume();
    engines.nats.as_ref().unwrap().restart().await;
    let heard = clock.now();
    eventually("what one heard meanwhile, the other knows", WITHIN, async || {
        let agent = there.registry.get(&admin(), &id("a")).await.unwrap();
        (agent.last_heartbeat == Some(heard)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_named_and_waited_for_and_reads_go_on_without_it() {
    let Some(postgres) = Postgres::start(Disk::Lazy).await else { return };
    let Some(engines) = Engines::on(&postgres).await else { return };
    engines.reach("migration").store.migrate().await.unwrap();
    postgres.kill();
    let replica = Replica::start("early", engines.reach("early"), engines.clock.clone());
    tokio::time::sleep(LOOKS).await;
    let early = replica.registry.list(&admin(), AgentQuery::default()).await.unwrap_err();
    assert_eq!((early.code, early.retryable), (ErrorCode::Unavailable, true), "{early}");
    let access = replica.registry.access(&hall(), None).await.unwrap_err();
    assert_eq!((access.code, access.retryable), (ErrorCode::Unavailable, true), "{access}");

    postgres.restart().await;
    replica.is_ready().await;
    register(&*replica.registry, "a").await;

    postgres.kill();
    tokio::time::sleep(LOOKS).await;
    assert_eq!(status(&*replica.registry, "a").await, Presence::Active);
    assert_eq!(replica.registry.list(&admin(), AgentQuery::default()).await.unwrap().total, 1);
    let new = NewAgent::named(id("b"), "B");
    let refused = replica.registry.register(&admin(), new, RegistrationRight::Caller).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable, "{refused}");
    // An old view must not pass for a new one: a revocation might be missing in it.
    let access = replica.registry.access(&hall(), None).await.unwrap_err();
    assert_eq!(access.code, ErrorCode::Unavailable, "{access}");

    postgres.restart().await;
    eventually("it works again by itself", WITHIN, async || {
        let new = NewAgent::named(id("b"), "B");
        replica.registry.register(&admin(), new, RegistrationRight::Caller).await.ok()
    })
    .await;
}
