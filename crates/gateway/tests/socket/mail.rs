//! Mail through one socket.

use std::time::Duration;

use guildhall_domain::{
    NewAgent,
    mail::{Body, NewMessage, kind},
};
use guildhall_testkit::engines::eventually;
use serde_json::{Value, json};

use crate::{
    client::{Client, settling},
    stage::{Stage, id},
};

const SOON: Duration = Duration::from_secs(60);
const A_WHILE: Duration = Duration::from_millis(300);

async fn nothing_waits(stage: &Stage, name: &str) {
    eventually("nothing waits", SOON, async || (stage.open(name).await == 0).then_some(())).await;
}

#[tokio::test]
async fn what_is_sent_is_pushed_as_it_was_written_and_gone_once_it_was_acknowledged() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let mut b = Client::open(&gate, "b").await;
    let mut message = NewMessage::new("b".parse().unwrap(), Body::from_text(r#"{"n":1.0}"#).unwrap());
    message.kind = "note".into();
    message.correlation_id = Some("c".into());
    stage.send_message("a", message).await;
    let pushed = b.hear("message.new").await;
    assert_eq!(pushed["message"]["message"].to_string(), r#"{"n":1.0}"#);
    assert_eq!(pushed["message"]["from"], "a");
    assert_eq!(pushed["message"]["to"], "b");
    assert_eq!(pushed["message"]["type"], "note");
    assert_eq!(pushed["message"]["correlation_id"], "c");
    assert_eq!((&pushed["attempt"], &pushed["mailbox"]), (&json!(1), &json!("agent:b")));
    let answer = b.ack(&pushed).await;
    assert_eq!(answer["type"], "ok", "{answer}");
    assert_eq!(b.ack(&pushed).await["type"], "ok", "said again, because the answer was lost");
    assert_eq!(b.ask(settling("nack", &pushed)).await["error"], "Conflict", "a lease was good for two things");
    b.close().await;
    let mut b = Client::open(&gate, "b").await;
    b.hears_none("message.new", A_WHILE).await;
}

#[tokio::test]
async fn what_waited_before_is_pushed_when_the_socket_opens() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    for n in 0..3 {
        stage.send("a", "b", &n.to_string()).await;
    }
    assert_eq!(Client::open(&gate, "b").await.bodies(3).await, [0, 1, 2]);
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_in_its_order_on_the_next_socket() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let mut b = Client::open(&gate, "b").await;
    stage.send_run("a", "b", 5).await;
    let first = b.hear("message.new").await;
    assert_eq!(first["message"]["message"], 0);
    b.ack(&first).await;
    assert_eq!(b.bodies(4).await, [1, 2, 3, 4]);
    b.close().await;
    let mut b = Client::open(&gate, "b").await;
    for n in 1..5 {
        let pushed = b.hear("message.new").await;
        assert_eq!(pushed["message"]["message"], n);
        assert_eq!(pushed["attempt"], 1, "what was given back was counted as an attempt");
        assert_eq!(b.ack(&pushed).await["type"], "ok");
    }
    b.hears_none("message.new", A_WHILE).await;
}

#[tokio::test]
async fn an_acknowledgement_is_honoured_though_its_client_goes_right_after_it() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    for round in 0..20 {
        let mut b = Client::open(&gate, "b").await;
        stage.send("a", "b", &round.to_string()).await;
        let pushed = b.hear("message.new").await;
        assert_eq!(pushed["message"]["message"], round, "what was acknowledged came again");
        b.say(settling("ack", &pushed)).await;
        b.close().await;
    }
}

/// Of several senders: what one of them sent waits behind itself anyway.
const SENDERS: [&str; 8] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"];

async fn stage_of_senders() -> Stage {
    let stage = Stage::with(&SENDERS).await;
    stage.register(NewAgent::named(id("b"), "B")).await;
    stage
}

#[tokio::test]
async fn no_more_than_the_window_is_pushed_until_some_is_acknowledged() {
    let stage = stage_of_senders().await;
    let gate = stage.gateway().await;
    for sender in SENDERS {
        stage.send_run(sender, "b", 12).await;
    }
    let mut b = Client::open(&gate, "b").await;
    let mut pushed = Vec::new();
    for _ in 0..64 {
        pushed.push(b.hear("message.new").await);
    }
    // Longer than the sweep.
    b.hears_none("message.new", Duration::from_millis(2_500)).await;
    for frame in &pushed {
        b.say(settling("ack", frame)).await;
    }
    for _ in 64..SENDERS.len() * 12 {
        let frame = b.hear("message.new").await;
        b.say(settling("ack", &frame)).await;
    }
}

#[tokio::test]
async fn large_mail_does_not_pile_up_before_a_client_that_acknowledges_nothing() {
    let stage = stage_of_senders().await;
    let gate = stage.gateway().await;
    let large = format!("\"{}\"", "x".repeat(700 * 1024));
    for sender in SENDERS {
        stage.send(sender, "b", &large).await;
    }
    let mut b = Client::open(&gate, "b").await;
    let mut count = 0;
    while let Ok(pushed) = tokio::time::timeout(Duration::from_secs(3), b.hear("message.new")).await {
        assert_eq!(pushed["message"]["message"].as_str().unwrap().len(), 700 * 1024);
        count += 1;
    }
    assert!((1..=5).contains(&count), "{count} of 700 KiB are more than 4 MiB");
}

