//! The live socket: mail is pushed and pushed again, frames are answered, streams run between two agents.

use std::time::{Duration, Instant};

use guildhall_tests::{Hall, Setup, scenarios, socket::Socket};
use serde_json::{Value, json};

scenarios! {
    mail_is_pushed_at_once_whichever_gateway_takes_it(Setup::open());
    what_was_not_acknowledged_is_pushed_again_on_the_next_socket_in_order(Setup::open());
    a_gateway_that_dies_takes_no_mail_with_it(Setup::open());
    the_newest_socket_gets_the_mail(Setup::open());
    every_frame_is_answered_under_its_ref(Setup::open());
    an_unknown_or_broken_frame_is_a_clear_error_and_nothing_is_done(Setup::open());
    nobody_opens_the_socket_of_another(Setup::required());
    a_token_that_is_revoked_ends_the_socket(Setup::required());
    others_coming_and_going_are_told(Setup::open());
    a_ping_to_a_live_agent_is_answered_by_the_hall(Setup::open());
    topics_are_followed_with_a_filter_and_resumed(Setup::open());
    a_stream_runs_both_ways_in_order_under_credit_between_any_two_gateways(Setup::open());
    a_stream_ends_cleanly_when_a_side_drops(Setup::open());
    a_stream_that_nobody_takes_is_refused(Setup::open());
}

async fn register(hall: &Hall, agents: &[&str]) {
    for agent in agents {
        hall.caller().register(agent).await;
    }
}

fn gateway_url(hall: &Hall, gateway: usize) -> String {
    format!("http://{}", hall.gateway_addresses()[gateway])
}

async fn open(hall: &Hall, gateway: usize, agent: &str) -> Socket {
    Socket::open(&gateway_url(hall, gateway), agent).await
}

async fn send(hall: &Hall, from: &str, to: &str, message: Value) {
    hall.agent(from).post("/api/v1/messages", json!({"to": to, "message": message})).await.ok();
}

async fn ack(socket: &mut Socket, pushed: &Value) -> Value {
    let frame = json!({"type": "ack", "message_id": pushed["message"]["message_id"], "lease": pushed["lease"]});
    socket.ask(frame, "ack").await
}

async fn mail_is_pushed_at_once_whichever_gateway_takes_it(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    send(hall, "alice", "bob", json!("before")).await;
    let last = hall.gateways().len() - 1;
    let mut bob = open(hall, last, "bob").await;
    let waited = bob.next("message.new").await;
    assert_eq!(waited["message"]["message"], "before", "{waited}");
    assert_eq!(ack(&mut bob, &waited).await["type"], "ok");
    let mut times = Vec::new();
    for n in 0..8 {
        let began = Instant::now();
        let alice = hall.caller_of(n % hall.gateways().len()).agent("alice");
        alice.post("/api/v1/messages", json!({"to": "bob", "message": n})).await.ok();
        let pushed = bob.next("message.new").await;
        assert_eq!((&pushed["message"]["message"], &pushed["message"]["from"]), (&json!(n), &json!("alice")));
        assert!(pushed["lease"].is_string(), "{pushed}");
        times.push(began.elapsed());
        ack(&mut bob, &pushed).await;
    }
    // Without a hint each but the first would wait the 2 s from one sweep to the next.
    let fastest = times[1..].iter().min().unwrap();
    assert!(*fastest < Duration::from_millis(1_500), "no hint, but a sweep: {times:?}");
    let history = hall.agent("bob").get("/api/v1/messages?agent_id=bob").await.ok();
    assert!(history["messages"].as_array().unwrap().iter().all(|mail| mail["state"] == "acknowledged"), "{history}");
}

async fn what_was_not_acknowledged_is_pushed_again_on_the_next_socket_in_order(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let mut first = open(hall, 0, "bob").await;
    for n in 0..5 {
        send(hall, "alice", "bob", json!(n)).await;
    }
    for n in 0..5 {
        let pushed = first.next("message.new").await;
        assert_eq!(pushed["message"]["message"], json!(n));
        if n < 2 {
            ack(&mut first, &pushed).await;
        }
    }
    drop(first);
    let mut second = open(hall, hall.gateways().len() - 1, "bob").await;
    for n in 2..5 {
        let pushed = second.next("message.new").await;
        assert_eq!((&pushed["message"]["message"], &pushed["attempt"]), (&json!(n), &json!(1)), "{pushed}");
        ack(&mut second, &pushed).await;
    }
    assert_eq!(
        second.try_next(Duration::from_secs(1)).await.unwrap().filter(|frame| frame["type"] == "message.new"),
        None
    );
}

