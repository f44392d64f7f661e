//! Requests: one answer belongs to each, or one end; nobody waits for ever, and nobody waits in a circle.

use std::time::{Duration, Instant};

use guildhall_tests::{Caller, Hall, Setup, eventually, scenarios};
use serde_json::{Value, json};

scenarios! {
    whoever_waits_gets_the_answer_whichever_gateway_hears_it(Setup::open());
    whoever_does_not_wait_asks_later_and_gets_mail(Setup::open());
    progress_is_seen_and_only_rises(Setup::open());
    a_refusal_of_the_other_side_comes_with_its_reason(Setup::open());
    a_cancelled_request_reaches_the_other_side(Setup::open());
    a_client_that_goes_while_it_waits_cancels(Setup::open());
    no_answer_in_time_is_an_end_though_its_gateway_died(Setup::open());
    a_wait_that_would_close_a_circle_is_refused(Setup::open());
    an_agent_that_keeps_failing_is_left_alone(Setup::open());
    the_same_request_under_its_key_is_asked_once(Setup::open());
    only_its_two_sides_see_a_request(Setup::required());
    a_member_of_the_pool_answers(Setup::open());
}

const REQUESTS: &str = "/api/v1/requests";

async fn register(hall: &Hall, agents: &[&str]) {
    for agent in agents {
        hall.caller().register(agent).await;
    }
}

async fn next_mail(caller: &Caller, agent: &str) -> Value {
    let path = format!("/api/v1/messages?agent_id={agent}&pending=true&ack=auto&limit=1&wait_ms=10000");
    let taken = caller.get(&path).await.ok();
    taken["messages"].get(0).unwrap_or_else(|| panic!("no mail for {agent}")).clone()
}

async fn answer(caller: &Caller, request: &Value, body: Value) -> guildhall_tests::Answer {
    caller.post(&format!("{REQUESTS}/{}/answer", request.as_str().unwrap()), body).await
}

async fn ask_later(caller: &Caller, to: &str, timeout_ms: u64) -> Value {
    let body = json!({"to": to, "message": "?", "async": true, "timeout_ms": timeout_ms});
    let asked = caller.post(REQUESTS, body).await;
    assert_eq!(asked.status, 202, "{}", asked.text);
    asked.json()["request_id"].clone()
}

async fn state(caller: &Caller, request: &Value) -> Value {
    caller.get(&format!("{REQUESTS}/{}", request.as_str().unwrap())).await.ok()
}

async fn whoever_waits_gets_the_answer_whichever_gateway_hears_it(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    for asked_at in 0..hall.gateways().len() {
        for answered_at in 0..hall.gateways().len() {
            let alice = hall.caller_of(asked_at).agent("alice");
            let bob = hall.caller_of(answered_at).agent("bob");
            let began = Instant::now();
            let (got, ()) = tokio::join!(alice.post(REQUESTS, json!({"to": "bob", "message": {"q": 1}})), async {
                let mail = next_mail(&bob, "bob").await;
                assert_eq!(
                    (&mail["type"], &mail["message"], &mail["from"]),
                    (&json!("request"), &json!({"q": 1}), &json!("alice"))
                );
                let told = answer(&bob, &mail["message_id"], json!({"answer": {"a": [1, 2.50]}})).await.ok();
                assert_eq!(told["success"], true);
                // The first answer may have been lost on its way.
                answer(&bob, &mail["message_id"], json!({"answer": {"a": [1, 2.50]}})).await.ok();
                answer(&bob, &mail["message_id"], json!({"answer": "another"})).await.refused(409, "Conflict");
            });
            let got = got.ok();
            assert_eq!((&got["success"], &got["answer"]), (&json!(true), &json!({"a": [1, 2.5]})), "{got}");
            assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        }
    }
}

async fn whoever_does_not_wait_asks_later_and_gets_mail(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let request = ask_later(&hall.agent("alice"), "bob", 60_000).await;
    assert_eq!(state(&hall.agent("alice"), &request).await["state"], "pending");
    let mail = next_mail(&hall.agent("bob"), "bob").await;
    assert_eq!(mail["message_id"], request);
    answer(&hall.agent("bob"), &request, json!({"answer": 42})).await.ok();
    let ended = state(&hall.agent("alice"), &request).await;
    assert_eq!(
        (&ended["state"], &ended["answer"], &ended["answered_by"]),
        (&json!("answered"), &json!(42), &json!("bob"))
    );
    let response = next_mail(&hall.agent("alice"), "alice").await;
    assert_eq!((&response["type"], &response["message"]), (&json!("response"), &json!(42)), "{response}");
    assert_eq!((&response["reply_to"], &response["correlation_id"]), (&request, &request), "{response}");
}

