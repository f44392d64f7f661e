//! MCP 2026-07-28: no session; every request says everything, and headers that contradict it are refused.

use guildhall_tests::{
    Hall, Setup,
    mcp::{self, NEW, Stateless},
    scenarios,
};
use serde_json::json;

scenarios! {
    a_new_client_discovers_lists_and_calls_without_a_session(Setup::open());
    headers_that_contradict_the_body_are_refused(Setup::open());
    a_request_that_leaves_out_what_it_must_say_is_refused(Setup::open());
    what_the_revision_removed_is_unknown(Setup::open());
    a_missing_resource_is_invalid_params(Setup::open());
}

async fn a_new_client_discovers_lists_and_calls_without_a_session(hall: &Hall) {
    let caller = hall.agent("new");
    let answer = Stateless::new("server/discover", json!({})).by(&caller).await;
    assert!(answer.header("mcp-session-id").is_none(), "there are no sessions");
    let discovered = mcp::result(&answer);
    let versions = discovered["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!(NEW)), "{discovered}");
    assert_eq!(discovered["resultType"], "complete", "{discovered}");

    let listed = Stateless::new("tools/list", json!({})).result(&caller).await;
    assert_eq!(listed["resultType"], "complete", "{listed}");
    assert!(listed["ttlMs"].as_u64().is_some(), "{listed}");
    assert!(["public", "private"].contains(&listed["cacheScope"].as_str().unwrap()), "{listed}");
    let again = Stateless::new("tools/list", json!({})).result(&caller).await;
    assert_eq!(listed["tools"], again["tools"], "a list is in a fixed order");

    let registered = Stateless::tool("register_agent", json!({"name": "The new one"})).result(&caller).await;
    assert_eq!(registered["structuredContent"]["agent_id"], "new", "{registered}");
    let agents = Stateless::tool("list_agents", json!({})).result(&caller).await;
    assert_eq!(agents["structuredContent"]["success"], true, "{agents}");
    assert_eq!(agents["resultType"], "complete", "{agents}");
}

async fn headers_that_contradict_the_body_are_refused(hall: &Hall) {
    let caller = hall.agent("new");
    let call = || Stateless::tool("list_agents", json!({}));
    for (fault, why) in [
        (call().header("mcp-method", Some("tools/list")), "another method"),
        (call().header("mcp-method", None), "no method"),
        (call().header("mcp-name", Some("register_agent")), "another tool"),
        (call().header("mcp-name", None), "no tool"),
    ] {
        let answer = fault.by(&caller).await;
        assert_eq!(mcp::error_code(&answer, 400), -32020, "{why}: {}", answer.text);
    }
    let encoded = call().header("mcp-name", Some("=?base64?bGlzdF9hZ2VudHM=?="));
    encoded.result(&caller).await;
    let strange = call().header("mcp-protocol-version", Some("2099-01-01"));
    let answer = strange.by(&caller).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
}

async fn a_request_that_leaves_out_what_it_must_say_is_refused(hall: &Hall) {
    let caller = hall.agent("new");
    for part in ["protocolVersion", "clientCapabilities"] {
        let mut request = Stateless::new("tools/list", json!({}));
        let meta = request.body["params"]["_meta"].as_object_mut().unwrap();
        meta.remove(&format!("io.modelcontextprotocol/{part}"));
        let answer = request.by(&caller).await;
        assert_eq!(mcp::error_code(&answer, 400), -32602, "without {part}: {}", answer.text);
    }
    let mut request = Stateless::new("tools/list", json!({})).header("mcp-protocol-version", Some("2099-01-01"));
    request.body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2099-01-01");
    let answer = request.by(&caller).await;
    assert_eq!(mcp::error_code(&answer, 400), -32022, "{}", answer.text);
    let data = mcp::message(&answer)["error"]["data"].clone();
    assert_eq!(data["requested"], "2099-01-01", "{data}");
    assert!(data["supported"].as_array().unwrap().contains(&json!(NEW)), "{data}");
}

async fn what_the_revision_removed_is_unknown(hall: &Hall) {
    for method in ["ping", "logging/setLevel", "resources/subscribe", "initialize"] {
        let answer = Stateless::new(method, json!({})).by(&hall.agent("new")).await;
        assert_eq!(mcp::error_code(&answer, 404), -32601, "{method}: {}", answer.text);
    }
}

async fn a_missing_resource_is_invalid_params(hall: &Hall) {
    for uri in ["agents://nobody/status", "agents://nobody/nothing", "files://x", "not a uri"] {
        let answer = Stateless::new("resources/read", json!({"uri": uri})).by(&hall.agent("new")).await;
        assert_eq!(mcp::message(&answer)["error"]["code"], -32602, "{uri}: {}", answer.text);
    }
}
