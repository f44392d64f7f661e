//! Whether an agent is alive, as every replica sees it.

use std::{collections::HashMap, time::Duration};

use futures::{FutureExt, StreamExt, stream::BoxStream};
use guildhall_domain::{
    AgentQuery, Clock, ErrorCode, Presence, Timestamp,
    agent::{Heartbeat, subject},
    ports::bus::Hint,
};
use serde_json::Value;

use super::{Stage, admin, agent, found, hall, id, named, refused, tenant};
use crate::contract::{eventually, insist};

fn beat(stage: &Stage, name: &str, busy: Option<bool>) -> Heartbeat {
    Heartbeat { tenant: tenant("default"), agent_id: id(name), at: stage.clock.now(), busy }
}

/// Both replicas show it, alone and in lists.
async fn comes_to_be(stage: &Stage, name: &str, status: Presence) {
    stage.both_come_to_see(name, &format!("{name} is {}", status.as_str()), |agent| agent.status == status).await;
    for registry in [&stage.here, &stage.there] {
        let listed = || async {
            let query = AgentQuery { status: Some(status), ..AgentQuery::default() };
            let page = registry.list(&admin(), query).await?;
            Ok(page.agents.iter().any(|agent| agent.agent_id == id(name)).then_some(()))
        };
        // Lists take in a sign of life within 250 ms of the clock, which stands still.
        stage.clock.advance(Duration::from_millis(250));
        eventually(&format!("{name} is listed as {}", status.as_str()), listed).await;
    }
}

pub async fn silence_turns_to_idle_and_offline_and_is_announced_once(stage: &Stage) {
    let mut hints = stage.bus.hints(subject::STATUS).await.unwrap();
    let mut heard = Heard::new();
    stage.register(&admin(), &named("silent")).await.unwrap();
    stage.register(&admin(), &named("alive")).await.unwrap();
    comes_to_be(stage, "silent", Presence::Active).await;
    // The watcher has to see them before they change.
    tokio::time::sleep(Duration::from_millis(1_500)).await;

    for (step, status) in [(60, Presence::Idle), (30, Presence::Offline)] {
        stage.clock.advance(Duration::from_secs(step));
        insist(|| async { stage.there.heartbeats(&hall(), vec![beat(stage, "alive", None)]).await }).await.unwrap();
        comes_to_be(stage, "silent", status).await;
        comes_to_be(stage, "alive", Presence::Active).await;
        hear(&mut hints, &mut heard, |heard| {
            heard.get("silent").is_some_and(|said| said.last().unwrap().0 == status.as_str())
        })
        .await;
    }
    insist(|| async { stage.here.heartbeats(&hall(), vec![beat(stage, "silent", None)]).await }).await.unwrap();
    comes_to_be(stage, "silent", Presence::Active).await;
    hear(&mut hints, &mut heard, |heard| heard["silent"].len() >= 3).await;
    // Long enough for the other replica to say it as well, if it did.
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    hear(&mut hints, &mut heard, |_| true).await;
    let said: Vec<_> = heard["silent"].iter().map(|(status, previous)| (&**status, &**previous)).collect();
    assert_eq!(said, [("idle", "active"), ("offline", "idle"), ("active", "offline")]);
    // Between the clock's jump and its heartbeat a look may have found it idle; never offline.
    assert!(heard.get("alive").is_none_or(|said| said.iter().all(|(status, _)| status != "offline")), "{heard:?}");
}

type Heard = HashMap<String, Vec<(String, String)>>;

/// Takes the hints that wait, and those that come until there are `enough`.
async fn hear(hints: &mut BoxStream<'static, Hint>, heard: &mut Heard, enough: impl Fn(&Heard) -> bool) {
    loop {
        let hint = match hints.next().now_or_never() {
            Some(hint) => hint,
            None if enough(heard) => return,
            None => tokio::time::timeout(Duration::from_secs(60), hints.next()).await.expect("a change is announced"),
        };
        let said: Value = serde_json::from_slice(&hint.expect("the bus is there").envelope.payload).unwrap();
        let word = |name: &str| said[name].as_str().unwrap().to_owned();
        heard.entry(word("agent_id")).or_default().push((word("status"), word("previous")));
    }
}