async fn progress_is_seen_and_only_rises(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let request = ask_later(&hall.agent("alice"), "bob", 60_000).await;
    let path = format!("{REQUESTS}/{}/progress", request.as_str().unwrap());
    let bob = hall.agent("bob");
    bob.post(&path, json!({"progress": 2, "total": 5, "note": "reading"})).await.ok();
    let seen = state(&hall.agent("alice"), &request).await;
    assert_eq!(seen["progress"], json!({"progress": 2.0, "total": 5.0, "note": "reading"}), "{seen}");
    // What overtook it on the way changes nothing.
    bob.post(&path, json!({"progress": 1})).await.ok();
    bob.post(&path, json!({"progress": "much"})).await.refused(400, "InvalidParams");
    assert_eq!(state(&hall.agent("alice"), &request).await["progress"]["progress"], 2.0);
}

async fn a_refusal_of_the_other_side_comes_with_its_reason(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let alice = hall.agent("alice");
    let (got, ()) = tokio::join!(alice.post(REQUESTS, json!({"to": "bob", "message": "?"})), async {
        let mail = next_mail(&hall.agent("bob"), "bob").await;
        answer(&hall.agent("bob"), &mail["message_id"], json!({"error": "no such file"})).await.ok();
    });
    assert!(got.status >= 400, "{}", got.text);
    // The other side's words, marked as such.
    assert_eq!(got.json()["details"]["reason"], "no such file", "{}", got.text);
}

async fn a_cancelled_request_reaches_the_other_side(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let (alice, bob) = (hall.agent("alice"), hall.agent("bob"));
    // Nobody has it yet: nobody gets it any more.
    let unseen = ask_later(&alice, "bob", 60_000).await;
    let cancelled = alice.delete(&format!("{REQUESTS}/{}", unseen.as_str().unwrap())).await.ok();
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    let none = bob.get("/api/v1/messages?agent_id=bob&pending=true").await.ok();
    assert_eq!(none["messages"], json!([]));
    // Someone works on it: it is told.
    let taken = ask_later(&alice, "bob", 60_000).await;
    next_mail(&bob, "bob").await;
    alice.delete(&format!("{REQUESTS}/{}?reason=changed+my+mind", taken.as_str().unwrap())).await.ok();
    let notice = next_mail(&bob, "bob").await;
    assert_eq!((&notice["type"], &notice["correlation_id"]), (&json!("cancel"), &taken), "{notice}");
    assert!(notice["message"].to_string().contains("changed my mind"), "{notice}");
    let late = answer(&bob, &taken, json!({"answer": 1})).await;
    assert!((400..500).contains(&late.status), "{} {}", late.status, late.text);
    assert_eq!(state(&alice, &taken).await["state"], "cancelled");
}

async fn a_client_that_goes_while_it_waits_cancels(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let asking = hall.agent("alice").request(reqwest::Method::POST, REQUESTS);
    let asking = asking.json(&json!({"to": "bob", "message": "?", "timeout_ms": 60_000}));
    let waiting = tokio::spawn(asking.send());
    let mail = next_mail(&hall.agent("bob"), "bob").await;
    waiting.abort();
    eventually("the other side is told", Duration::from_secs(10), async || {
        (state(&hall.agent("bob"), &mail["message_id"]).await["state"] == "cancelled").then_some(())
    })
    .await;
}

async fn no_answer_in_time_is_an_end_though_its_gateway_died(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let began = Instant::now();
    let body = json!({"to": "bob", "message": "?", "timeout_ms": 600});
    hall.agent("alice").post(REQUESTS, body).await.refused(504, "Timeout");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    let request = ask_later(&hall.caller_of(0).agent("alice"), "bob", 1_500).await;
    let dead = &hall.gateways()[0];
    dead.process.kill();
    if hall.gateways().len() == 1 {
        dead.restart().await;
    }
    let last = hall.gateways().len() - 1;
    let alice = hall.caller_of(last).agent("alice");
    let ended = eventually("the clock ends it", Duration::from_secs(15), async || {
        let state = state(&alice, &request).await;
        (state["state"] == "timed_out").then_some(state)
    })
    .await;
    assert!(ended["ended_at"].is_string(), "{ended}");
    if hall.gateways().len() > 1 {
        dead.restart().await;
    }
    let late = answer(&hall.agent("bob"), &request, json!({"answer": 1})).await;
    assert!((400..600).contains(&late.status), "{}", late.text);
}

