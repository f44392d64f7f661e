//! Replicas that start together, die, stop and come back, over the same engines.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::join_all, stream::BoxStream};
use guildhall_domain::{
    AgentId, AgentQuery, Call, Clock, NewAgent, Presence, Principal, PrincipalKind, TenantId, Timestamp,
    agent::{Heartbeat, subject},
    ports::{AgentRegistry, agent_registry::RegistrationRight, bus::Hint},
    principal::roles,
};
use guildhall_guard::{ExposeSecret, token};
use guildhall_testkit::engines::eventually;
use serde_json::Value;

use crate::stage::{Engines, Reached, Replica, hall};

/// A replica looks every second; twice that, and some for a busy machine.
const LOOKS: Duration = Duration::from_millis(2_500);
const WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn admin() -> Call {
    Call::new(Principal::new(TenantId::default(), PrincipalKind::Person, "operator", [roles::ADMIN]))
}

pub(crate) fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

pub(crate) async fn register(registry: &dyn AgentRegistry, name: &str) {
    registry.register(&admin(), NewAgent::named(id(name), name), RegistrationRight::Caller).await.unwrap();
}

pub(crate) async fn status(registry: &dyn AgentRegistry, name: &str) -> Presence {
    registry.get(&admin(), &id(name)).await.unwrap().status
}

pub(crate) fn beat(name: &str, at: Timestamp) -> Vec<Heartbeat> {
    vec![Heartbeat { tenant: TenantId::default(), agent_id: id(name), at, busy: None }]
}

/// Every change that was announced until now.
pub(crate) fn announced(hints: &mut BoxStream<'static, Hint>) -> Vec<String> {
    let mut said = Vec::new();
    while let Some(Some(hint)) = hints.next().now_or_never() {
        let payload: Value = serde_json::from_slice(&hint.envelope.payload).unwrap();
        let word = |name: &str| payload[name].as_str().unwrap().to_owned();
        said.push(format!("{} {}->{}", word("agent_id"), word("previous"), word("status")));
    }
    said
}

async fn ready(name: &str, reached: &Reached, clock: Arc<dyn Clock>) -> Replica {
    let replica = Replica::start(name, reached.clone(), clock);
    replica.is_ready().await;
    replica
}

