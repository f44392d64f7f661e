//! Who may be whom: ids cannot be stolen, a paused agent is refused, tenants do not see each other.

use std::time::Duration;

use guildhall_tests::{Hall, Setup, eventually, scenarios};
use serde_json::json;

scenarios! {
    without_a_good_token_nothing_is_answered(Setup::required());
    an_id_cannot_be_stolen(Setup::required());
    an_agent_acts_for_itself_alone(Setup::required());
    roles_are_granted_and_never_claimed(Setup::required());
    a_paused_agent_is_refused_with_the_reason_until_it_is_resumed(Setup::required());
    a_tenant_sees_nothing_of_another(Setup::required());
    in_an_open_hall_a_caller_names_itself(Setup::open());
}

const SOON: Duration = Duration::from_secs(6);

async fn without_a_good_token_nothing_is_answered(hall: &Hall) {
    for (caller, why) in [
        (hall.caller(), "none"),
        (hall.caller().token("not-a-token"), "no JWT"),
        (hall.caller().header("authorization", "Basic YTpi"), "another scheme"),
        (hall.caller().agent("worker"), "a name alone"),
        (hall.caller().token("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."), "unsigned"),
    ] {
        let answer = caller.get("/api/v1/agents").await;
        assert!(answer.header("www-authenticate").is_some_and(|asks| asks.starts_with("Bearer")), "{why}");
        answer.refused(401, "AuthenticationError");
        let answer = guildhall_tests::mcp::initialize(&caller).await;
        assert_eq!(answer.status, 401, "{why}: {}", answer.text);
        assert!(answer.header("www-authenticate").is_some(), "{why}");
        let tool = caller.post("/tools/list_agents", json!({})).await;
        tool.refused(401, "AuthenticationError");
    }
    // Probes and keys are for everyone.
    for public in ["/health", "/ready", "/.well-known/jwks.json", "/api/openapi.json"] {
        assert_eq!(hall.caller().get(public).await.status, 200, "{public}");
    }
}

async fn an_id_cannot_be_stolen(hall: &Hall) {
    let token = hall.admin().register("victim").await;
    let thief = hall.caller().token(&hall.admin().register("thief").await);
    let taken = json!({"agent_id": "victim", "name": "mine now"});
    thief.post("/api/v1/agents/register", taken.clone()).await.refused(403, "PermissionDenied");
    // Not by a registration key either, which is for new ids.
    let key = hall.run(&["token", "registration-key", "--json"]).await.ok().json();
    let key = key["key"].as_str().unwrap();
    hall.caller().token(key).post("/api/v1/agents/register", taken.clone()).await.refused(403, "PermissionDenied");
    assert_eq!(hall.admin().get("/api/v1/agents/victim").await.ok()["name"], "victim");
    // Its owner may.
    hall.caller().token(&token).post("/api/v1/agents/register", taken).await.ok();
}

async fn an_agent_acts_for_itself_alone(hall: &Hall) {
    hall.admin().register("other").await;
    let agent = hall.caller().token(&hall.admin().register("agent").await);
    let key = json!({"algorithm": "x25519", "key": "AAAA"});
    agent.put("/api/v1/agents/other/key", key).await.refused(403, "PermissionDenied");
    agent.post("/api/v1/agents/other/heartbeat", json!({})).await.refused(403, "PermissionDenied");
    agent.delete("/api/v1/agents/other").await.refused(403, "PermissionDenied");
    agent.post("/api/v1/agents/other/pause", json!({"reason": "because"})).await.refused(403, "PermissionDenied");
    agent.post("/api/v1/agents/agent/heartbeat", json!({})).await.ok();
    // Naming another beside the token does not make it another.
    let disguised = agent.agent("other");
    let answer = disguised.delete("/api/v1/agents/other").await;
    answer.refused(403, "PermissionDenied");
    let observer = hall.issue_token(&["--agent", "looker", "--role", "observer"]).await;
    let observer = hall.caller().token(&observer);
    observer.get("/api/v1/agents").await.ok();
    let new = json!({"agent_id": "newcomer", "name": "x"});
    observer.post("/api/v1/agents/register", new).await.refused(403, "PermissionDenied");
}

