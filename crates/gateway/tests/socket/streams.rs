//! Streams between two agents, on one gateway and on two.

use std::{sync::Arc, time::Duration};

use guildhall_gateway::Pace;
use serde_json::{Value, json};

use crate::{
    client::Client,
    deaf::Deaf,
    stage::{Gate, Stage, Terms},
};

async fn open_with(a: &mut Client, b: &mut Client, credit: Value) -> String {
    a.say(json!({ "type": "stream_open", "ref": "open", "to": "b", "metadata": { "why": 1.0 } })).await;
    let offered = b.hear("stream_open").await;
    assert_eq!((&offered["from"], &offered["metadata"]["why"]), (&json!("a"), &json!(1.0)));
    let stream = offered["stream"].as_str().unwrap().to_owned();
    let accepted = b.ask(json!({ "type": "stream_accept", "stream": stream, "credit": credit })).await;
    assert_eq!(accepted["credit"], json!({ "frames": 64, "bytes": 262_144 }), "{accepted}");
    let opened = a.hear_that(|frame| frame["ref"] == "open").await;
    assert_eq!((&opened["type"], &opened["stream"], &opened["credit"]), (&json!("ok"), &json!(stream), &credit));
    stream
}

async fn open(a: &mut Client, b: &mut Client) -> String {
    open_with(a, b, json!({ "frames": 3, "bytes": 1000 })).await
}

async fn carries_both_ways(one: &Gate, other: &Gate) {
    let (mut a, mut b) = (Client::open(one, "a").await, Client::open(other, "b").await);
    let stream = open(&mut a, &mut b).await;
    for n in 1..=3 {
        a.say(json!({ "type": "stream_data", "stream": stream, "seq": n, "data": { "n": n } })).await;
    }
    for n in 1..=3 {
        let data = b.hear("stream_data").await;
        assert_eq!((&data["seq"], &data["data"]["n"], &data["stream"]), (&json!(n), &json!(n), &json!(stream)));
    }
    let granted = b.ask(json!({ "type": "stream_credit", "stream": stream, "frames": 1000, "bytes": 10 })).await;
    assert_eq!(granted["credit"], json!({ "frames": 64, "bytes": 979 + 10 }), "no more than 64 may be in flight");
    let credit = a.hear("stream_credit").await;
    assert_eq!((&credit["frames"], &credit["bytes"]), (&json!(64), &json!(10)));
    let answer = a.ask(json!({ "type": "stream_data", "stream": stream, "data": "later" })).await;
    assert_eq!((&answer["type"], &answer["seq"]), (&json!("ok"), &json!(4)));
    assert_eq!(b.hear("stream_data").await["data"], "later");
    b.say(json!({ "type": "stream_data", "stream": stream, "data": "back" })).await;
    assert_eq!(a.hear("stream_data").await["data"], "back");
    assert_eq!(a.ask(json!({ "type": "stream_close", "stream": stream, "reason": "done" })).await["type"], "ok");
    let closed = b.hear("stream_close").await;
    assert_eq!((&closed["stream"], &closed["reason"]), (&json!(stream), &json!("done")));
    let late = b.ask(json!({ "type": "stream_data", "stream": stream, "data": 1 })).await;
    assert_eq!(late["error"], "NotFound");
}

#[tokio::test]
async fn a_stream_carries_data_in_order_both_ways_until_it_is_closed() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    carries_both_ways(&gate, &gate).await;
}

#[tokio::test]
async fn between_two_gateways_too() {
    let stage = Stage::with(&["a", "b"]).await;
    let (one, other) = (stage.gateway().await, stage.gateway().await);
    carries_both_ways(&one, &other).await;
}

