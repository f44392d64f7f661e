//! Presence changes by itself, and everyone who watches is told.

use std::time::{Duration, Instant};

use guildhall_tests::{Hall, Setup, eventually, mcp::Session, scenarios};
use serde_json::json;

/// Thresholds short enough for a test; nothing else about them differs from the defaults.
fn impatient() -> Setup {
    Setup::open().set("agent_registry.idle_after", "2s").set("agent_registry.offline_after", "4s")
}

/// Well above the 2 s that a sign of life may take: gateways gather for one, replicas look every other.
fn patient() -> Setup {
    Setup::open().set("agent_registry.idle_after", "5s").set("agent_registry.offline_after", "10s")
}

scenarios! {
    silence_makes_an_agent_idle_then_offline_and_a_call_brings_it_back(impatient());
    any_call_is_a_sign_of_life(patient());
    a_change_of_presence_is_announced_by_itself(impatient());
    a_lost_hot_store_announces_nobody_offline(patient());
}

/// Asks as someone else, so that asking is no sign of life of the one asked about.
async fn status(hall: &Hall, agent: &str) -> String {
    let agent = hall.caller().get(&format!("/api/v1/agents/{agent}")).await.ok();
    agent["status"].as_str().unwrap().to_owned()
}

async fn becomes(hall: &Hall, agent: &str, wanted: &str) {
    eventually(&format!("{agent} is {wanted}"), Duration::from_secs(15), async || {
        (status(hall, agent).await == wanted).then_some(())
    })
    .await;
}

async fn silence_makes_an_agent_idle_then_offline_and_a_call_brings_it_back(hall: &Hall) {
    hall.caller().register("quiet").await;
    let since = Instant::now();
    becomes(hall, "quiet", "idle").await;
    assert!(since.elapsed() > Duration::from_millis(1500), "idle after {:?}", since.elapsed());
    becomes(hall, "quiet", "offline").await;
    assert!(since.elapsed() > Duration::from_millis(3500), "offline after {:?}", since.elapsed());
    let list = hall.caller().get("/api/v1/agents?status=offline").await.ok();
    assert_eq!(list["total"], 1, "a filter sees what the entry says");

    hall.agent("quiet").post("/api/v1/agents/quiet/heartbeat", json!({})).await.ok();
    becomes(hall, "quiet", "active").await;
}

async fn any_call_is_a_sign_of_life(hall: &Hall) {
    hall.caller().register("reader").await;
    // Longer than silence takes to show.
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        hall.agent("reader").get("/api/v1/agents").await.ok();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(status(hall, "reader").await, "active", "it reads all the time");
    }
}

async fn a_change_of_presence_is_announced_by_itself(hall: &Hall) {
    hall.caller().register("watched").await;
    let session = Session::open(&hall.agent("watcher")).await;
    let mut listening = session.listen().await;
    session.result("resources/subscribe", json!({"uri": "agents://watched/status"})).await;
    let told = listening.next(Duration::from_secs(15)).await.expect("someone who watches is told");
    assert_eq!(told["method"], "notifications/resources/updated");
    assert_eq!(told["params"]["uri"], "agents://watched/status");
    let read = session.result("resources/read", json!({"uri": "agents://watched/status"})).await;
    let text = read["contents"][0]["text"].as_str().unwrap();
    assert!(text.contains(r#""idle""#) || text.contains(r#""offline""#), "{text}");
}

const AGENTS: [&str; 3] = ["one", "two", "three"];

/// Signs of life for a while, longer than it takes to be offline: the database does not learn of most of them.
async fn live(hall: &Hall, agents: &[&str], time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        for agent in agents {
            hall.agent(agent).get("/api/v1/agents").await.ok();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn a_lost_hot_store_announces_nobody_offline(hall: &Hall) {
    for agent in AGENTS {
        hall.caller().register(agent).await;
    }
    live(hall, &AGENTS, Duration::from_secs(13)).await;
    hall.lose_hot_store().await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        for agent in AGENTS {
            let status = status(hall, agent).await;
            assert_eq!(status, "active", "{agent}, {:?} after the hot store was lost", since.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // And it still finds out who has really gone quiet.
    live(hall, &["one"], Duration::from_secs(12)).await;
    becomes(hall, "two", "offline").await;
    assert_eq!(status(hall, "one").await, "active");
}