async fn roles_are_granted_and_never_claimed(hall: &Hall) {
    let key = hall.run(&["token", "registration-key", "--json"]).await.ok().json();
    let key = hall.caller().token(key["key"].as_str().unwrap());
    let claimed = json!({"agent_id": "climber", "name": "x", "roles": ["admin"]});
    key.post("/api/v1/agents/register", claimed.clone()).await.refused(403, "PermissionDenied");
    hall.admin().get("/api/v1/agents/climber").await.refused(404, "NotFound");
    let granted = hall.admin().post("/api/v1/agents/register", claimed).await.ok();
    let climber = hall.caller().token(granted["token"].as_str().unwrap());
    assert_eq!(climber.get("/api/v1/agents/climber").await.ok()["roles"], json!(["admin"]));
}

async fn a_paused_agent_is_refused_with_the_reason_until_it_is_resumed(hall: &Hall) {
    let token = hall.admin().register("worker").await;
    let worker = hall.caller().token(&token);
    worker.get("/api/v1/agents").await.ok();
    let reason = "spent its budget of the day";
    let paused = hall.admin().post("/api/v1/agents/worker/pause", json!({"reason": reason})).await.ok();
    assert_eq!(paused["paused"], reason);
    for gateway in 0..hall.gateways().len() {
        let worker = hall.caller_of(gateway).token(&token);
        eventually("every gateway refuses it", SOON, async || {
            (worker.get("/api/v1/agents").await.status == 403).then_some(())
        })
        .await;
    }
    let refused = worker.get("/api/v1/agents").await.refused(403, "PermissionDenied");
    assert!(refused["message"].as_str().unwrap().contains(reason), "{refused}");
    let tool = worker.post("/tools/list_agents", json!({})).await.refused(403, "PermissionDenied");
    assert!(tool["message"].as_str().unwrap().contains(reason), "{tool}");
    assert_eq!(guildhall_tests::mcp::initialize(&worker).await.status, 403);

    hall.admin().post("/api/v1/agents/worker/resume", json!({})).await.ok();
    for gateway in 0..hall.gateways().len() {
        let worker = hall.caller_of(gateway).token(&token);
        eventually("it may call again", SOON, async || {
            (worker.get("/api/v1/agents").await.status == 200).then_some(())
        })
        .await;
    }
    hall.admin().post("/api/v1/agents/nobody/pause", json!({"reason": reason})).await.refused(404, "NotFound");
}

async fn a_tenant_sees_nothing_of_another(hall: &Hall) {
    hall.admin().register("ours").await;
    let theirs = hall.issue_token(&["--agent", "boss", "--role", "admin", "--tenant", "elsewhere"]).await;
    let theirs = hall.caller().token(&theirs);
    assert_eq!(theirs.get("/api/v1/agents").await.ok()["total"], 0);
    theirs.get("/api/v1/agents/ours").await.refused(404, "NotFound");
    theirs.delete("/api/v1/agents/ours").await.refused(404, "NotFound");
    theirs.post("/api/v1/agents/ours/pause", json!({"reason": "envy"})).await.refused(404, "NotFound");
    let listed = theirs.post("/tools/list_agents", json!({})).await.ok();
    assert_eq!(listed["agents"], json!([]));
    assert_eq!(theirs.get("/api/v1/audit?act=agent.register").await.ok()["records"], json!([]));

    // The same id lives in both, each with its own name.
    theirs.post("/api/v1/agents/register", json!({"agent_id": "ours", "name": "theirs"})).await.ok();
    assert_eq!(hall.admin().get("/api/v1/agents/ours").await.ok()["name"], "ours");
    eventually("each tenant sees its own", SOON, async || {
        let list = theirs.get("/api/v1/agents").await.ok();
        (list["agents"][0]["name"] == "theirs" && list["total"] == 1).then_some(())
    })
    .await;
}

async fn in_an_open_hall_a_caller_names_itself(hall: &Hall) {
    hall.caller().register("named").await;
    // By header, or in the address.
    hall.agent("named").post("/tools/register_agent", json!({"name": "by header"})).await.ok();
    hall.caller().post("/tools/register_agent?agent=named", json!({"name": "by address"})).await.ok();
    let nameless = hall.caller().post("/tools/register_agent", json!({"name": "x"})).await;
    let refused = nameless.refused(400, "InvalidParams");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("agent=") && message.contains("X-Agent-Id"), "says how to name oneself: {message}");
    hall.agent("not an id").get("/api/v1/agents").await.refused(400, "InvalidParams");
    hall.agent("ALL").get("/api/v1/agents").await.refused(400, "InvalidParams");
}
