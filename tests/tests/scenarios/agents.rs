//! Agents are known by name: they register, are found, change and leave.

use std::time::Duration;

use guildhall_tests::{Hall, Setup, eventually, scenarios};
use serde_json::{Value, json};

scenarios! {
    an_agent_registers_and_is_found(Setup::open());
    registering_again_updates_and_keeps_what_is_left_out(Setup::open());
    a_list_is_filtered_and_paged_in_a_fixed_order(Setup::open());
    an_agent_that_left_is_gone_everywhere(Setup::open());
    a_heartbeat_is_for_those_who_are_here(Setup::open());
    an_agent_publishes_its_key(Setup::open());
    a_registration_with_a_fault_has_no_effect(Setup::open());
}

fn ids(list: &Value) -> Vec<&str> {
    list["agents"].as_array().unwrap().iter().map(|agent| agent["agent_id"].as_str().unwrap()).collect()
}

async fn an_agent_registers_and_is_found(hall: &Hall) {
    hall.caller().register("first").await;
    let new = json!({"agent_id": "worker-1", "name": "The worker", "session_id": "s1", "capabilities": ["rust", "review"],
        "pool": "builders", "metadata": {"model": "x", "deep": {"list": [1, null]}}});
    let registered = hall.agent("worker-1").post("/api/v1/agents/register", new).await.ok();
    assert_eq!(registered["success"], true);
    assert_eq!(registered["agent_id"], "worker-1");
    assert_eq!(registered["websocket_url"], "/ws/worker-1");
    assert!(registered["token"].as_str().is_some_and(|token| token.split('.').count() == 3), "a JWT: {registered}");
    let peers = registered["peers"].as_array().unwrap();
    assert!(peers.contains(&json!({"agent_id": "first", "name": "first", "status": "active"})), "{registered}");

    // Whichever gateway answers has heard of it, at the latest a moment later.
    for _ in 0..2 {
        eventually("both agents are listed", Duration::from_secs(5), async || {
            let list = hall.caller().get("/api/v1/agents").await.ok();
            (list["total"] == 2 && ids(&list) == ["first", "worker-1"]).then_some(())
        })
        .await;
    }
    let agent = hall.caller().get("/api/v1/agents/worker-1").await.ok();
    assert_eq!(agent["name"], "The worker");
    assert_eq!(agent["session_id"], "s1");
    assert_eq!(agent["status"], "active");
    assert_eq!(agent["capabilities"], json!(["review", "rust"]));
    assert_eq!(agent["roles"], json!(["agent"]));
    assert_eq!(agent["pool"], "builders");
    assert_eq!(agent["delivery"], "poll");
    assert_eq!(agent["metadata"], json!({"model": "x", "deep": {"list": [1, null]}}));
    assert!(agent["last_heartbeat"].is_string(), "{agent}");

    hall.caller().get("/api/v1/agents/nobody").await.refused(404, "NotFound");
}

async fn registering_again_updates_and_keeps_what_is_left_out(hall: &Hall) {
    let worker = hall.agent("worker");
    let new = json!({"agent_id": "worker", "name": "Before", "capabilities": ["rust"], "pool": "builders"});
    worker.post("/api/v1/agents/register", new).await.ok();
    worker.post("/api/v1/agents/register", json!({"agent_id": "worker", "name": "After"})).await.ok();
    eventually("the new name is seen", Duration::from_secs(5), async || {
        let agent = hall.caller().get("/api/v1/agents/worker").await.ok();
        (agent["name"] == "After").then_some(())
    })
    .await;
    let agent = hall.caller().get("/api/v1/agents/worker").await.ok();
    assert_eq!(agent["capabilities"], json!(["rust"]));
    assert_eq!(agent["pool"], "builders");
    assert_eq!(hall.caller().get("/api/v1/agents").await.ok()["total"], 1);
}

async fn a_list_is_filtered_and_paged_in_a_fixed_order(hall: &Hall) {
    for (id, capability) in [("d", "rust"), ("b", "rust"), ("a", "go"), ("c", "rust")] {
        let new = json!({"agent_id": id, "name": id, "capabilities": [capability]});
        hall.agent(id).post("/api/v1/agents/register", new).await.ok();
    }
    eventually("all four are listed by every gateway", Duration::from_secs(5), async || {
        for gateway in 0..hall.gateways().len() {
            let list = hall.caller_of(gateway).get("/api/v1/agents").await.ok();
            if list["total"] != 4 {
                return None;
            }
        }
        Some(())
    })
    .await;

    let first = hall.caller().get("/api/v1/agents?limit=3").await.ok();
    assert_eq!(ids(&first), ["a", "b", "c"]);
    assert_eq!(first["total"], 4, "the total is over all pages");
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = hall.caller().get(&format!("/api/v1/agents?limit=3&cursor={cursor}")).await.ok();
    assert_eq!(ids(&second), ["d"]);
    assert!(second["next_cursor"].is_null(), "{second}");

    let rust = hall.caller().get("/api/v1/agents?capability=rust&limit=2").await.ok();
    assert_eq!(ids(&rust), ["b", "c"]);
    assert_eq!(rust["total"], 3);
    let cursor = rust["next_cursor"].as_str().unwrap();
    let rest = hall.caller().get(&format!("/api/v1/agents?capability=rust&limit=2&cursor={cursor}")).await.ok();
    assert_eq!(ids(&rest), ["d"]);

    assert_eq!(hall.caller().get("/api/v1/agents?role=agent").await.ok()["total"], 4);
    assert_eq!(hall.caller().get("/api/v1/agents?role=admin").await.ok()["total"], 0);
    assert_eq!(hall.caller().get("/api/v1/agents?status=active").await.ok()["total"], 4);
    assert_eq!(hall.caller().get("/api/v1/agents?status=offline").await.ok()["total"], 0);

    for fault in ["status=asleep", "limit=0", "limit=1001", "limit=many", "colour=red", "cursor=%20"] {
        hall.caller().get(&format!("/api/v1/agents?{fault}")).await.refused(400, "InvalidParams");
    }
}

