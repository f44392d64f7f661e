//! What becomes of clients that are slow, silent, or gone before they came, at a quicker pace than users meet.

use std::time::Duration;

use guildhall_gateway::Pace;
use guildhall_testkit::engines::eventually;
use serde_json::json;
use tokio::{io::AsyncReadExt as _, time::Instant};

use crate::{
    client::{Client, bare_request, open_bare},
    stage::{Stage, Terms},
};

const SOON: Duration = Duration::from_secs(60);
/// Twenty of them from one ping to the next.
const WALK: Duration = Duration::from_millis(20);

#[tokio::test]
async fn what_a_client_holds_for_long_is_renewed_for_as_long_as_it_answers_pings() {
    let stage = Stage::with(&["a", "b"]).await;
    let lease = Duration::from_secs(3);
    let pace = Pace { walk: WALK, lease, ..Pace::default() };
    let gate = stage.gateway_with(Terms { pace, ..Terms::default() }).await;
    let mut b = Client::open(&gate, "b").await;
    stage.send("a", "b", "1").await;
    let pushed = b.hear("message.new").await;
    // It reads, and with that answers pings.
    b.hears_none("message.new", lease + lease / 2).await;
    assert_eq!(b.ack(&pushed).await["type"], "ok", "its lease had run out");
}

#[tokio::test]
async fn a_client_that_answers_no_pings_is_cut_off_and_told_why_and_its_mail_given_back() {
    let stage = Stage::with(&["a", "b"]).await;
    stage.send("a", "b", "1").await;
    let gate = stage.gateway_with(Terms { pace: Pace { walk: WALK, ..Pace::default() }, ..Terms::default() }).await;
    let began = Instant::now();
    let mut silent = open_bare(gate.address, "b").await;
    let mut said = Vec::new();
    tokio::time::timeout(SOON, silent.read_to_end(&mut said)).await.expect("it was not cut off").unwrap();
    assert!(began.elapsed() >= WALK * 20, "after fewer than two pings");
    let pings = said.windows(2).filter(|two| *two == [0x89, 0]).count();
    assert_eq!(pings, 2);
    let text = String::from_utf8_lossy(&said);
    assert!(text.contains("message.new") && text.contains("did not answer two pings"), "{text}");
    // The last frame is a close frame, with its code first.
    let close = said.windows(4).rposition(|four| four[0] == 0x88 && four[2..] == 4408_u16.to_be_bytes());
    assert!(close.is_some(), "{text}");
    eventually("given back", SOON, async || (stage.waiting("b").await == 1).then_some(())).await;
}

#[tokio::test]
async fn a_socket_is_here_before_its_client_knows_of_it() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let mut a = Client::open(&gate, "a").await;
    for n in 0..30 {
        let mut b = Client::open(&gate, "b").await;
        let name = format!("n{n}");
        a.say(json!({ "type": "stream_open", "ref": name, "to": "b", "stream": name })).await;
        stage.register(guildhall_domain::NewAgent::named(crate::stage::id(&name), "N")).await;
        assert_eq!(b.hear("stream_open").await["stream"], *name);
        assert_eq!(b.hear("agent.joined").await["agent_id"], *name, "it was told of fewer");
        b.say(json!({ "type": "stream_refuse", "stream": name })).await;
        a.hear_that(|frame| frame["ref"] == *name).await;
    }
}

#[tokio::test]
async fn a_socket_whose_client_went_while_it_opened_keeps_nothing_from_the_agents_others() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let mut b = Client::open(&gate, "b").await;
    for n in 0..16 {
        let gone = bare_request(gate.address, "b").await;
        // Without a word to the other side's last one: it is reset.
        socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
        if n % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop(gone);
    }
    stage.send("a", "b", "1").await;
    let pushed = b.hear("message.new").await;
    // Others that were here for a moment may have had it before, which counts as no attempt.
    assert_eq!((&pushed["message"]["message"], &pushed["attempt"]), (&json!(1), &json!(1)));
    eventually("all places are free again", SOON, async || {
        let mut open = Vec::new();
        for _ in 0..15 {
            open.push(Client::connect(gate.address, "/ws/b", &[]).await.ok()?);
        }
        Some(())
    })
    .await;
}
