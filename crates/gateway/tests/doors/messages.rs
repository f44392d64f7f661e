//! What is sent, taken and settled over REST and by tools.

use guildhall_gateway::AuthMode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{Client, PATIENCE, failure, structured},
    stage::{Stage, Terms},
};

/// No field, digit, space or order of it may change.
const BODY: &str = r#"{"z":1.0,  "a":[12345678901234567890123, 1e3],"b":"\u00e4"}"#;

#[tokio::test]
async fn a_body_arrives_letter_for_letter_by_whichever_door_it_came_and_goes() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    let letter = format!("{{\"to\":\"b\",\"message\":{BODY}}}");
    assert_eq!(a.post_text("/api/v1/messages", letter.clone()).await.status, 200);
    assert_eq!(a.post_text("/tools/send_message", letter.clone()).await.status, 200);
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"send_message","arguments":{letter},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{{"name":"t","version":"1"}}}}}}}}"#
    );
    let request = a.request(Method::POST, "/mcp").header("accept", "application/json, text/event-stream");
    let request = request.header("content-type", "application/json").header("mcp-protocol-version", "2026-07-28");
    let sent = request.header("mcp-method", "tools/call").header("mcp-name", "send_message").body(call).send().await;
    assert_eq!(sent.unwrap().status(), 200);

    let written = format!("\"message\":{BODY}");
    let history = b.get("/api/v1/messages").await.text;
    assert_eq!(history.matches(&written).count(), 3, "{history}");
    let inbox = b.post("/tools/check_inbox", json!({"ack": "manual"})).await.text;
    assert_eq!(inbox.matches(&written).count(), 3, "{inbox}");
    let dead = b.mcp("tools/call", json!({"name": "check_inbox", "arguments": {}})).await;
    assert_eq!(structured(&dead)["messages"], json!([]), "they are in another's hands");
}

#[tokio::test]
async fn the_sender_is_the_caller_and_nobody_else() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let a = Client::of(&gate, "a");
    let foreign = json!({"from": "b", "to": "b", "message": 1});
    let (code, message) = a.post("/api/v1/messages", foreign.clone()).await.refused(403);
    assert_eq!(code, "PermissionDenied");
    insta::assert_snapshot!(message, @r#"from names "b", but the sender is always the caller, and you are a; leave from out"#);
    assert_eq!(failure(&a.call("send_message", foreign).await)["error"], "PermissionDenied");
    let mixed = json!([{"to": "b", "message": 1}, {"from": "b", "to": "b", "message": 2}]);
    a.post("/api/v1/messages", mixed).await.refused(403);
    assert_eq!(stage.waiting("b").await, 0, "a refused list has no effect");
    a.post("/api/v1/messages", json!({"from": "a", "to": "b", "message": 1})).await.ok();
}