async fn an_agent_that_left_is_gone_everywhere(hall: &Hall) {
    hall.caller().register("leaver").await;
    hall.agent("leaver").delete("/api/v1/agents/leaver").await.ok();
    eventually("nobody lists it", Duration::from_secs(5), async || {
        for gateway in 0..hall.gateways().len() {
            let caller = hall.caller_of(gateway);
            if caller.get("/api/v1/agents").await.ok()["total"] != 0 {
                return None;
            }
            if caller.get("/api/v1/agents/leaver").await.status != 404 {
                return None;
            }
        }
        Some(())
    })
    .await;
    hall.agent("leaver").delete("/api/v1/agents/leaver").await.refused(404, "NotFound");
    hall.caller().register("leaver").await;
    eventually("who comes back is found again", Duration::from_secs(5), async || {
        (hall.caller().get("/api/v1/agents/leaver").await.status == 200).then_some(())
    })
    .await;
}

async fn a_heartbeat_is_for_those_who_are_here(hall: &Hall) {
    hall.caller().register("alive").await;
    let alive = hall.agent("alive");
    let path = "/api/v1/agents/alive/heartbeat";
    // Six looks in a row, so that every replica of every service has been asked.
    let settles_on = async |status: &str| {
        eventually(status, Duration::from_secs(5), async || {
            for _ in 0..6 {
                if hall.caller().get("/api/v1/agents/alive").await.ok()["status"] != status {
                    return None;
                }
            }
            Some(())
        })
        .await;
    };
    alive.post(path, json!({"status": "busy"})).await.ok();
    settles_on("busy").await;
    // A sign of life alone does not take it back.
    alive.post(path, json!({})).await.ok();
    tokio::time::sleep(Duration::from_secs(2)).await;
    settles_on("busy").await;
    alive.post(path, json!({"status": "active"})).await.ok();
    settles_on("active").await;

    alive.post(path, json!({"status": "offline"})).await.refused(400, "InvalidParams");
    hall.agent("ghost").post("/api/v1/agents/ghost/heartbeat", json!({})).await.refused(404, "NotFound");
}

async fn an_agent_publishes_its_key(hall: &Hall) {
    hall.caller().register("sealed").await;
    let key = json!({"algorithm": "x25519", "key": "bm90IGEgcmVhbCBrZXkgYnV0IGxvbmcgZW5vdWdoIQ=="});
    let path = "/api/v1/agents/sealed/key";
    hall.agent("sealed").put(path, key.clone()).await.ok();
    eventually("the key is published", Duration::from_secs(5), async || {
        let agent = hall.caller().get("/api/v1/agents/sealed").await.ok();
        (agent["public_key"] == key).then_some(())
    })
    .await;
    let not_a_key = json!({"algorithm": "x25519", "key": "???"});
    hall.agent("sealed").put(path, not_a_key).await.refused(400, "InvalidParams");
    hall.agent("ghost").put("/api/v1/agents/ghost/key", key).await.refused(404, "NotFound");
}

async fn a_registration_with_a_fault_has_no_effect(hall: &Hall) {
    let faults = [
        json!({"name": "no id"}),
        json!({"agent_id": "ALL", "name": "reserved"}),
        json!({"agent_id": "-starts-wrong", "name": "x"}),
        json!({"agent_id": "has space", "name": "x"}),
        json!({"agent_id": "x".repeat(129), "name": "x"}),
        json!({"agent_id": "worker", "name": ""}),
        json!({"agent_id": "worker", "name": "x\u{0007}"}),
        json!({"agent_id": "worker", "name": 7}),
        json!({"agent_id": "worker", "name": "x", "capabilities": "rust"}),
        json!({"agent_id": "worker", "name": "x", "delivery": "pigeon"}),
        json!({"agent_id": "worker", "name": "x", "unheard_of": 1}),
        json!({"agent_id": "worker", "name": "x", "metadata": []}),
        json!(["worker"]),
        json!("worker"),
    ];
    for fault in faults {
        let answer = hall.agent("worker").post("/api/v1/agents/register", fault.clone()).await;
        assert_eq!(answer.status, 400, "{fault}: {}", answer.text);
        answer.refused(400, "InvalidParams");
    }
    let heavy = json!({"agent_id": "worker", "name": "x", "metadata": {"heavy": "x".repeat(17 * 1024)}});
    hall.agent("worker").post("/api/v1/agents/register", heavy).await.refused(413, "PayloadTooLarge");
    assert_eq!(hall.caller().get("/api/v1/agents").await.ok()["total"], 0);
}