async fn a_gateway_that_dies_takes_no_mail_with_it(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let mut lost = open(hall, 0, "bob").await;
    send(hall, "alice", "bob", json!("held by the dead")).await;
    lost.next("message.new").await;
    hall.gateways()[0].process.kill();
    if hall.gateways().len() == 1 {
        hall.gateways()[0].restart().await;
    }
    let mut next = open(hall, hall.gateways().len() - 1, "bob").await;
    let pushed = next.next("message.new").await;
    assert_eq!(pushed["message"]["message"], "held by the dead");
    assert_eq!(ack(&mut next, &pushed).await["type"], "ok");
    if hall.gateways().len() > 1 {
        hall.gateways()[0].restart().await;
    }
}

async fn the_newest_socket_gets_the_mail(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let mut older = open(hall, 0, "bob").await;
    send(hall, "alice", "bob", json!("in the older one's hands")).await;
    older.next("message.new").await;
    let mut newer = open(hall, hall.gateways().len() - 1, "bob").await;
    let taken_over = newer.next("message.new").await;
    assert_eq!(taken_over["message"]["message"], "in the older one's hands");
    assert_eq!(older.next("mail.here").await["here"], false);
    ack(&mut newer, &taken_over).await;
    send(hall, "alice", "bob", json!("for the newer")).await;
    let pushed = newer.next("message.new").await;
    ack(&mut newer, &pushed).await;
    drop(newer);
    assert_eq!(older.next("mail.here").await["here"], true);
    send(hall, "alice", "bob", json!("for the older again")).await;
    // Until its gateway had heard of the newer one, it may have been given the first once more.
    let mut pushed = older.next("message.new").await;
    while pushed["message"]["message"] == "in the older one's hands" {
        pushed = older.next("message.new").await;
    }
    assert_eq!(pushed["message"]["message"], "for the older again");
}

async fn every_frame_is_answered_under_its_ref(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let mut alice = open(hall, 0, "alice").await;
    let mut bob = open(hall, 0, "bob").await;
    assert_eq!(alice.ask(json!({"type": "heartbeat", "busy": true}), "h").await["type"], "ok");
    let body = json!({"type": "message", "to": "bob", "message": {"a": 1}, "kind": "note", "idempotency_key": "k"});
    let sent = alice.ask(body.clone(), "m1").await;
    assert_eq!((&sent["type"], &sent["recipients"]), (&json!("ok"), &json!(1)), "{sent}");
    assert!(["fsync", "replicated"].contains(&sent["durability"].as_str().unwrap()), "{sent}");
    assert_eq!(alice.ask(body, "m2").await["message_id"], sent["message_id"]);
    let pushed = bob.next("message.new").await;
    assert_eq!((&pushed["message"]["type"], &pushed["message"]["message_id"]), (&json!("note"), &sent["message_id"]));
    let nack = json!({"type": "nack", "message_id": sent["message_id"], "lease": pushed["lease"], "delay_ms": 100});
    assert_eq!(bob.ask(nack.clone(), "n").await["type"], "ok");
    let stale = bob.ask(nack, "stale").await;
    assert_eq!((&stale["type"], &stale["error"]), (&json!("error"), &json!("Conflict")), "{stale}");
    let again = bob.next("message.new").await;
    assert_eq!(again["attempt"], 2, "{again}");
    let renew = json!({"type": "renew", "message_id": sent["message_id"], "lease": again["lease"]});
    assert_eq!(bob.ask(renew, "r").await["type"], "ok");
    assert_eq!(ack(&mut bob, &again).await["type"], "ok");
    // Said one after another without waiting, heard in that order.
    for n in 0..20 {
        alice.send(json!({"type": "message", "to": "bob", "message": n, "ref": n})).await;
    }
    for n in 0..20 {
        let pushed = bob.next("message.new").await;
        assert_eq!(pushed["message"]["message"], json!(n));
        ack(&mut bob, &pushed).await;
    }
}

async fn an_unknown_or_broken_frame_is_a_clear_error_and_nothing_is_done(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let mut alice = open(hall, 0, "alice").await;
    for frame in [
        json!({"type": "shout", "to": "bob"}),
        json!({"type": "message", "to": "bob"}),
        json!({"type": "message", "to": "bob", "message": 1, "colour": "red"}),
        json!({"type": "message", "to": "nobody", "message": 1}),
        json!({"type": "message", "to": "bob", "message": 1, "from": "bob"}),
        json!({"type": "ack", "message_id": "x", "lease": "y"}),
        json!({"type": "subscribe", "topic": "t", "filter": "event.a =="}),
        json!({"type": "stream_data", "stream": "none", "data": 1}),
    ] {
        let answer = alice.ask(frame.clone(), "bad").await;
        assert_eq!(answer["type"], "error", "{frame}: {answer}");
        assert!(answer["error"].is_string() && answer["message"].as_str().unwrap().len() > 10, "{answer}");
        alice.ask(json!({"type": "heartbeat"}), "still here").await;
    }
    alice.send_text("not json").await.unwrap();
    assert_eq!(alice.next("error").await["error"], "InvalidParams");
    let none = hall.agent("bob").get("/api/v1/messages?agent_id=bob").await.ok();
    assert_eq!(none["total"], 0, "{none}");
    for _ in 0..20 {
        // It may be closed before the last.
        if alice.send_text("{").await.is_err() {
            break;
        }
    }
    let frames = alice.until_closed(Duration::from_secs(10)).await;
    let says_why = |frame: &Value| frame["type"] == "error" && frame["message"].as_str().unwrap().contains("in a row");
    assert!(frames.iter().any(says_why), "{frames:?}");
}

