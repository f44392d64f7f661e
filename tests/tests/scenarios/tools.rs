//! The hall's tools for clients without MCP, and what a caller gets to see of them.

use guildhall_tests::{Hall, Setup, mcp::Stateless, scenarios};
use serde_json::{Value, json};

scenarios! {
    a_tool_is_called_by_a_plain_post(Setup::open());
    register_agent_changes_the_callers_own_entry_alone(Setup::open());
    a_caller_sees_what_its_role_allows(Setup::required()
        .set("roles.mute.allow", "agents.list,tool:list_agents,tools.call").set("roles.blind.allow", "agents.get"));
    toolsets_narrow_the_list(Setup::open());
}

async fn a_tool_is_called_by_a_plain_post(hall: &Hall) {
    hall.caller().register("worker").await;
    let listed = hall.caller().post("/tools/list_agents", json!({})).await.ok();
    assert_eq!(listed["success"], true);
    let agent = &listed["agents"][0];
    assert_eq!((&agent["id"], &agent["name"]), (&json!("worker"), &json!("worker")));
    assert!(agent["matrix_user_id"].is_null(), "no homeserver is configured: {agent}");
    // Arguments may be left out with their braces.
    let request = hall.caller().request(reqwest::Method::POST, "/tools/list_agents");
    guildhall_tests::Answer::to(request).await.ok();
}

async fn register_agent_changes_the_callers_own_entry_alone(hall: &Hall) {
    hall.caller().register("other").await;
    let me = hall.agent("me");
    let registered = me.post("/tools/register_agent", json!({"agent_id": "me", "name": "Me"})).await.ok();
    assert_eq!((&registered["success"], &registered["agent_id"]), (&json!(true), &json!("me")));
    let other = json!({"agent_id": "other", "name": "also me"});
    me.post("/tools/register_agent", other).await.refused(403, "PermissionDenied");
    assert_eq!(hall.caller().get("/api/v1/agents/other").await.ok()["name"], "other");
}

async fn names(caller: &guildhall_tests::Caller) -> Vec<String> {
    let listed = Stateless::new("tools/list", json!({})).result(caller).await;
    let tools = listed["tools"].as_array().unwrap();
    tools.iter().map(|tool: &Value| tool["name"].as_str().unwrap().to_owned()).collect()
}

async fn a_caller_sees_what_its_role_allows(hall: &Hall) {
    let admin = names(&hall.admin()).await;
    assert!(admin.contains(&"list_agents".into()) && admin.contains(&"register_agent".into()), "{admin:?}");
    let mute = hall.caller().token(&hall.issue_token(&["--agent", "mute", "--role", "mute"]).await);
    assert_eq!(names(&mute).await, ["list_agents"]);
    mute.post("/tools/list_agents", json!({})).await.ok();
    // As unknown as a tool that is not there.
    mute.post("/tools/register_agent", json!({"name": "x"})).await.refused(404, "NotFound");
    let blind = hall.caller().token(&hall.issue_token(&["--agent", "blind", "--role", "blind"]).await);
    assert_eq!(names(&blind).await, Vec::<String>::new());
    blind.get("/api/v1/agents").await.refused(403, "PermissionDenied");
}

async fn toolsets_narrow_the_list(hall: &Hall) {
    let all = hall.agent("curious").post("/mcp?toolsets=agents", Stateless::new("tools/list", json!({})).body).await;
    // Without its headers it is no request of a new client; what matters is the narrowed call by POST below.
    assert_ne!(all.status, 500, "{}", all.text);
    hall.caller().post("/tools/list_agents?toolsets=agents", json!({})).await.ok();
    hall.caller().post("/tools/list_agents?toolsets=matrix", json!({})).await.refused(404, "NotFound");
    hall.caller().post("/tools/list_agents?toolsets=", json!({})).await.refused(404, "NotFound");
}
