//! Opening, ending, and what does not fit.

use std::time::Duration;

use futures::SinkExt as _;
use guildhall_domain::{TenantId, access::Revocation, ports::hot::Rate};
use guildhall_gateway::{AuthMode, Pace};
use guildhall_testkit::engines::eventually;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    client::{Client, Ended},
    stage::{Stage, Terms, admin, id},
};

const SOON: Duration = Duration::from_secs(60);

fn ended(error: &str, code: u16) -> Ended {
    Ended { error: Some(error.to_owned()), code: Some(code) }
}

#[tokio::test]
async fn what_does_not_fit_is_told_so_and_changes_nothing() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway().await;
    let mut a = Client::open(&gate, "a").await;
    for (text, told) in [
        ("{", "is not JSON"),
        ("[1]", "one JSON object"),
        (r#"{"type":"shout"}"#, "there are heartbeat, message, ack"),
        (r#"{"type":"ack"}"#, "missing field `message_id`"),
        (r#"{"type":"message","to":"b","message":1,"color":1}"#, "unknown field `color`"),
    ] {
        a.say_text(text.to_owned()).await;
        let error = a.hear("error").await;
        assert_eq!(error["error"], "InvalidParams");
        assert!(error["message"].as_str().unwrap().contains(told), "{error}");
    }
    a.web_socket.send(Message::binary(vec![1, 2])).await.unwrap();
    assert!(a.hear("error").await["message"].as_str().unwrap().contains("binary"));
    assert_eq!(a.ask(json!({ "type": "heartbeat" })).await["type"], "ok");
    assert_eq!(a.ask(json!({ "type": "heartbeat", "busy": true })).await["type"], "ok");
}

#[tokio::test]
async fn twenty_frames_in_a_row_that_do_not_fit_end_the_socket() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway().await;
    let mut a = Client::open(&gate, "a").await;
    for _ in 0..19 {
        a.say_text("nonsense".into()).await;
    }
    assert_eq!(a.ask(json!({ "type": "heartbeat" })).await["type"], "ok");
    for _ in 0..20 {
        a.say_text("nonsense".into()).await;
    }
    assert_eq!(a.ended().await, ended("InvalidParams", 4400));
}

#[tokio::test]
async fn a_frame_of_more_than_a_mebibyte_ends_the_socket() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway().await;
    let mut a = Client::open(&gate, "a").await;
    let text = json!({ "type": "message", "to": "a", "message": "x".repeat(1024 * 1024) }).to_string();
    a.say_text(text).await;
    assert_eq!(a.ended().await, ended("PayloadTooLarge", 1009));
}

#[tokio::test]
async fn a_message_of_the_largest_size_goes_through() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (mut a, mut b) = (Client::open(&gate, "a").await, Client::open(&gate, "b").await);
    let body = "x".repeat(768 * 1024 - 2);
    let sent = a.ask(json!({ "type": "message", "to": "b", "message": body })).await;
    assert_eq!(sent["type"], "ok", "{}", sent["message"]);
    assert_eq!(b.bodies(1).await, [json!(body)]);
    let sent = a.ask(json!({ "type": "message", "to": "b", "message": body + "x" })).await;
    assert_eq!(sent["error"], "PayloadTooLarge");
}