async fn one_dies_while_it_watches(engines: Engines) {
    let clock = engines.clock.clone();
    let first = engines.reach("first");
    first.store.migrate().await.unwrap();
    let mut hints = first.bus.hints(subject::STATUS).await.unwrap();
    let watcher = ready("first", &first, clock.clone()).await;
    register(&*watcher.registry, "a").await;
    // It has the lease, and has said nothing but knows what there is to say.
    tokio::time::sleep(LOOKS).await;
    let other = ready("second", &engines.reach("second"), clock.clone()).await;
    clock.advance(Duration::from_secs(60));
    eventually("the first says idle", WITHIN, async || (announced(&mut hints) == ["a active->idle"]).then_some(()))
        .await;

    drop(watcher);
    clock.advance(Duration::from_secs(30));
    // The lease of the dead runs out after 5 s: by this clock in memory, by its own in Redis.
    eventually("the other takes over", WITHIN, async || {
        let said = announced(&mut hints);
        assert!(said.len() <= 1 && said.iter().all(|said| said == "a idle->offline"), "{said:?}");
        (said.len() == 1).then_some(())
    })
    .await;
    let third = ready("third", &engines.reach("third"), clock.clone()).await;
    drop(other);
    clock.advance(Duration::from_secs(10));
    tokio::time::sleep(Duration::from_secs(6) + LOOKS).await;
    assert_eq!(announced(&mut hints), Vec::<String>::new(), "who took over said it again");
    third.registry.heartbeats(&hall(), beat("a", clock.now())).await.unwrap();
    // Signs show in lists within 250 ms, and this clock stands still.
    clock.advance(Duration::from_secs(1));
    eventually("the third takes over", WITHIN, async || (announced(&mut hints) == ["a offline->active"]).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_replica_that_watches_dies_another_goes_on_and_repeats_nothing() {
    one_dies_while_it_watches(Engines::embedded()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_replica_that_watches_dies_another_goes_on_and_repeats_nothing_distributed() {
    let Some(engines) = Engines::distributed().await else { return };
    one_dies_while_it_watches(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_agree_on_one_signing_key() {
    let Some(engines) = Engines::distributed().await else { return };
    let reached: Vec<_> = (0..4).map(|n| engines.reach(&format!("r{n}"))).collect();
    reached[0].store.migrate().await.unwrap();
    let start =
        |(n, reached): (usize, &Reached)| Replica::start(&format!("r{n}"), reached.clone(), engines.clock.clone());
    let replicas: Vec<_> = reached.iter().enumerate().map(start).collect();
    for replica in &replicas {
        replica.is_ready().await;
    }
    let new = NewAgent::named(id("a"), "A");
    let token = replicas[0].registry.register(&admin(), new, RegistrationRight::Caller).await.unwrap().token.token;
    for replica in &replicas {
        eventually("the token is good at every replica", WITHIN, async || {
            let view = replica.registry.access(&hall(), None).await.unwrap().unwrap();
            assert!(view.keys.len() <= 1, "two first keys: {:?}", view.keys);
            token::verify(token.expose_secret(), &view, engines.clock.now()).ok()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_many_on_both_replicas_leave_both_with_the_same_agents_at_once() {
    let Some(engines) = Engines::distributed().await else { return };
    let reached = [engines.reach("r0"), engines.reach("r1")];
    reached[0].store.migrate().await.unwrap();
    let replicas =
        [ready("r0", &reached[0], engines.clock.clone()).await, ready("r1", &reached[1], engines.clock.clone()).await];
    join_all((0..200).map(|n| {
        let registry = &replicas[n % 2].registry;
        async move {
            let name = format!("a-{n}");
            register(&**registry, &name).await;
            if n % 3 == 0 {
                registry.remove(&admin(), &id(&name)).await.unwrap();
            }
            if n % 6 == 0 {
                register(&**registry, &name).await;
            }
        }
    }))
    .await;
    let query = AgentQuery { limit: 1_000, ..AgentQuery::default() };
    let listed = async |replica: &Replica| {
        let page = replica.registry.list(&admin(), query.clone()).await.unwrap();
        page.agents.iter().map(|agent| (agent.agent_id.clone(), agent.version)).collect::<Vec<_>>()
    };
    let wanted = (0..200).filter(|n| n % 3 != 0 || n % 6 == 0).count();
    // A replica that the hot store keeps waiting lists what it knows.
    let same = async || {
        let (one, other) = (listed(&replicas[0]).await, listed(&replicas[1]).await);
        (one == other && one.len() == wanted).then_some(())
    };
    eventually("both replicas list the same agents, and all of them", WITHIN, same).await;
    let stored: u64 = reached[0].agents.changes(0, 1_000).await.unwrap().len() as u64;
    assert_eq!(stored, 200, "every agent, gone or not, has one last change");
}

/// A process of its own over what the embedded hall keeps on disk: its memory begins empty.
fn restarted(engines: &Engines) -> Reached {
    let hot = guildhall_hot::connect("memory:", engines.clock.clone()).unwrap();
    Reached { hot, ..engines.reach("again") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hall_that_was_stopped_knows_last_signs_when_it_comes_back() {
    let engines = Engines::embedded();
    let (clock, reached) = (engines.clock.clone(), engines.reach("first"));
    reached.store.migrate().await.unwrap();
    let first = ready("first", &reached, clock.clone()).await;
    register(&*first.registry, "a").await;
    // The look that takes the lease saves; what comes after it is saved at the end.
    tokio::time::sleep(LOOKS).await;
    clock.advance(Duration::from_secs(20));
    let seen = clock.now();
    first.registry.heartbeats(&hall(), beat("a", seen)).await.unwrap();
    first.stop().await;

    clock.advance(Duration::from_secs(10));
    let second = ready("second", &restarted(&engines), clock.clone()).await;
    let agent = second.registry.get(&admin(), &id("a")).await.unwrap();
    assert_eq!((agent.last_heartbeat, agent.status), (Some(seen), Presence::Active));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_hall_turns_nobody_offline_when_it_comes_back_before_they_had_time_for_a_sign() {
    let engines = Engines::embedded();
    let (clock, reached) = (engines.clock.clone(), engines.reach("first"));
    reached.store.migrate().await.unwrap();
    let first = ready("first", &reached, clock.clone()).await;
    register(&*first.registry, "a").await;
    clock.advance(Duration::from_secs(50));
    first.registry.heartbeats(&hall(), beat("a", clock.now())).await.unwrap();
    drop(first);

    // The database knows of no sign for 100 s; the hall was killed with one of 50 s ago in memory.
    clock.advance(Duration::from_secs(50));
    let mut hints = reached.bus.hints(subject::STATUS).await.unwrap();
    let second = ready("second", &restarted(&engines), clock.clone()).await;
    register(&*second.registry, "b").await;
    tokio::time::sleep(LOOKS).await;
    assert_eq!(status(&*second.registry, "a").await, Presence::Active);
    clock.advance(Duration::from_secs(80));
    second.registry.heartbeats(&hall(), beat("b", clock.now())).await.unwrap();
    tokio::time::sleep(LOOKS).await;
    assert_eq!(status(&*second.registry, "a").await, Presence::Active, "it had 90 s for a sign");
    clock.advance(Duration::from_secs(10));
    eventually("who gave no sign is offline", WITHIN, async || {
        announced(&mut hints).contains(&"a active->offline".to_owned()).then_some(())
    })
    .await;
}