async fn nobody_opens_the_socket_of_another(hall: &Hall) {
    let alice = hall.admin().register("alice").await;
    hall.admin().register("bob").await;
    let url = hall.url();
    assert!(Socket::with_token(&url, "bob", &alice).await.is_err());
    assert!(Socket::with_token(&url, "alice", "no-token").await.is_err());
    assert!(Socket::try_open(&url, "alice").await.is_err(), "a name is no proof");
    assert!(Socket::with_token(&url, "nobody", &alice).await.is_err());
    Socket::with_token(&url, "alice", &alice).await.unwrap();
    let refused = hall.caller().token(&alice).get("/ws/bob").await;
    assert!((400..500).contains(&refused.status), "{}", refused.text);
}

async fn a_token_that_is_revoked_ends_the_socket(hall: &Hall) {
    let token = hall.admin().register("alice").await;
    let socket = Socket::with_token(&hall.url(), "alice", &token).await.unwrap();
    hall.run(&["token", "revoke", "--agent", "alice"]).await.ok();
    let frames = socket.until_closed(Duration::from_secs(15)).await;
    assert!(
        frames.iter().any(|frame| frame["type"] == "error" && frame["error"] == "AuthenticationError"),
        "{frames:?}"
    );
}

async fn others_coming_and_going_are_told(hall: &Hall) {
    register(hall, &["watcher"]).await;
    let mut watcher = open(hall, 0, "watcher").await;
    hall.caller().register("newcomer").await;
    assert_eq!(watcher.next("agent.joined").await["agent_id"], "newcomer");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    hall.agent("newcomer").post("/api/v1/agents/newcomer/heartbeat", json!({"status": "busy"})).await.ok();
    let status = watcher.next("agent.status").await;
    assert_eq!((&status["agent_id"], &status["status"]), (&json!("newcomer"), &json!("busy")), "{status}");
    hall.agent("newcomer").delete("/api/v1/agents/newcomer").await.ok();
    assert_eq!(watcher.next("agent.left").await["agent_id"], "newcomer");
}

async fn a_ping_to_a_live_agent_is_answered_by_the_hall(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let mut bob = open(hall, hall.gateways().len() - 1, "bob").await;
    let mut alice = open(hall, 0, "alice").await;
    let ping = json!({"type": "message", "to": "bob", "kind": "ping", "message": "there?"});
    let sent = alice.ask(ping, "p").await;
    let answer = alice.next("message.new").await;
    assert_eq!((&answer["message"]["type"], &answer["message"]["from"]), (&json!("ack"), &json!("bob")), "{answer}");
    assert_eq!(answer["message"]["reply_to"], sent["message_id"], "{answer}");
    send(hall, "alice", "bob", json!("after")).await;
    assert_eq!(bob.next("message.new").await["message"]["message"], "after", "the ping itself is not pushed");
}

async fn topics_are_followed_with_a_filter_and_resumed(hall: &Hall) {
    register(hall, &["ci", "reader"]).await;
    let publish = async |n: u64| {
        hall.agent("ci").post("/api/v1/topics/ci/events", json!({"event": {"n": n}})).await.ok()["sequence"]
            .as_u64()
            .unwrap()
    };
    let mut reader = open(hall, 0, "reader").await;
    let subscribe = json!({"type": "subscribe", "topic": "ci", "filter": "event.n % 2 == 0"});
    assert_eq!(reader.ask(subscribe, "s").await["type"], "ok");
    for n in 1..=4 {
        publish(n).await;
    }
    let two = reader.next("topic.event").await;
    assert_eq!(
        (&two["event"]["n"], &two["publisher"], &two["topic"]),
        (&json!(2), &json!("ci"), &json!("ci")),
        "{two}"
    );
    assert_eq!(reader.next("topic.event").await["event"]["n"], 4);
    drop(reader);
    for n in 5..=8 {
        publish(n).await;
    }
    let mut again = open(hall, hall.gateways().len() - 1, "reader").await;
    let resume = json!({"type": "subscribe", "topic": "ci", "after": two["sequence"]});
    assert_eq!(again.ask(resume, "s").await["type"], "ok");
    for n in 3..=8 {
        assert_eq!(again.next("topic.event").await["event"]["n"], json!(n));
    }
    assert_eq!(again.ask(json!({"type": "unsubscribe", "topic": "ci"}), "u").await["type"], "ok");
    publish(9).await;
    let quiet = again.try_next(Duration::from_millis(700)).await.unwrap();
    assert!(quiet.is_none_or(|frame| frame["type"] != "topic.event"));
}