#[tokio::test]
async fn a_socket_is_for_its_own_agent_and_one_that_is_registered() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway_with(Terms { mode: AuthMode::Required, ..Terms::default() }).await;
    let token = stage.token("a").await;
    let bearer = format!("Bearer {token}");
    let own = [("authorization", bearer.as_str())];
    assert!(Client::connect(gate.address, "/ws/a", &own).await.is_ok());
    let refused = |result: Result<Client, (u16, serde_json::Value)>| {
        let (status, body) = result.err().expect("the socket was opened");
        (status, body["error"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(refused(Client::connect(gate.address, "/ws/a", &[]).await), (401, "AuthenticationError".into()));
    assert_eq!(refused(Client::connect(gate.address, "/ws/b", &own).await), (403, "PermissionDenied".into()));
    let unknown = format!("Bearer {}", stage.token("nobody").await);
    let unknown = [("authorization", unknown.as_str())];
    assert_eq!(refused(Client::connect(gate.address, "/ws/nobody", &unknown).await), (404, "NotFound".into()));
    assert_eq!(refused(Client::connect(gate.address, "/ws/a%20b", &own).await), (400, "InvalidParams".into()));
    let in_address = format!("/ws/a?token={token}");
    assert_eq!(refused(Client::connect(gate.address, &in_address, &[]).await), (401, "AuthenticationError".into()));
}

#[tokio::test]
async fn a_page_may_offer_its_token_as_a_protocol_which_is_not_said_back() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway_with(Terms { mode: AuthMode::Required, ..Terms::default() }).await;
    let offered = format!("guildhall, bearer.{}", stage.token("a").await);
    let mut request = tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(format!(
        "ws://{}/ws/a",
        gate.address
    ))
    .unwrap();
    request.headers_mut().insert("sec-websocket-protocol", offered.parse().unwrap());
    let (_, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "guildhall");
}

#[tokio::test]
async fn a_token_that_ends_an_agent_that_is_paused_or_removed_ends_the_socket_and_says_why() {
    let stage = Stage::with(&["a", "b", "c"]).await;
    let gate = stage.gateway_with(Terms { mode: AuthMode::Required, ..Terms::default() }).await;
    let mut clients = Vec::new();
    for name in ["a", "b", "c"] {
        let bearer = format!("Bearer {}", stage.token(name).await);
        let client = Client::connect(gate.address, &format!("/ws/{name}"), &[("authorization", &bearer)]).await;
        clients.push(client.ok().unwrap());
    }
    let whole = Revocation::Agent { tenant: TenantId::default(), agent_id: id("a") };
    stage.registry.revoke(&admin(), whole).await.unwrap();
    stage.registry.pause(&admin(), &id("b"), "it loops").await.unwrap();
    stage.registry.remove(&admin(), &id("c")).await.unwrap();
    let mut clients = clients.into_iter();
    assert_eq!(clients.next().unwrap().ended().await, ended("AuthenticationError", 4401));
    assert_eq!(clients.next().unwrap().ended().await, ended("PermissionDenied", 4403));
    assert_eq!(clients.next().unwrap().ended().await, ended("NotFound", 4404));
}

#[tokio::test]
async fn a_gateway_that_stops_says_so_and_gives_back_what_its_sockets_held() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let mut b = Client::open(&gate, "b").await;
    stage.send("a", "b", "1").await;
    b.hear("message.new").await;
    assert_eq!(stage.waiting("b").await, 0);
    gate.stop.cancel();
    assert_eq!(b.ended().await, ended("Unavailable", 1012));
    eventually("given back", SOON, async || (stage.waiting("b").await == 1).then_some(())).await;
}

#[tokio::test]
async fn one_agent_has_sixteen_sockets_and_a_gateway_as_many_as_it_is_told() {
    let stage = Stage::with(&["a", "b", "c"]).await;
    let gate = stage.gateway_with(Terms { max_sockets: 17, ..Terms::default() }).await;
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(Client::open(&gate, "a").await);
    }
    let (status, body) = Client::connect(gate.address, "/ws/a", &[]).await.err().unwrap();
    assert_eq!((status, &body["error"]), (429, &json!("RateLimited")));
    open.push(Client::open(&gate, "b").await);
    let (status, body) = Client::connect(gate.address, "/ws/c", &[]).await.err().unwrap();
    assert_eq!((status, &body["error"]), (503, &json!("Unavailable")));
    open.pop().unwrap().close().await;
    eventually("a place is free again", SOON, async || {
        Client::connect(gate.address, "/ws/c", &[]).await.ok().map(drop)
    })
    .await;
}

#[tokio::test]
async fn messages_count_against_the_rate_and_acknowledgements_and_signs_of_life_do_not() {
    let stage = Stage::with(&["a", "b"]).await;
    let rate = Rate { per_second: 0.1, burst: 5 };
    let gate = stage.gateway_with(Terms { rate, ..Terms::default() }).await;
    let mut b = Client::open(&gate, "b").await;
    for n in 0..40 {
        stage.send("a", "b", &n.to_string()).await;
    }
    for _ in 0..40 {
        let pushed = b.hear("message.new").await;
        assert_eq!(b.ack(&pushed).await["type"], "ok");
        assert_eq!(b.ask(json!({ "type": "heartbeat" })).await["type"], "ok");
    }
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(b.ask(json!({ "type": "message", "to": "a", "message": 1 })).await);
    }
    assert!(answers[..5].iter().all(|answer| answer["type"] == "ok"), "{answers:?}");
    assert_eq!(answers[5]["error"], "RateLimited");
    assert!(answers[5]["retry_after_ms"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_its_mail_given_back() {
    let stage = Stage::with(&["a", "b"]).await;
    let pace = Pace { reads_within: Duration::from_millis(500), ..Pace::default() };
    let gate = stage.gateway_with(Terms { pace, ..Terms::default() }).await;
    let mut b = Client::open(&gate, "b").await;
    stage.send("a", "b", "0").await;
    b.hear("message.new").await;
    // It asks and asks, and reads none of the answers.
    let (mut sink, stream) = futures::StreamExt::split(b.web_socket);
    let long = "x".repeat(100);
    let asks = async {
        loop {
            let frame = json!({ "type": "heartbeat", "ref": long });
            if sink.send(Message::text(frame.to_string())).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asks).await.expect("it was not cut off");
    drop(stream);
    eventually("given back", SOON, async || (stage.waiting("b").await == 1).then_some(())).await;
}

#[tokio::test]
async fn who_opens_it_without_a_web_socket_is_told_how() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway().await;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut plain = tokio::net::TcpStream::connect(gate.address).await.unwrap();
    plain.write_all(b"GET /ws/a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    assert!(answer.contains("this is a web socket"), "{answer}");
}