#[tokio::test]
async fn in_an_open_hall_a_message_may_name_its_sender_and_with_tokens_it_may_not() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
    let post = async |gate: &crate::stage::Gate, token: Option<&str>, body: Value| {
        let request = http.post(format!("http://{}/api/v1/messages", gate.address)).body(body.to_string());
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let (status, said) = post(&gate, None, json!({"from": "a", "to": "b", "message": "hi"})).await;
    assert_eq!((status, &said["recipients"], &said["durability"]), (200, &json!(1), &json!("fsync")), "{said}");
    assert_eq!(Client::of(&gate, "b").take().await[0]["from"], "a");
    let (status, said) = post(&gate, None, json!({"to": "b", "message": "hi"})).await;
    assert_eq!((status, &said["error"]), (400, &json!("InvalidParams")));
    assert!(said["message"].as_str().unwrap().contains("X-Agent-Id"), "{said}");

    let strict = stage.gateway_with(Terms { mode: AuthMode::Required, ..Terms::default() }).await;
    let token = stage.token("a").await;
    let (status, _) = post(&strict, Some(&token), json!({"from": "b", "to": "b", "message": "hi"})).await;
    assert_eq!(status, 403);
    let (status, _) = post(&strict, None, json!({"from": "a", "to": "b", "message": "hi"})).await;
    assert_eq!(status, 401);
    let (status, _) = post(&strict, Some(&token), json!({"to": "b", "message": "hi"})).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_fit_is_told_which_field_and_what_would() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let a = Client::of(&gate, "a");
    let mut told = String::new();
    for body in [
        r#"{"message": 1}"#,
        r#"{"to": "b"}"#,
        r#"{"to": "b", "message": 1, "colour": "red"}"#,
        r#"{"to": "b", "message": 1, "priority": "urgent"}"#,
        r#"{"to": 7, "message": 1}"#,
        r#"{"to": "team:x", "message": 1}"#,
        r#"[{"to": "b", "message": 1}, {"to": "b", "message": 1, "expires_in_ms": "soon"}]"#,
        r#"{"to": "b", "message": 1} and more"#,
        "[]",
        r#""hello""#,
    ] {
        let (code, message) = a.post_text("/api/v1/messages", body.to_owned()).await.refused(400);
        assert_eq!(code, "InvalidParams");
        told.push_str(&format!("{body}\n  {message}\n"));
    }
    insta::assert_snapshot!(told, @r#"
    {"message": 1}
      the request's body does not fit: missing field `to` at line 1 column 14
    {"to": "b"}
      the request's body does not fit: missing field `message` at line 1 column 11
    {"to": "b", "message": 1, "colour": "red"}
      the request's body does not fit: colour: unknown field `colour`, expected one of `from`, `to`, `message`, `type`, `priority`, `idempotency_key`, `reply_to`, `correlation_id`, `conversation_id`, `expires_in_ms`, `requires_response` at line 1 column 34
    {"to": "b", "message": 1, "priority": "urgent"}
      the request's body does not fit: priority: unknown variant `urgent`, expected one of `critical`, `high`, `normal`, `low` at line 1 column 46
    {"to": 7, "message": 1}
      the request's body does not fit: to: invalid type: integer `7`, expected a string at line 1 column 8
    {"to": "team:x", "message": 1}
      the request's body does not fit: to: to is an agent's id, ALL, role:<role>, capability:<capability>, pool:<pool> or topic:<topic> at line 1 column 15
    [{"to": "b", "message": 1}, {"to": "b", "message": 1, "expires_in_ms": "soon"}]
      the request's body does not fit: [1].expires_in_ms: invalid type: string "soon", expected u64 at line 1 column 77
    {"to": "b", "message": 1} and more
      the request's body is not JSON: trailing characters at line 1 column 27
    []
      a list holds 1 to 100 messages, and this one 0
    "hello"
      the request's body does not fit: it must be a JSON object
    "#);
    let (code, _) = a.post("/api/v1/messages", json!({"to": "nobody", "message": 1})).await.refused(404);
    assert_eq!(code, "NotFound");
    let fat = "x".repeat(800 * 1024);
    let (code, _) = a.post("/api/v1/messages", json!({"to": "b", "message": fat})).await.refused(413);
    assert_eq!(code, "PayloadTooLarge");
    let fatter = "x".repeat(1024 * 1024);
    a.post("/api/v1/messages", json!({"to": "b", "message": fatter})).await.refused(413);
    let many = vec![json!({"to": "b", "message": 1}); 101];
    a.post("/api/v1/messages", json!(many)).await.refused(400);
    assert_eq!(stage.waiting("b").await, 0, "nothing of what was refused has an effect");
}

#[tokio::test]
async fn a_list_is_sent_whole_and_may_be_four_times_as_large() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    let large = "x".repeat(700 * 1024);
    let list = json!([
        {"to": "b", "message": large}, {"to": "b", "message": large}, {"to": "b", "message": large},
        {"to": "b", "message": 4, "idempotency_key": "k"},
    ]);
    let sent = a.post("/api/v1/messages", list).await.ok();
    assert_eq!(sent["receipts"].as_array().unwrap().len(), 4);
    assert_eq!(sent["receipts"][3]["duplicate"], false);
    let again = a.post("/api/v1/messages", json!({"to": "b", "message": 4, "idempotency_key": "k"})).await.ok();
    assert_eq!((&again["duplicate"], &again["message_id"]), (&json!(true), &sent["receipts"][3]["message_id"]));
    let other = json!({"to": "b", "message": 5, "idempotency_key": "k"});
    assert_eq!(a.post("/api/v1/messages", other).await.refused(409).0, "Conflict");
    let history = b.get("/api/v1/messages?limit=2").await.ok();
    assert_eq!((&history["total"], &history["messages"][1]["message"]), (&json!(4), &json!(4)), "newest last");
    assert_eq!(history["messages"][1]["state"], "waiting", "looking takes nothing");
}

