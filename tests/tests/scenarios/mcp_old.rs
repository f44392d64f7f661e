//! MCP for old clients: sessions that belong to one principal, outlive a gateway, and end.

use std::time::Duration;

use guildhall_tests::{
    Hall, Setup, eventually,
    mcp::{self, Session},
    scenarios,
};
use serde_json::json;

scenarios! {
    an_old_client_initializes_lists_and_calls(Setup::open());
    a_session_in_someone_elses_hands_is_unknown(Setup::required());
    a_session_survives_the_death_of_its_gateway(Setup::open());
    a_deleted_session_is_gone_everywhere(Setup::open());
    sessions_are_capped_and_expire(Setup::open().set("gateway.max_sessions", "3").set("gateway.session_idle", "3s"));
    every_old_revision_is_spoken(Setup::open());
    a_batch_is_answered_for_its_one_revision(Setup::open());
}

async fn an_old_client_initializes_lists_and_calls(hall: &Hall) {
    let session = Session::open(&hall.agent("old")).await;
    assert_eq!(session.result("ping", json!({})).await, json!({}));
    let tools = session.result("tools/list", json!({})).await;
    let names: Vec<&str> =
        tools["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"list_agents") && names.contains(&"register_agent"), "{names:?}");
    for tool in tools["tools"].as_array().unwrap() {
        for part in ["description", "inputSchema", "outputSchema", "annotations"] {
            assert!(!tool[part].is_null(), "{part} of {}", tool["name"]);
        }
    }
    let registered = session.call("register_agent", json!({"name": "The old one", "capabilities": ["patience"]})).await;
    assert_eq!(registered["structuredContent"]["agent_id"], "old", "{registered}");
    eventually("it lists itself", Duration::from_secs(5), async || {
        let listed = session.call("list_agents", json!({"capability": "patience"})).await;
        assert_ne!(listed["isError"], true, "{listed}");
        let agents = listed["structuredContent"]["agents"].as_array().unwrap().clone();
        (agents.len() == 1 && agents[0]["id"] == "old" && agents[0]["name"] == "The old one").then_some(())
    })
    .await;
    let listed = session.call("list_agents", json!({})).await;
    let text: serde_json::Value = serde_json::from_str(listed["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(text, listed["structuredContent"], "the text says the same");
    assert_eq!(text["success"], true);
}

async fn a_session_in_someone_elses_hands_is_unknown(hall: &Hall) {
    let owner = hall.caller().token(&hall.admin().register("owner").await);
    let thief = hall.caller().token(&hall.admin().register("thief").await);
    let session = Session::open(&owner).await;
    let stolen = session.used_by(&thief);
    for _ in 0..2 {
        let answer = stolen.ask("tools/list", json!({})).await;
        assert_eq!(answer.status, 404, "as unknown as one that never was: {}", answer.text);
        assert_eq!(stolen.end().await.status, 404);
    }
    let made_up = stolen.with_id("made-up");
    let (one, other) = (stolen.ask("ping", json!({})).await, made_up.ask("ping", json!({})).await);
    assert_eq!((one.status, one.text), (other.status, other.text), "no difference to tell by");
    assert_eq!(session.used_by(&hall.caller()).ask("ping", json!({})).await.status, 401);
    session.result("tools/list", json!({})).await;
}

async fn a_session_survives_the_death_of_its_gateway(hall: &Hall) {
    if hall.gateways().len() == 1 {
        // One process that dies takes its memory along: its clients hear "unknown session", and begin again.
        let session = Session::open(&hall.agent("loyal")).await;
        hall.gateways()[0].restart().await;
        assert_eq!(session.ask("tools/list", json!({})).await.status, 404);
        Session::open(&hall.agent("loyal")).await.result("tools/list", json!({})).await;
        return;
    }
    let session = Session::open(&hall.caller_of(0).agent("loyal")).await;
    session.result("tools/list", json!({})).await;
    hall.gateways()[0].process.kill();
    let elsewhere = session.used_by(&hall.caller_of(1).agent("loyal"));
    for _ in 0..3 {
        elsewhere.result("tools/list", json!({})).await;
    }
    // And the balancer's clients never noticed.
    session.used_by(&hall.agent("loyal")).call("list_agents", json!({})).await;
    hall.gateways()[0].restart().await;
    session.result("tools/list", json!({})).await;
}

async fn a_deleted_session_is_gone_everywhere(hall: &Hall) {
    let session = Session::open(&hall.agent("leaver")).await;
    for gateway in 0..hall.gateways().len() {
        session.used_by(&hall.caller_of(gateway).agent("leaver")).result("tools/list", json!({})).await;
    }
    let ended = session.end().await;
    assert!((200..300).contains(&ended.status), "{} {}", ended.status, ended.text);
    for gateway in 0..hall.gateways().len() {
        let there = session.used_by(&hall.caller_of(gateway).agent("leaver"));
        eventually("every gateway has forgotten it", Duration::from_secs(5), async || {
            (there.ask("tools/list", json!({})).await.status == 404).then_some(())
        })
        .await;
    }
}

async fn sessions_are_capped_and_expire(hall: &Hall) {
    let caller = hall.caller_of(0).agent("many");
    let mut refused = None;
    for _ in 0..4 {
        let answer = mcp::initialize(&caller).await;
        if answer.status != 200 {
            refused = Some(answer);
        }
    }
    let refused = refused.expect("four sessions where three may be");
    assert!([429, 503].contains(&refused.status), "{} {}", refused.status, refused.text);
    eventually("there is room again when old ones have expired", Duration::from_secs(45), async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        (mcp::initialize(&caller).await.status == 200).then_some(())
    })
    .await;
}

async fn every_old_revision_is_spoken(hall: &Hall) {
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let params =
            json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        let accept = "application/json, text/event-stream";
        let answer = hall.agent("old").header("accept", accept).post("/mcp", body).await;
        assert_eq!(mcp::result(&answer)["protocolVersion"], revision);
    }
}

async fn a_batch_is_answered_for_its_one_revision(hall: &Hall) {
    let params =
        json!({"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    let caller = hall.agent("batcher").header("accept", "application/json, text/event-stream");
    let opened = caller.post("/mcp", body).await;
    mcp::result(&opened);
    let old = caller.header("mcp-session-id", opened.header("mcp-session-id").unwrap());
    old.post("/mcp", json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    let batch = json!([
        {"jsonrpc": "2.0", "id": "a", "method": "ping"},
        {"jsonrpc": "2.0", "id": "b", "method": "tools/list"},
    ]);
    let answer = old.post("/mcp", batch.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    for id in [r#""id":"a""#, r#""id":"b""#] {
        assert!(answer.text.contains(id), "{id}: {}", answer.text);
    }
    let later = Session::open(&hall.agent("batcher")).await;
    let refused = later.post(batch).await;
    assert_eq!(refused.status, 400, "batches are of 2025-03-26 alone: {}", refused.text);
}