pub async fn a_heartbeat_on_one_replica_is_seen_by_the_other(stage: &Stage) {
    stage.register(&admin(), &named("beating")).await.unwrap();
    stage.clock.advance(Duration::from_secs(30));
    let at = stage.clock.now();
    insist(|| async { stage.here.heartbeats(&hall(), vec![beat(stage, "beating", None)]).await }).await.unwrap();
    stage.both_come_to_see("beating", "the sign of life", |agent| agent.last_heartbeat == Some(at)).await;
    // An older sign that comes late takes nothing back.
    let late = Heartbeat { at: at - Duration::from_secs(20), ..beat(stage, "beating", None) };
    insist(|| async { stage.there.heartbeats(&hall(), vec![late.clone()]).await }).await.unwrap();
    stage.sees(&*stage.there, "beating", "the newest sign", |agent| agent.last_heartbeat == Some(at)).await;
}

pub async fn an_agent_says_that_it_is_busy_and_that_it_is_no_longer(stage: &Stage) {
    stage.register(&admin(), &named("smith")).await.unwrap();
    for (busy, status) in [(Some(true), Presence::Busy), (None, Presence::Busy), (Some(false), Presence::Active)] {
        stage.clock.advance(Duration::from_secs(1));
        insist(|| async { stage.here.heartbeats(&agent("smith"), vec![beat(stage, "smith", busy)]).await })
            .await
            .unwrap();
        comes_to_be(stage, "smith", status).await;
    }
    // Whoever registers begins anew.
    stage.clock.advance(Duration::from_secs(1));
    insist(|| async { stage.here.heartbeats(&agent("smith"), vec![beat(stage, "smith", Some(true))]).await })
        .await
        .unwrap();
    comes_to_be(stage, "smith", Presence::Busy).await;
    stage.clock.advance(Duration::from_secs(1));
    stage.register(&agent("smith"), &named("smith")).await.unwrap();
    comes_to_be(stage, "smith", Presence::Active).await;
    let other =
        insist(|| async { stage.here.heartbeats(&agent("other"), vec![beat(stage, "smith", Some(true))]).await }).await;
    refused(other, ErrorCode::PermissionDenied);
}

pub async fn a_change_right_after_joining_is_announced(stage: &Stage) {
    let mut hints = stage.bus.hints(subject::STATUS).await.unwrap();
    let mut heard = Heard::new();
    stage.register(&admin(), &named("hasty")).await.unwrap();
    stage.clock.advance(Duration::from_millis(1));
    insist(|| async { stage.here.heartbeats(&agent("hasty"), vec![beat(stage, "hasty", Some(true))]).await })
        .await
        .unwrap();
    // Everyone was told of the joining as active.
    hear(&mut hints, &mut heard, |heard| heard.contains_key("hasty")).await;
    assert_eq!(heard["hasty"], [("busy".to_owned(), "active".to_owned())]);
}

pub async fn signs_of_strangers_and_from_the_future_change_nothing(stage: &Stage) {
    stage.register(&admin(), &named("known")).await.unwrap();
    let registered = stage.clock.now();
    let future = Heartbeat { at: registered + Duration::from_secs(3_600), ..beat(stage, "known", None) };
    let elsewhere = Heartbeat { tenant: tenant("acme"), ..beat(stage, "known", None) };
    let ancient = Heartbeat { at: Timestamp::from_millis(i64::MIN), ..beat(stage, "known", None) };
    let beats = vec![beat(stage, "stranger", Some(true)), future, ancient, elsewhere.clone()];
    insist(|| async { stage.here.heartbeats(&hall(), beats.clone()).await }).await.unwrap();
    assert!(insist(|| found(&*stage.here, "stranger")).await.unwrap().is_none());
    stage.clock.advance(Duration::from_secs(90));
    stage
        .both_come_to_see("known", "silent since it registered", |agent| {
            agent.status == Presence::Offline && agent.last_heartbeat == Some(registered)
        })
        .await;
    let many = vec![beat(stage, "known", None); 1_001];
    refused(insist(|| async { stage.here.heartbeats(&hall(), many.clone()).await }).await, ErrorCode::InvalidParams);
    refused(
        insist(|| async { stage.here.heartbeats(&agent("known"), vec![elsewhere.clone()]).await }).await,
        ErrorCode::PermissionDenied,
    );
}
