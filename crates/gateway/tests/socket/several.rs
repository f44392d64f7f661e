//! Several sockets of one agent, on one gateway and on two.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    client::Client,
    stage::{Gate, Stage},
};

const A_WHILE: Duration = Duration::from_millis(300);

async fn newest_gets_the_mail(stage: &Stage, first: &Gate, second: &Gate) {
    let mut older = Client::open(first, "b").await;
    stage.send("a", "b", "1").await;
    let held = older.hear("message.new").await;
    let mut newer = Client::open(second, "b").await;
    assert_eq!(newer.bodies(1).await, [1], "what the older one held came on the newer one");
    assert_eq!(older.hear("mail.here").await["here"], false);
    assert_eq!(older.ack(&held).await["error"], "Conflict");
    stage.send("a", "b", "2").await;
    newer.close().await;
    assert_eq!(older.hear("mail.here").await["here"], true);
    for n in 1..=2 {
        let pushed = older.hear("message.new").await;
        assert_eq!(pushed["message"]["message"], n, "not given back, or not in order");
        assert_eq!(older.ack(&pushed).await["type"], "ok");
    }
}

#[tokio::test]
async fn the_newest_socket_gets_the_mail_and_the_older_one_again_when_it_closes() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    newest_gets_the_mail(&stage, &gate, &gate).await;
}

#[tokio::test]
async fn across_gateways_too() {
    let stage = Stage::with(&["a", "b"]).await;
    let (one, other) = (stage.gateway().await, stage.gateway().await);
    newest_gets_the_mail(&stage, &one, &other).await;
}

#[tokio::test]
async fn an_older_socket_that_closes_takes_nothing_from_the_newer_one() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let older = Client::open(&gate, "b").await;
    let mut newer = Client::open(&gate, "b").await;
    stage.send("a", "b", "1").await;
    let pushed = newer.hear("message.new").await;
    older.close().await;
    newer.hears_none("message.new", A_WHILE).await;
    assert_eq!(newer.ack(&pushed).await["type"], "ok");
}

#[tokio::test]
async fn what_a_gateway_that_died_held_comes_again_on_the_next_socket_in_its_order() {
    let stage = Stage::with(&["a", "b"]).await;
    let (dies, lives) = (stage.gateway().await, stage.gateway().await);
    let mut b = Client::open(&dies, "b").await;
    stage.send_run("a", "b", 5).await;
    let first = b.hear("message.new").await;
    b.ack(&first).await;
    b.bodies(4).await;
    // Its sockets' tasks are not the gateway's own: that it says nothing more is as good as dead.
    drop(dies);
    let mut next = Client::open(&lives, "b").await;
    for n in 1..5 {
        let pushed = next.hear("message.new").await;
        assert_eq!(pushed["message"]["message"], n);
        assert_eq!(next.ack(&pushed).await["type"], "ok");
    }
}

#[tokio::test]
async fn an_older_socket_gets_the_mail_again_when_the_gateway_of_the_newer_one_is_gone() {
    let stage = Stage::with(&["a", "b"]).await;
    let (lives, dies) = (stage.gateway().await, stage.gateway().await);
    let mut older = Client::open(&lives, "b").await;
    let newer = Client::open(&dies, "b").await;
    assert_eq!(older.hear("mail.here").await["here"], false);
    // Dead to the others, and nobody there to take: its socket says nothing of its end.
    drop(dies);
    stage.send("a", "b", "1").await;
    assert_eq!(older.hear("mail.here").await["here"], true);
    assert_eq!(older.bodies(1).await, [1]);
    drop(newer);
}

#[tokio::test]
async fn nothing_is_lost_between_sockets_that_come_and_go() {
    let stage = Stage::with(&["a", "b"]).await;
    let (one, other) = (stage.gateway().await, stage.gateway().await);
    let total = 300;
    let sending = async {
        for n in 0..total {
            stage.send("a", "b", &n.to_string()).await;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let receiving = async {
        let mut acknowledged: Vec<u64> = Vec::new();
        let mut round = 0;
        while acknowledged.len() < total {
            round += 1;
            let mut b = Client::open(if round % 2 == 0 { &one } else { &other }, "b").await;
            for _ in 0..7 {
                if acknowledged.len() == total {
                    break;
                }
                let pushed = b.hear("message.new").await;
                let answer = b.ack(&pushed).await;
                assert_eq!(answer["type"], "ok", "{answer}");
                acknowledged.push(pushed["message"]["message"].as_u64().unwrap());
            }
            // Half of them end without a word.
            if round % 3 == 0 {
                b.close().await;
            }
        }
        acknowledged
    };
    let ((), acknowledged) = tokio::join!(sending, receiving);
    assert_eq!(acknowledged, (0..total as u64).collect::<Vec<_>>(), "lost, twice or out of order");
}

#[tokio::test]
async fn a_lost_hint_costs_no_more_than_the_sweep() {
    let stage = Stage::with(&["a", "b"]).await;
    let deaf = std::sync::Arc::new(crate::deaf::Deaf::to_mail(stage.bus.clone()));
    let gate = stage.gateway_with(crate::stage::Terms { bus: Some(deaf), ..Default::default() }).await;
    let mut b = Client::open(&gate, "b").await;
    // The first taking is over.
    tokio::time::sleep(A_WHILE).await;
    stage.send("a", "b", "1").await;
    let pushed: Value = tokio::time::timeout(Duration::from_secs(4), b.hear("message.new")).await.expect("no sweep");
    assert_eq!(pushed["message"]["message"], json!(1));
}