async fn a_wait_that_would_close_a_circle_is_refused(hall: &Hall) {
    register(hall, &["a", "b", "c"]).await;
    let wait = async |from: &str, to: &str, timeout_ms: u64| {
        let body = json!({"to": to, "message": "?", "timeout_ms": timeout_ms});
        hall.agent(from).post(REQUESTS, body).await
    };
    let (one, two, refused) = tokio::join!(wait("a", "b", 6_000), wait("b", "c", 6_000), async {
        // Both are waiting by then.
        next_mail(&hall.agent("b"), "b").await;
        next_mail(&hall.agent("c"), "c").await;
        let later = json!({"to": "a", "message": "?", "async": true, "timeout_ms": 60_000});
        assert_eq!(hall.agent("c").post(REQUESTS, later).await.status, 202, "who does not wait closes no circle");
        wait("c", "a", 1_000).await
    });
    let refused = refused.refused(409, "Conflict");
    assert!(refused["message"].as_str().unwrap().contains("wait"), "{refused}");
    one.refused(504, "Timeout");
    two.refused(504, "Timeout");
    // It is over: the same wait is fine.
    wait("c", "a", 1_000).await.refused(504, "Timeout");
}

async fn an_agent_that_keeps_failing_is_left_alone(hall: &Hall) {
    register(hall, &["alice", "bob", "carol"]).await;
    for _ in 0..5 {
        let request = ask_later(&hall.agent("alice"), "bob", 60_000).await;
        next_mail(&hall.agent("bob"), "bob").await;
        answer(&hall.agent("bob"), &request, json!({"error": "broken"})).await.ok();
    }
    let body = json!({"to": "bob", "message": "?", "async": true});
    let open = hall.agent("alice").post(REQUESTS, body.clone()).await;
    let status = open.status;
    let open = open.refused(status, "CircuitOpen");
    assert!(open["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0 && wait <= 60_000), "{open}");
    assert_eq!(
        hall.agent("alice").post(REQUESTS, json!({"to": "carol", "message": "?", "async": true})).await.status,
        202
    );
    // Mail goes on.
    hall.agent("alice").post("/api/v1/messages", json!({"to": "bob", "message": "get well"})).await.ok();
}

async fn the_same_request_under_its_key_is_asked_once(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let body = json!({"to": "bob", "message": "?", "async": true, "idempotency_key": "k", "timeout_ms": 60_000});
    let one = hall.agent("alice").post(REQUESTS, body.clone()).await.json();
    let two = hall.agent("alice").post(REQUESTS, body).await.json();
    assert_eq!(one["request_id"], two["request_id"]);
    next_mail(&hall.agent("bob"), "bob").await;
    let none = hall.agent("bob").get("/api/v1/messages?agent_id=bob&pending=true").await.ok();
    assert_eq!(none["messages"], json!([]));
}

async fn only_its_two_sides_see_a_request(hall: &Hall) {
    let alice = hall.caller().token(&hall.admin().register("alice").await);
    let bob = hall.caller().token(&hall.admin().register("bob").await);
    let eve = hall.caller().token(&hall.admin().register("eve").await);
    let request = ask_later(&alice, "bob", 60_000).await;
    state(&bob, &request).await;
    eve.get(&format!("{REQUESTS}/{}", request.as_str().unwrap())).await.refused(404, "NotFound");
    let forged = answer(&eve, &request, json!({"answer": "mine"})).await;
    assert!([403, 404].contains(&forged.status), "{}", forged.text);
    for forger in [&eve, &bob] {
        let forged = forger.delete(&format!("{REQUESTS}/{}", request.as_str().unwrap())).await;
        assert!([403, 404].contains(&forged.status), "{}", forged.text);
    }
    for forger in [&eve, &alice] {
        let path = format!("{REQUESTS}/{}/progress", request.as_str().unwrap());
        let forged = forger.post(&path, json!({"progress": 1})).await;
        assert!([403, 404].contains(&forged.status), "{}", forged.text);
    }
    assert_eq!(state(&alice, &request).await["state"], "pending");
    alice.post(REQUESTS, json!({"to": "ALL", "message": "?"})).await.refused(400, "InvalidParams");
}

async fn a_member_of_the_pool_answers(hall: &Hall) {
    register(hall, &["alice", "stranger"]).await;
    for agent in ["p1", "p2"] {
        let body = json!({"agent_id": agent, "name": agent, "pool": "helpers"});
        hall.caller().post("/api/v1/agents/register", body).await.ok();
    }
    let request = ask_later(&hall.agent("alice"), "pool:helpers", 60_000).await;
    answer(&hall.agent("stranger"), &request, json!({"answer": 0})).await;
    next_mail(&hall.agent("p2"), "p2").await;
    answer(&hall.agent("p2"), &request, json!({"answer": 1})).await.ok();
    let ended = state(&hall.agent("alice"), &request).await;
    assert_eq!((&ended["answer"], &ended["answered_by"]), (&json!(1), &json!("p2")), "{ended}");
}