#[tokio::test]
async fn much_goes_through_between_two_gateways_and_none_is_lost() {
    let stage = Stage::with(&["a", "b"]).await;
    let (one, other) = (stage.gateway().await, stage.gateway().await);
    let (mut a, mut b) = (Client::open(&one, "a").await, Client::open(&other, "b").await);
    let stream = open_with(&mut a, &mut b, json!({ "frames": 64, "bytes": 262_144 })).await;
    let sending = async {
        let mut may_send = 64;
        for n in 1..=2_000_u64 {
            while may_send == 0 {
                may_send += a.hear("stream_credit").await["frames"].as_u64().unwrap();
            }
            may_send -= 1;
            a.say(json!({ "type": "stream_data", "stream": stream, "seq": n, "data": n })).await;
        }
    };
    let receiving = async {
        for n in 1..=2_000_u64 {
            assert_eq!(b.hear("stream_data").await["data"], n);
            if n % 32 == 0 {
                b.say(json!({ "type": "stream_credit", "stream": stream, "frames": 32, "bytes": 262_144 })).await;
            }
        }
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn what_was_not_granted_ends_the_stream_on_both_sides() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (mut a, mut b) = (Client::open(&gate, "a").await, Client::open(&gate, "b").await);
    let stream = open(&mut a, &mut b).await;
    for _ in 0..3 {
        a.say(json!({ "type": "stream_data", "stream": stream, "data": 1 })).await;
    }
    let answer = a.ask(json!({ "type": "stream_data", "stream": stream, "data": 1 })).await;
    assert_eq!(answer["error"], "Conflict", "{answer}");
    assert_eq!(b.hear("stream_close").await["reason"], "more was sent than was granted");
    let stream = open(&mut a, &mut b).await;
    let many_bytes = "x".repeat(1001);
    let answer = a.ask(json!({ "type": "stream_data", "stream": stream, "data": many_bytes })).await;
    assert_eq!(answer["error"], "Conflict");
    assert_eq!(b.hear("stream_close").await["stream"], stream);
}

#[tokio::test]
async fn one_that_is_refused_or_that_nobody_is_there_for_is_not_opened() {
    let stage = Stage::with(&["a", "b", "c"]).await;
    let gate = stage.gateway().await;
    let (mut a, mut b) = (Client::open(&gate, "a").await, Client::open(&gate, "b").await);
    a.say(json!({ "type": "stream_open", "ref": "open", "to": "b", "stream": "mine" })).await;
    assert_eq!(b.hear("stream_open").await["stream"], "mine");
    assert_eq!(b.ask(json!({ "type": "stream_refuse", "stream": "mine", "reason": "busy" })).await["type"], "ok");
    let refused = a.hear_that(|frame| frame["ref"] == "open").await;
    assert_eq!(refused["error"], "Unavailable");
    assert!(refused["message"].as_str().unwrap().contains("refused: busy"), "{refused}");
    let alone = a.ask(json!({ "type": "stream_open", "to": "c" })).await;
    assert_eq!(alone["error"], "Unavailable", "{alone}");
    let own = a.ask(json!({ "type": "stream_open", "to": "a" })).await;
    assert_eq!(own["error"], "InvalidParams");
}

#[tokio::test]
async fn one_that_nobody_accepts_in_time_ends_on_both_sides() {
    let stage = Stage::with(&["a", "b"]).await;
    let pace = Pace { accepts_within: Duration::from_millis(300), ..Pace::default() };
    let gate = stage.gateway_with(Terms { pace, ..Terms::default() }).await;
    let (mut a, mut b) = (Client::open(&gate, "a").await, Client::open(&gate, "b").await);
    let answer = a.ask(json!({ "type": "stream_open", "to": "b" })).await;
    assert!(answer["message"].as_str().unwrap().contains("nobody accepted it"), "{answer}");
    let offered = b.hear("stream_open").await;
    let ended = b.hear("stream_close").await;
    assert_eq!(offered["stream"], ended["stream"]);
    assert_eq!(b.ask(json!({ "type": "stream_accept", "stream": offered["stream"] })).await["error"], "NotFound");
}

#[tokio::test]
async fn it_ends_when_either_side_drops_and_says_whether_its_agent_has_a_newer_socket() {
    let stage = Stage::with(&["a", "b"]).await;
    let (one, other) = (stage.gateway().await, stage.gateway().await);
    let (mut a, mut b) = (Client::open(&one, "a").await, Client::open(&other, "b").await);
    let stream = open(&mut a, &mut b).await;
    b.close().await;
    let ended = a.hear("stream_close").await;
    assert_eq!((&ended["stream"], &ended["reason"]), (&json!(stream), &json!("the other side's socket has closed")));
    let mut b = Client::open(&other, "b").await;
    open(&mut a, &mut b).await;
    let _newer = Client::open(&one, "b").await;
    b.hear("mail.here").await;
    drop(b);
    assert_eq!(a.hear("stream_close").await["reason"], "moved");
}

/// Gateways that hear of each other more often.
fn quick() -> Terms {
    Terms { pace: Pace { here_every: Duration::from_secs(1), ..Pace::default() }, ..Terms::default() }
}

#[tokio::test]
async fn a_frame_that_is_lost_between_gateways_ends_it_on_both_sides() {
    let stage = Stage::with(&["a", "b"]).await;
    let bus = Arc::new(Deaf::now_and_then(stage.bus.clone()));
    let one = stage.gateway_with(Terms { bus: Some(bus.clone()), ..quick() }).await;
    let other = stage.gateway_with(quick()).await;
    let (mut a, mut b) = (Client::open(&one, "a").await, Client::open(&other, "b").await);
    for of_last in [false, true] {
        let stream = open(&mut a, &mut b).await;
        bus.lose_after(1);
        let frames = if of_last { 2 } else { 3 };
        for n in 1..=frames {
            a.say(json!({ "type": "stream_data", "stream": stream, "data": n })).await;
        }
        assert_eq!(b.hear("stream_data").await["data"], 1);
        let (at_a, at_b) = tokio::join!(a.hear("stream_close"), b.hear("stream_close"));
        for ended in [at_a, at_b] {
            assert_eq!(
                (&ended["stream"], &ended["reason"]),
                (&json!(stream), &json!("a frame was lost between the gateways"))
            );
        }
    }
}

#[tokio::test]
async fn it_ends_soon_after_the_other_sides_gateway_is_gone() {
    let stage = Stage::with(&["a", "b"]).await;
    let (lives, dies) = (stage.gateway_with(quick()).await, stage.gateway_with(quick()).await);
    let (mut a, mut b) = (Client::open(&lives, "a").await, Client::open(&dies, "b").await);
    let stream = open(&mut a, &mut b).await;
    drop(dies);
    let ended = a.hear("stream_close").await;
    assert_eq!((&ended["stream"], &ended["reason"]), (&json!(stream), &json!("the other side's gateway is gone")));
}

#[tokio::test]
async fn a_socket_has_thirty_two_streams_and_no_more() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (mut a, mut b) = (Client::open(&gate, "a").await, Client::open(&gate, "b").await);
    for _ in 0..32 {
        open(&mut a, &mut b).await;
    }
    assert_eq!(a.ask(json!({ "type": "stream_open", "to": "b" })).await["error"], "InvalidParams");
}