#[tokio::test]
async fn what_was_taken_by_hand_is_settled_by_its_lease_alone() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    let id = a.send("b", json!("one")).await;
    let taken = b.get("/api/v1/messages?pending=true&lease_ms=60000").await.ok();
    let (lease, attempt) = (&taken["messages"][0]["lease"], &taken["messages"][0]["attempt"]);
    assert_eq!((taken["total"].as_u64(), attempt.as_u64()), (Some(1), Some(1)));
    assert_eq!(b.get(&format!("/api/v1/messages/{id}")).await.ok()["deliveries"][0]["state"], "leased");
    let path = |word: &str| format!("/api/v1/messages/{id}/{word}");
    let stale = json!({"lease": "1.1.7"});
    assert_eq!(b.post(&path("ack"), stale.clone()).await.refused(409).0, "Conflict");
    b.post(&path("ack"), json!({"lease": "no lease"})).await.refused(400);
    b.post(&path("renew"), json!({"lease": lease})).await.ok();
    b.post(&path("nack"), json!({"lease": lease, "delay_ms": 0, "reason": "not now"})).await.ok();
    assert_eq!(b.post(&path("ack"), json!({"lease": lease})).await.refused(409).0, "Conflict", "it was handed back");
    let again = structured(&b.call("check_inbox", json!({"ack": "manual", "wait_ms": 5000})).await);
    let message = &again["messages"][0];
    assert_eq!((&message["attempt"], &message["from"], &message["message"]), (&json!(2), &json!("a"), &json!("one")));
    let stale = b.call("ack_message", json!({"message_id": id, "lease": lease})).await;
    let error = failure(&stale);
    assert!(error["guidance"].as_str().unwrap().contains("check_inbox"), "{error}");
    structured(&b.call("ack_message", json!({"message_id": id, "lease": message["lease"]})).await);
    assert_eq!(a.get(&path("")[..path("").len() - 1]).await.ok()["deliveries"][0]["state"], "acknowledged");
}

#[tokio::test]
async fn nobody_reads_or_takes_anothers_mail() {
    let stage = Stage::with(&["a", "b", "c"]).await;
    let gate = stage.gateway_with(Terms { mode: AuthMode::Required, ..Terms::default() }).await;
    let (a, c) = (Client::with_token(&stage, &gate, "a").await, Client::with_token(&stage, &gate, "c").await);
    let id = a.send("b", json!(1)).await;
    for path in ["/api/v1/messages?agent_id=b", "/api/v1/messages?agent_id=b&pending=true", "/api/v1/dlq?agent_id=b"] {
        assert_eq!(c.get(path).await.refused(403).0, "PermissionDenied", "{path}");
    }
    c.get(&format!("/api/v1/messages/{id}")).await.refused(404);
    a.get(&format!("/api/v1/messages/{id}")).await.ok();
    assert_eq!(stage.waiting("b").await, 1);
}

#[tokio::test]
async fn a_message_that_was_handed_back_too_often_is_a_dead_letter_that_can_be_put_back_and_purged() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    let id = a.send("b", json!("hot potato")).await;
    let burn = async || {
        for _ in 0..5 {
            let taken = structured(&b.call("check_inbox", json!({"ack": "manual", "wait_ms": 5000})).await);
            let lease = &taken["messages"][0]["lease"];
            let back = json!({"message_id": id, "lease": lease, "delay_ms": 0, "reason": "too hot"});
            structured(&b.call("nack_message", back).await);
        }
    };
    burn().await;
    let dead = b.get(&format!("/api/v1/dlq/{id}")).await.ok();
    let letter = &dead["dead_letters"][0];
    assert_eq!((&letter["message"], &letter["mailbox"]), (&json!("hot potato"), &json!("agent:b")));
    assert!(letter["reason"].as_str().unwrap().contains("too hot"), "{letter}");
    let listed = structured(&b.call("list_dead_letters", json!({})).await);
    assert_eq!((&listed["messages"][0]["message_id"], &listed["messages"][0]["attempts"]), (&json!(id), &json!(5)));
    b.post("/api/v1/dlq/redrive", json!({})).await.refused(400);
    structured(&b.call("redrive_dead_letter", json!({"message_id": id})).await);
    assert_eq!(failure(&b.call("redrive_dead_letter", json!({"message_id": id})).await)["error"], "NotFound");
    burn().await;
    assert_eq!(b.post("/api/v1/dlq/redrive", json!({"message_ids": [id]})).await.ok()["redriven"], 1);
    burn().await;
    assert_eq!(b.post("/api/v1/dlq/purge", json!({"agent_id": "b"})).await.ok()["purged"], 1);
    b.get(&format!("/api/v1/dlq/{id}")).await.refused(404);
}
