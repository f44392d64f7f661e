//! Mail over MCP: the tools, the line that says what waits, the inbox as a resource, requests as tasks.

use std::time::Duration;

use guildhall_tests::{
    Hall, Setup, eventually,
    mcp::{Session, Stateless, message},
    scenarios,
};
use serde_json::{Value, json};

scenarios! {
    the_tools_of_mail_work_in_both_eras(Setup::open());
    a_caller_is_told_of_what_waits_beside_any_result(Setup::open());
    an_inbox_is_a_resource_that_tells_of_its_changes(Setup::open());
    a_request_is_asked_and_answered_by_tools(Setup::open());
    an_async_request_is_a_task_of_whoever_asked(Setup::open());
    a_cancelled_call_cancels_its_request(Setup::open());
    events_are_published_subscribed_to_and_replayed_by_tools(Setup::open());
    dead_letters_are_listed_and_redriven_by_tools(Setup::open());
    without_mcp_the_same_tools_answer_under_their_names(Setup::open());
    an_observer_sees_no_tool_that_changes_anything(Setup::required());
}

async fn register(hall: &Hall, agents: &[&str]) {
    for agent in agents {
        hall.caller().register(agent).await;
    }
}

/// The structured content of a call that must succeed; the text beside it says the same.
#[track_caller]
fn content(result: &Value) -> Value {
    assert_ne!(result["isError"], true, "{result}");
    let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(text["success"], true, "{text}");
    assert_eq!(text, result["structuredContent"], "{result}");
    text
}