/// A stream between two agents of these names: new ones each time, of whom nobody has heard before.
async fn pair(hall: &Hall, names: (&str, &str), a_at: usize, b_at: usize) -> (Socket, Socket) {
    register(hall, &[names.0, names.1]).await;
    let mut a = open(hall, a_at, names.0).await;
    let mut b = open(hall, b_at, names.1).await;
    let metadata = json!({"what": "log"});
    a.send(json!({"type": "stream_open", "ref": "o", "to": names.1, "stream": "s", "metadata": metadata})).await;
    let asked = b.next("stream_open").await;
    assert_eq!((&asked["from"], &asked["metadata"]), (&json!(names.0), &metadata), "{asked}");
    let accept = json!({"type": "stream_accept", "stream": asked["stream"], "credit": {"frames": 8, "bytes": 65536}});
    assert_eq!(b.ask(accept, "acc").await["type"], "ok");
    let opened = a.next("ok").await;
    assert_eq!((&opened["ref"], &opened["credit"]["frames"]), (&json!("o"), &json!(8)), "{opened}");
    (a, b)
}

async fn a_stream_runs_both_ways_in_order_under_credit_between_any_two_gateways(hall: &Hall) {
    let last = hall.gateways().len() - 1;
    for (names, a_at, b_at) in [(("a1", "b1"), 0, 0), (("a2", "b2"), 0, last), (("a3", "b3"), last, 0)] {
        let (mut a, mut b) = pair(hall, names, a_at, b_at).await;
        let mut sent = 0;
        for round in 0..5 {
            for _ in 0..8 {
                a.send(json!({"type": "stream_data", "stream": "s", "data": {"n": sent}})).await;
                sent += 1;
            }
            for n in round * 8..sent {
                let data = b.next("stream_data").await;
                assert_eq!((&data["data"]["n"], &data["seq"]), (&json!(n), &json!(n + 1)), "{data}");
            }
            b.send(json!({"type": "stream_data", "stream": "s", "data": {"seen": sent}})).await;
            assert_eq!(a.next("stream_data").await["data"]["seen"], json!(sent));
            b.send(json!({"type": "stream_credit", "stream": "s", "frames": 8, "bytes": 65536})).await;
            a.next("stream_credit").await;
        }
        // More than was granted: the stream ends, on both sides.
        for n in 0..9 {
            a.send(json!({"type": "stream_data", "stream": "s", "data": n})).await;
        }
        let error = a.next("error").await;
        assert!(error["message"].as_str().unwrap().contains("credit"), "{error}");
        assert!(b.next("stream_close").await["reason"].is_string());
    }
}

async fn a_stream_ends_cleanly_when_a_side_drops(hall: &Hall) {
    let last = hall.gateways().len() - 1;
    let (mut a, b) = pair(hall, ("a1", "b1"), 0, last).await;
    drop(b);
    assert_eq!(a.next("stream_close").await["stream"], "s");
    let (mut a, mut b) = pair(hall, ("a2", "b2"), 0, last).await;
    assert_eq!(a.ask(json!({"type": "stream_close", "stream": "s", "reason": "done"}), "c").await["type"], "ok");
    assert_eq!(b.next("stream_close").await["reason"], "done");
    let (mut a, mut b) = pair(hall, ("a3", "b3"), 0, last).await;
    // Its agent goes on with a newer socket, of which its gateway has heard.
    let _newer = open(hall, last, "a3").await;
    assert_eq!(a.next("mail.here").await["here"], false);
    drop(a);
    assert_eq!(b.next("stream_close").await["reason"], "moved");
}

async fn a_stream_that_nobody_takes_is_refused(hall: &Hall) {
    register(hall, &["a", "b"]).await;
    let mut a = open(hall, 0, "a").await;
    let nobody = a.ask(json!({"type": "stream_open", "to": "b", "stream": "s"}), "o").await;
    assert_eq!(nobody["type"], "error", "{nobody}");
    let mut b = open(hall, hall.gateways().len() - 1, "b").await;
    a.send(json!({"type": "stream_open", "ref": "o2", "to": "b", "stream": "s2"})).await;
    let asked = b.next("stream_open").await;
    b.ask(json!({"type": "stream_refuse", "stream": asked["stream"], "reason": "busy"}), "no").await;
    let refused = a.next("error").await;
    assert!(refused.to_string().contains("busy"), "{refused}");
}