#[tokio::test]
async fn a_message_that_is_put_off_comes_again_after_its_delay_as_the_next_attempt() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let mut b = Client::open(&gate, "b").await;
    stage.send("a", "b", "1").await;
    let pushed = b.hear("message.new").await;
    let mut nack = settling("nack", &pushed);
    nack["delay_ms"] = json!(0);
    nack["reason"] = json!("busy");
    assert_eq!(b.ask(nack.clone()).await["type"], "ok");
    let again = b.hear("message.new").await;
    assert_eq!((&again["message"]["message"], &again["attempt"]), (&json!(1), &json!(2)));
    assert_eq!(b.ask(nack).await["error"], "Conflict", "a stale lease was good");
    let mut absurd = settling("nack", &again);
    absurd["delay_ms"] = json!(3_600_001);
    assert_eq!(b.ask(absurd).await["error"], "InvalidParams");
    assert_eq!(b.ask(settling("renew", &again)).await["type"], "ok");
    assert_eq!(b.ack(&again).await["type"], "ok");
    nothing_waits(&stage, "b").await;
}

#[tokio::test]
async fn messages_leave_in_the_order_in_which_they_were_said_and_each_is_answered() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let mut a = Client::open(&gate, "a").await;
    for n in 0..200 {
        a.say(json!({ "type": "message", "ref": n, "to": "b", "message": n })).await;
        if n % 50 == 20 {
            a.say(json!({ "type": "message", "ref": format!("bad{n}"), "to": "nobody", "message": n })).await;
        }
    }
    let (mut sent, mut refused) = (Vec::new(), Vec::new());
    while sent.len() + refused.len() < 204 {
        let answer = a.hear_that(|frame| !frame["ref"].is_null()).await;
        match answer["type"].as_str().unwrap() {
            "ok" => {
                assert_eq!(answer["recipients"], 1);
                assert_eq!(answer["durability"], "fsync");
                assert_eq!(answer["message_id"].as_str().unwrap().len(), 26);
                sent.push(answer["ref"].clone());
            }
            _ => {
                assert_eq!(answer["error"], "NotFound", "{answer}");
                refused.push(answer["ref"].clone());
            }
        }
    }
    assert_eq!(sent, (0..200).collect::<Vec<_>>());
    assert_eq!(refused, ["bad20", "bad70", "bad120", "bad170"]);
    let mut b = Client::open(&gate, "b").await;
    for n in 0..200 {
        let pushed = b.hear("message.new").await;
        assert_eq!(pushed["message"]["message"], n);
        b.say(settling("ack", &pushed)).await;
    }
}

#[tokio::test]
async fn the_same_key_said_twice_is_one_message() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let mut a = Client::open(&gate, "a").await;
    let frame = |reference: u32| json!({ "type": "message", "ref": reference, "to": "b", "message": 1, "idempotency_key": "k" });
    a.say(frame(1)).await;
    a.say(frame(2)).await;
    let first = a.hear_that(|frame| frame["ref"] == 1).await;
    let second = a.hear_that(|frame| frame["ref"] == 2).await;
    assert_eq!(first["message_id"], second["message_id"], "{first} {second}");
    assert_eq!((&first["duplicate"], &second["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!(stage.waiting("b").await, 1);
}

#[tokio::test]
async fn a_ping_to_an_agent_whose_socket_is_up_is_answered_by_the_hall() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let mut a = Client::open(&gate, "a").await;
    let mut b = Client::open(&gate, "b").await;
    let sent = a.ask(json!({ "type": "message", "to": "b", "kind": "ping", "message": "there?" })).await;
    let pong = a.hear("message.new").await;
    assert_eq!(pong["message"]["type"], kind::ACK);
    assert_eq!(pong["message"]["from"], "b");
    assert_eq!(pong["message"]["reply_to"], sent["message_id"]);
    assert_eq!(pong["message"]["correlation_id"], sent["message_id"]);
    nothing_waits(&stage, "b").await;
    b.hears_none("message.new", A_WHILE).await;
    assert_eq!(a.ack(&pong).await["type"], "ok");
}

#[tokio::test]
async fn mail_for_a_pool_goes_to_one_of_its_members() {
    let stage = Stage::with(&["a"]).await;
    for name in ["p1", "p2", "p3"] {
        stage.register(NewAgent { pool: Some("builders".into()), ..NewAgent::named(id(name), name) }).await;
    }
    let gate = stage.gateway().await;
    let (mut p1, mut p2, mut p3) =
        (Client::open(&gate, "p1").await, Client::open(&gate, "p2").await, Client::open(&gate, "p3").await);
    for n in 0..30 {
        stage.send("a", "pool:builders", &n.to_string()).await;
    }
    let mut got = Vec::new();
    while got.len() < 30 {
        let pushed = tokio::select! {
            pushed = p1.hear("message.new") => pushed,
            pushed = p2.hear("message.new") => pushed,
            pushed = p3.hear("message.new") => pushed,
        };
        assert_eq!(pushed["mailbox"], "pool:builders");
        got.push(pushed["message"]["message"].as_u64().unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, (0..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_sender_is_always_its_caller() {
    let stage = Stage::with(&["a", "b", "c"]).await;
    let gate = stage.gateway().await;
    let mut a = Client::open(&gate, "a").await;
    let foreign = a.ask(json!({ "type": "message", "from": "c", "to": "b", "message": 1 })).await;
    assert_eq!(foreign["error"], "PermissionDenied");
    let own = a.ask(json!({ "type": "message", "from": "a", "to": "b", "message": 2 })).await;
    assert_eq!(own["type"], "ok");
    let mut b = Client::open(&gate, "b").await;
    assert_eq!(b.bodies(1).await, [Value::from(2)]);
}