async fn the_tools_of_mail_work_in_both_eras(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let bob = Session::open(&hall.agent("bob")).await;
    for n in 0..3 {
        let arguments = json!({"to": "bob", "message": {"n": n}, "type": "note", "idempotency_key": format!("k{n}")});
        let sent = Stateless::tool("send_message", arguments).result(&hall.agent("alice")).await;
        assert_eq!(content(&sent)["recipients"], 1);
    }
    let one = content(&bob.call("check_inbox", json!({"limit": 1, "ack": "manual"})).await);
    let mail = &one["messages"][0];
    assert_eq!((&mail["from"], &mail["message"]["n"], &mail["type"]), (&json!("alice"), &json!(0), &json!("note")));
    let lease = json!({"message_id": mail["message_id"], "lease": mail["lease"]});
    content(
        &bob.call("nack_message", json!({"message_id": mail["message_id"], "lease": mail["lease"], "delay_ms": 100}))
            .await,
    );
    let stale = bob.call("ack_message", lease).await;
    assert_eq!(stale["isError"], true, "{stale}");
    assert!(stale.get("structuredContent").is_none(), "text only: {stale}");
    let error: Value = serde_json::from_str(stale["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!((&error["error"], &error["success"]), (&json!("Conflict"), &json!(false)));
    let mut arrived = Vec::new();
    eventually("all of them come, in order", Duration::from_secs(10), async || {
        let taken = Stateless::tool("check_inbox", json!({"limit": 1})).result(&hall.agent("bob")).await;
        arrived.extend(content(&taken)["messages"].as_array().unwrap().iter().map(|mail| mail["message"]["n"].clone()));
        (arrived.len() == 3).then_some(())
    })
    .await;
    assert_eq!(arrived, [json!(0), json!(1), json!(2)]);
    let nobody =
        Stateless::tool("send_message", json!({"to": "nobody", "message": 1})).result(&hall.agent("alice")).await;
    assert_eq!(nobody["isError"], true);
    assert!(nobody["content"][0]["text"].as_str().unwrap().contains("list_agents"), "says what to do: {nobody}");

    // Whom mail is from that no agent sent is nobody's name, on any way.
    let taken = Stateless::tool("register_agent", json!({"name": "Hall"})).result(&hall.agent("hall")).await;
    assert_eq!(taken["isError"], true, "{taken}");
    assert!(taken["content"][0]["text"].as_str().unwrap().contains("reserved"), "{taken}");
    let taken = json!({"agent_id": "hall", "name": "Hall"});
    hall.caller().post("/api/v1/agents/register", taken).await.refused(400, "InvalidParams");
    let forged = json!({"from": "hall", "to": "bob", "message": 1});
    hall.caller().post("/api/v1/messages", forged).await.refused(400, "InvalidParams");
}

async fn a_caller_is_told_of_what_waits_beside_any_result(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let quiet = Stateless::tool("list_agents", json!({})).result(&hall.agent("bob")).await;
    assert_eq!(quiet["content"].as_array().unwrap().len(), 1, "nothing waits, nothing is said");
    hall.agent("alice").post("/api/v1/messages", json!({"to": "bob", "message": 1, "priority": "critical"})).await.ok();
    for gateway in 0..hall.gateways().len() {
        let bob = hall.caller_of(gateway).agent("bob");
        let told = eventually("the line is there", Duration::from_secs(8), async || {
            let result = Stateless::tool("list_agents", json!({})).result(&bob).await;
            (result["content"].as_array().unwrap().len() == 2).then_some(result)
        })
        .await;
        assert_eq!(told["_meta"]["guildhall/unread"], json!({"waiting": 1, "critical": 1}), "{told}");
        let line = told["content"][1]["text"].as_str().unwrap();
        assert!(line.contains("check_inbox") && line.contains('1'), "{line}");
        assert!(told["structuredContent"]["agents"].is_array(), "the result itself is as it was");
    }
    let alice = Stateless::tool("list_agents", json!({})).result(&hall.agent("alice")).await;
    assert_eq!(alice["content"].as_array().unwrap().len(), 1, "it is bob's mail");
    let taken = Stateless::tool("check_inbox", json!({})).result(&hall.agent("bob")).await;
    assert_eq!(content(&taken)["messages"].as_array().unwrap().len(), 1);
    eventually("the line is gone", Duration::from_secs(8), async || {
        for gateway in 0..hall.gateways().len() {
            let result = Stateless::tool("list_agents", json!({})).result(&hall.caller_of(gateway).agent("bob")).await;
            if result["content"].as_array().unwrap().len() != 1 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

const INBOX: &str = "agents://bob/inbox";

async fn an_inbox_is_a_resource_that_tells_of_its_changes(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let bob = Session::open(&hall.agent("bob")).await;
    let templates = bob.result("resources/templates/list", json!({})).await;
    assert!(templates.to_string().contains("agents://{agentId}/inbox"), "{templates}");
    let mut listening = bob.listen().await;
    bob.result("resources/subscribe", json!({"uri": INBOX})).await;
    let mut new_client =
        Stateless::new("subscriptions/listen", json!({"notifications": {"resourceSubscriptions": [INBOX]}}))
            .listen(&hall.agent("bob"))
            .await;
    let acknowledged = new_client.next(Duration::from_secs(10)).await.expect("it is acknowledged");
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged", "{acknowledged}");
    hall.agent("alice").post("/api/v1/messages", json!({"to": "bob", "message": "look"})).await.ok();
    for stream in [&mut listening, &mut new_client] {
        let told = stream.next(Duration::from_secs(10)).await.expect("a subscriber is told");
        assert_eq!(told["method"], "notifications/resources/updated", "{told}");
        assert_eq!(told["params"]["uri"], INBOX, "{told}");
    }
    let read = bob.result("resources/read", json!({"uri": INBOX})).await;
    let inbox: Value = serde_json::from_str(read["contents"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(inbox["waiting"], 1, "{inbox}");
    assert!(inbox.to_string().contains("look"), "{inbox}");
    // It was only looked at.
    assert_eq!(content(&bob.call("check_inbox", json!({})).await)["messages"].as_array().unwrap().len(), 1);
}

async fn a_request_is_asked_and_answered_by_tools(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let (alice, bob) = (Session::open(&hall.agent("alice")).await, hall.agent("bob"));
    let (answered, ()) = tokio::join!(alice.call("request_agent", json!({"to": "bob", "message": "2+2?"})), async {
        let taken = Stateless::tool("check_inbox", json!({"wait_ms": 10_000})).result(&bob).await;
        let mail = content(&taken)["messages"][0].clone();
        assert_eq!(mail["requires_response"], true, "{mail}");
        let arguments = json!({"request_id": mail["message_id"], "message": 4});
        content(&Stateless::tool("reply", arguments).result(&bob).await);
    });
    assert_eq!(content(&answered)["answer"], 4);
    let late = alice.call("request_agent", json!({"to": "bob", "message": "?", "timeout_ms": 300})).await;
    assert_eq!(late["isError"], true);
    assert!(late["content"][0]["text"].as_str().unwrap().contains("Timeout"), "{late}");
}

async fn an_async_request_is_a_task_of_whoever_asked(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let arguments = json!({"to": "bob", "message": "long work", "async": true, "timeout_ms": 60_000});
    let plain = Stateless::tool("request_agent", arguments.clone()).result(&hall.agent("alice")).await;
    assert!(content(&plain)["request_id"].is_string(), "who does not speak of tasks gets an id: {plain}");

    let mut call = Stateless::tool("request_agent", arguments);
    let extension = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
    call.body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = extension.clone();
    let task = call.result(&hall.agent("alice")).await;
    assert_eq!((&task["resultType"], &task["status"]), (&json!("task"), &json!("working")), "{task}");
    let task_id = task["taskId"].clone();
    let ask = async |method: &str, agent: &str, gateway: usize| {
        let mut ask = Stateless::new(method, json!({"taskId": task_id}));
        ask.body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = extension.clone();
        let ask = ask.header("mcp-name", task_id.as_str());
        ask.by(&hall.caller_of(gateway).agent(agent)).await
    };
    let last = hall.gateways().len() - 1;
    assert_eq!(message(&ask("tasks/get", "alice", last).await)["result"]["status"], "working");
    for stranger in ["bob", "eve"] {
        let refused = ask("tasks/get", stranger, 0).await;
        assert!(message(&refused)["error"].is_object(), "{}", refused.text);
    }
    let mut mail = Value::Null;
    eventually("it is asked", Duration::from_secs(10), async || {
        let taken = hall.agent("bob").get("/api/v1/messages?agent_id=bob&pending=true&ack=auto").await.ok();
        mail = taken["messages"].as_array().unwrap().iter().find(|mail| mail["message_id"] == task_id)?.clone();
        Some(())
    })
    .await;
    let path = format!("/api/v1/requests/{}/answer", task_id.as_str().unwrap());
    hall.agent("bob").post(&path, json!({"answer": "done"})).await.ok();
    for gateway in 0..hall.gateways().len() {
        let done = message(&ask("tasks/get", "alice", gateway).await)["result"].clone();
        assert_eq!(done["status"], "completed", "{done}");
        assert_eq!(done["result"]["structuredContent"]["answer"], "done", "{done}");
    }
}

async fn a_cancelled_call_cancels_its_request(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let call = Stateless::tool("request_agent", json!({"to": "bob", "message": "?", "timeout_ms": 60_000}));
    let alice = hall.agent("alice");
    let listening = tokio::spawn(async move { call.by(&alice).await });
    let taken = hall.agent("bob").get("/api/v1/messages?agent_id=bob&pending=true&ack=auto&wait_ms=10000").await.ok();
    let id = taken["messages"][0]["message_id"].as_str().unwrap().to_owned();
    // Closing the stream of a new client's call cancels it.
    listening.abort();
    eventually("the other side learns of it", Duration::from_secs(10), async || {
        let state = hall.agent("bob").get(&format!("/api/v1/requests/{id}")).await.ok();
        (state["state"] == "cancelled").then_some(())
    })
    .await;
}

async fn events_are_published_subscribed_to_and_replayed_by_tools(hall: &Hall) {
    register(hall, &["ci", "sub"]).await;
    let subscribe = json!({"topic": "ci", "filter": "event.ok == false"});
    content(&Stateless::tool("subscribe_topic", subscribe).result(&hall.agent("sub")).await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    for ok in [true, false] {
        let published = Stateless::tool("publish_event", json!({"topic": "ci", "event": {"ok": ok}}))
            .result(&hall.agent("ci"))
            .await;
        assert!(content(&published)["sequence"].is_u64());
    }
    let replayed = Stateless::tool("replay_events", json!({"topic": "ci"})).result(&hall.agent("sub")).await;
    assert_eq!(content(&replayed)["events"].as_array().unwrap().len(), 2);
    let mail = Stateless::tool("check_inbox", json!({"wait_ms": 15_000})).result(&hall.agent("sub")).await;
    let mail = content(&mail)["messages"][0].clone();
    assert_eq!((&mail["type"], &mail["message"]["event"]), (&json!("event"), &json!({"ok": false})), "{mail}");
    content(
        &Stateless::tool("subscribe_topic", json!({"topic": "ci", "unsubscribe": true}))
            .result(&hall.agent("sub"))
            .await,
    );
    let bad = Stateless::tool("subscribe_topic", json!({"topic": "ci", "filter": "event.ok =="}))
        .result(&hall.agent("sub"))
        .await;
    assert_eq!(bad["isError"], true, "{bad}");
}

async fn dead_letters_are_listed_and_redriven_by_tools(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    // Redriven it may wait as long again.
    let body = json!({"to": "bob", "message": "too late", "expires_in_ms": 3_000});
    let sent = hall.agent("alice").post("/api/v1/messages", body).await.ok();
    let bob = hall.agent("bob");
    eventually("it is dead", Duration::from_secs(10), async || {
        let listed = Stateless::tool("list_dead_letters", json!({})).result(&bob).await;
        let letters = content(&listed)["messages"].as_array().unwrap().clone();
        letters.iter().any(|letter| letter["message_id"] == sent["message_id"]).then_some(())
    })
    .await;
    let redriven = Stateless::tool("redrive_dead_letter", json!({"message_id": sent["message_id"]})).result(&bob).await;
    content(&redriven);
    let taken = Stateless::tool("check_inbox", json!({"wait_ms": 5_000})).result(&bob).await;
    assert_eq!(content(&taken)["messages"][0]["message"], "too late");
}

async fn without_mcp_the_same_tools_answer_under_their_names(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let sent = hall.agent("alice").post("/tools/send_message", json!({"to": "bob", "message": "plain"})).await.ok();
    assert_eq!(sent["success"], true);
    let taken = hall.agent("bob").post("/tools/check_inbox", json!({})).await.ok();
    assert_eq!(taken["messages"][0]["message"], "plain");
    hall.agent("bob").post("/tools/check_inbox", json!({"limit": 0})).await.refused(400, "InvalidParams");
    hall.agent("alice").post("/tools/send_message", json!({"to": "bob"})).await.refused(400, "InvalidParams");
}

async fn an_observer_sees_no_tool_that_changes_anything(hall: &Hall) {
    let token = hall.issue_token(&["--agent", "watcher", "--role", "observer"]).await;
    let observer = hall.caller().token(&token);
    let listed = Stateless::new("tools/list", json!({})).result(&observer).await;
    let names: Vec<&str> =
        listed["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    for hidden in
        ["send_message", "check_inbox", "ack_message", "request_agent", "publish_event", "redrive_dead_letter"]
    {
        assert!(!names.contains(&hidden), "{hidden}: {names:?}");
    }
    assert!(names.contains(&"list_agents") && names.contains(&"replay_events"), "{names:?}");
    observer.post("/api/v1/messages", json!({"to": "watcher", "message": 1})).await.refused(403, "PermissionDenied");
}
