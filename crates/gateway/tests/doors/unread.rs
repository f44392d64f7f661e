//! What an agent is told of mail that waits: beside its tools' results, and by the resource of its inbox.

use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use guildhall_rpc::{RemoteOptions, Transport};
use guildhall_testkit::engines::eventually;
use serde_json::{Value, json};

use crate::{
    client::{Client, PATIENCE, structured},
    stage::Stage,
};

fn line(result: &Value) -> Option<&str> {
    let content = result["content"].as_array().unwrap();
    assert_eq!(content.len() > 1, result["_meta"].get("guildhall/unread").is_some(), "{result}");
    content.get(1).map(|block| block["text"].as_str().unwrap())
}

/// Counts are read again after this.
const READ_AGAIN: Duration = Duration::from_millis(2_100);

#[tokio::test]
async fn any_result_says_what_waits_until_the_inbox_is_empty() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    assert_eq!(line(&b.call("list_agents", json!({})).await), None);
    a.send("b", json!(1)).await;
    let critical = json!({"to": "b", "message": 2, "priority": "critical"});
    a.post("/api/v1/messages", critical).await.ok();
    tokio::time::sleep(READ_AGAIN).await;
    let told = b.call("list_agents", json!({})).await;
    assert_eq!(line(&told), Some("2 messages wait for you (1 critical): call check_inbox"));
    assert_eq!(told["_meta"]["guildhall/unread"], json!({"waiting": 2, "critical": 1}));
    structured(&told);
    let failed = b.call("send_message", json!({"to": "nobody", "message": 1})).await;
    assert_eq!((&failed["isError"], line(&failed).is_some()), (&json!(true), true), "a failure says it too");
    assert_eq!(line(&a.call("list_agents", json!({})).await), None, "nothing waits for the sender");

    let off = b.mcp_at("?unread=off", "tools/call", json!({"name": "list_agents", "arguments": {}})).await;
    assert_eq!(line(&off), None);
    let params = json!({"name": "list_agents", "arguments": {}, "_meta": {"guildhall/unread": "off"}});
    assert_eq!(line(&b.mcp("tools/call", params).await), None);

    let one = b.call("check_inbox", json!({"limit": 1})).await;
    assert_eq!(structured(&one)["messages"][0]["priority"], "critical");
    assert_eq!(line(&one), Some("1 message waits for you: call check_inbox"));
    let rest = b.call("check_inbox", json!({})).await;
    assert_eq!((structured(&rest)["messages"].as_array().unwrap().len(), line(&rest)), (1, None));
    assert_eq!(line(&b.call("list_agents", json!({})).await), None);
}

#[tokio::test]
async fn what_an_agent_holds_in_its_hands_does_not_wait_for_it() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    a.send("b", json!(1)).await;
    b.call("list_agents", json!({})).await;
    let held = b.call("check_inbox", json!({"ack": "manual"})).await;
    assert_eq!(line(&held), None);
    tokio::time::sleep(READ_AGAIN).await;
    assert_eq!(line(&b.call("list_agents", json!({})).await), None, "it has it already");
    let message = &structured(&held)["messages"][0];
    let back = json!({"message_id": message["message_id"], "lease": message["lease"], "delay_ms": 0});
    structured(&b.call("nack_message", back).await);
    tokio::time::sleep(READ_AGAIN).await;
    assert_eq!(line(&b.call("list_agents", json!({})).await), Some("1 message waits for you: call check_inbox"));
}

/// Asks until an answer says this of what waits.
async fn comes_to_say(b: &Client, said: Option<&str>) {
    eventually(said.unwrap_or("nothing waits"), PATIENCE, async || {
        (line(&b.call("list_agents", json!({})).await) == said).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_its_live_socket_holds_does_not_wait_for_an_agent_until_that_is_gone() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    comes_to_say(&b, None).await;
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{}/ws/b", gate.address)).await.unwrap();
    a.send("b", json!(1)).await;
    let pushed = tokio::time::timeout(PATIENCE, socket.next()).await.expect("it is pushed").unwrap().unwrap();
    assert!(pushed.to_text().unwrap().contains("message.new"), "{pushed}");
    tokio::time::sleep(READ_AGAIN).await;
    comes_to_say(&b, None).await;
    drop(socket);
    comes_to_say(&b, Some("1 message waits for you: call check_inbox")).await;
}

#[tokio::test]
async fn a_mail_service_that_is_silent_delays_no_call_and_fails_none() {
    let mut stage = Stage::with(&["a"]).await;
    // It takes connections and answers nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let transport = Transport::remote([address], RemoteOptions::new("agent-registry")).unwrap();
    (stage.mail, stage.topics) = guildhall_mail::grpc::client(transport);
    let gate = stage.gateway().await;
    let a = Client::of(&gate, "a");
    a.call("list_agents", json!({})).await;
    let mut took = Vec::new();
    for _ in 0..30 {
        let began = Instant::now();
        assert_eq!(line(&a.call("list_agents", json!({})).await), None);
        took.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    took.sort();
    // 50 ms of patience, and what a busy machine adds; some may have met a moment in which all of it stood still.
    assert!(took[20] < Duration::from_millis(500), "{took:?}");
}

const INBOX: &str = "agents://b/inbox";

#[tokio::test]
async fn an_inbox_is_a_resource_that_takes_nothing_and_is_its_agents_alone() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    a.send("b", json!("hello")).await;
    let templates = b.mcp("resources/templates/list", json!({})).await;
    assert!(templates.to_string().contains("agents://{agentId}/inbox"), "{templates}");
    let listed = b.mcp("resources/list", json!({})).await.to_string();
    assert!(listed.contains(INBOX) && !listed.contains("agents://a/inbox"), "{listed}");
    for _ in 0..2 {
        let read = b.mcp("resources/read", json!({"uri": INBOX})).await;
        let inbox: Value = serde_json::from_str(read["contents"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!((&inbox["waiting"], &inbox["critical"]), (&json!(1), &json!(0)));
        assert_eq!((&inbox["messages"][0]["message"], &inbox["messages"][0]["from"]), (&json!("hello"), &json!("a")));
        assert!(inbox["note"].as_str().unwrap().contains("other agents"), "{inbox}");
    }
    assert_eq!(stage.waiting("b").await, 1);
}

async fn told(stream: &mut (impl Stream<Item = Value> + Unpin)) -> Value {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("it is told").expect("the stream goes on")
}

#[tokio::test]
async fn whoever_watches_its_inbox_hears_of_mail_in_every_era() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    let session = b.session().await;
    let mut old = session.listen().await;
    session.ask("resources/subscribe", json!({"uri": INBOX})).await;
    let asked = json!({"notifications": {"resourceSubscriptions": [INBOX]}});
    let mut new = b.messages("subscriptions/listen", asked).await;
    assert_eq!(told(&mut new).await["method"], "notifications/subscriptions/acknowledged");
    a.send("b", json!(1)).await;
    for stream in [&mut old as &mut (dyn Stream<Item = Value> + Unpin + Send), &mut new] {
        let mut stream = stream;
        let update = told(&mut stream).await;
        assert_eq!(update["method"], "notifications/resources/updated", "{update}");
        assert_eq!(update["params"]["uri"], INBOX);
    }
}
