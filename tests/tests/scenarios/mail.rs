//! Mail over REST: what is accepted arrives, once by its key, in order, and to nobody else.

use std::time::{Duration, Instant};

use guildhall_tests::{Answer, Caller, Hall, Setup, eventually, scenarios};
use serde_json::{Value, json};

scenarios! {
    a_message_is_answered_once_it_is_durable_and_then_arrives(Setup::open());
    a_body_arrives_letter_for_letter(Setup::open());
    a_repeat_under_its_key_adds_nothing_whichever_gateway_takes_it(Setup::open());
    what_cannot_be_delivered_is_refused_whole_before_any_effect(Setup::open());
    the_sender_is_the_caller_and_nobody_else(Setup::required());
    a_lease_keeps_mail_from_others_until_it_is_settled(Setup::open());
    what_is_refused_comes_again_in_order_and_dies_after_five_attempts(Setup::open());
    critical_mail_goes_first_and_low_mail_goes_too(Setup::open());
    everyone_a_role_and_a_capability_each_get_a_copy(Setup::open());
    a_pools_mail_is_taken_by_one_member(Setup::open());
    a_full_mailbox_says_so_and_a_wide_message_leaves_a_dead_letter(Setup::open().set("mail.mailbox_messages", "3"));
    what_expires_becomes_a_dead_letter_and_can_be_sent_on_its_way_again(Setup::open());
    history_takes_nothing_and_goes_on_after_a_message(Setup::open());
    a_look_that_waits_ends_as_soon_as_mail_comes(Setup::open());
    acknowledged_with_the_answer_means_once_it_was_written(Setup::open());
    mail_of_others_cannot_be_read_taken_or_settled(Setup::required());
    an_agent_that_left_gets_no_mail_and_its_id_no_old_mail(Setup::required());
    every_message_is_in_the_audit_and_no_body_is(Setup::required());
}

const MESSAGES: &str = "/api/v1/messages";

async fn register(hall: &Hall, agents: &[&str]) {
    for agent in agents {
        hall.caller().register(agent).await;
    }
}

async fn send(caller: &Caller, to: &str, message: Value) -> Value {
    caller.post(MESSAGES, json!({"to": to, "message": message})).await.ok()
}

async fn look(caller: &Caller, agent: &str, more: &str) -> Answer {
    caller.get(&format!("{MESSAGES}?agent_id={agent}&pending=true{more}")).await
}

/// What waits, leased.
async fn take(caller: &Caller, agent: &str) -> Vec<Value> {
    look(caller, agent, "").await.ok()["messages"].as_array().unwrap().clone()
}

fn said(taken: &[Value]) -> Vec<Value> {
    taken.iter().map(|mail| mail["message"].clone()).collect()
}

async fn settle(caller: &Caller, mail: &Value, verdict: &str) -> Answer {
    let path = format!("{MESSAGES}/{}/{verdict}", mail["message_id"].as_str().unwrap());
    caller.post(&path, json!({"lease": mail["lease"]})).await
}

async fn a_message_is_answered_once_it_is_durable_and_then_arrives(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let body = json!({"from": "alice", "to": "bob", "message": {"text": "hello"}, "type": "task_proposal",
        "priority": "high", "conversation_id": "c1", "correlation_id": "x", "requires_response": true});
    let sent = hall.agent("alice").post(MESSAGES, body).await.ok();
    assert_eq!((&sent["success"], &sent["recipients"]), (&json!(true), &json!(1)), "{sent}");
    assert!(["fsync", "replicated"].contains(&sent["durability"].as_str().unwrap()), "{sent}");

    let taken = take(&hall.agent("bob"), "bob").await;
    assert_eq!(taken.len(), 1, "{taken:?}");
    let mail = &taken[0];
    for (field, value) in [
        ("message_id", sent["message_id"].clone()),
        ("from", json!("alice")),
        ("to", json!("bob")),
        ("type", json!("task_proposal")),
        ("priority", json!("high")),
        ("message", json!({"text": "hello"})),
        ("conversation_id", json!("c1")),
        ("correlation_id", json!("x")),
        ("requires_response", json!(true)),
        ("attempt", json!(1)),
    ] {
        assert_eq!(mail[field], value, "{field}: {mail}");
    }
    assert!(mail["lease"].is_string() && mail["sent_at"].is_string(), "{mail}");

    let id = sent["message_id"].as_str().unwrap();
    let state = async || {
        let tracked = hall.agent("alice").get(&format!("{MESSAGES}/{id}")).await.ok();
        tracked["deliveries"][0]["state"].clone()
    };
    assert_eq!(state().await, "leased");
    settle(&hall.agent("bob"), mail, "ack").await.ok();
    assert_eq!(state().await, "acknowledged");
    assert_eq!(take(&hall.agent("bob"), "bob").await, Vec::<Value>::new());
}

async fn a_body_arrives_letter_for_letter(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let body = r#"{"z":1.0,"a":[12345678901234567890123,1e3],"ü":"\u00fc\ud83d\ude00","empty":{}}"#;
    let text = format!(r#"{{"to":"bob","message":{body}}}"#);
    let request = hall.agent("alice").request(reqwest::Method::POST, MESSAGES);
    Answer::to(request.header("content-type", "application/json").body(text)).await.ok();
    let taken = look(&hall.agent("bob"), "bob", "").await;
    assert!(taken.text.contains(body), "{}", taken.text);
}

async fn a_repeat_under_its_key_adds_nothing_whichever_gateway_takes_it(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let body = json!({"to": "bob", "message": "once", "idempotency_key": "k1"});
    let first = hall.agent("alice").post(MESSAGES, body.clone()).await.ok();
    for gateway in 0..hall.gateways().len() {
        let again = hall.caller_of(gateway).agent("alice").post(MESSAGES, body.clone()).await.ok();
        assert_eq!(again["message_id"], first["message_id"]);
    }
    // All at once, under a key that nobody has used.
    let rush = json!({"to": "bob", "message": "rush", "idempotency_key": "k2"});
    let alice = hall.agent("alice");
    let sends = (0..8).map(|_| alice.post(MESSAGES, rush.clone()));
    let ids: Vec<Value> =
        futures::future::join_all(sends).await.into_iter().map(|sent| sent.ok()["message_id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");

    let other = json!({"to": "bob", "message": "another", "idempotency_key": "k1"});
    let refused = hall.agent("alice").post(MESSAGES, other).await.refused(409, "Conflict");
    assert!(refused["message"].as_str().unwrap().contains("idempotency_key"), "{refused}");
    // Another sender's key is another key.
    let own = json!({"to": "bob", "message": "own", "idempotency_key": "k1"});
    hall.caller().register("carol").await;
    hall.agent("carol").post(MESSAGES, own).await.ok();
    assert_eq!(said(&take(&hall.agent("bob"), "bob").await), [json!("once"), json!("rush"), json!("own")]);
}

async fn what_cannot_be_delivered_is_refused_whole_before_any_effect(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let alice = hall.agent("alice");
    let refused = alice.post(MESSAGES, json!({"to": "nobody", "message": 1})).await.refused(404, "NotFound");
    assert!(refused["message"].as_str().unwrap().contains("nobody"), "{refused}");
    alice.post(MESSAGES, json!({"to": "role:nobody-has-it", "message": 1})).await.refused(404, "NotFound");
    alice.post(MESSAGES, json!({"to": "pool:empty", "message": 1})).await.refused(404, "NotFound");
    alice.post(MESSAGES, json!({"to": "topic:unheard", "message": 1})).await.refused(404, "NotFound");
    alice.post(MESSAGES, json!({"to": "team:x", "message": 1})).await.refused(400, "InvalidParams");
    alice.post(MESSAGES, json!({"to": "bob"})).await.refused(400, "InvalidParams");
    alice.post(MESSAGES, json!({"to": "bob", "message": 1, "priorty": "high"})).await.refused(400, "InvalidParams");
    alice.post(MESSAGES, json!({"to": "bob", "message": 1, "priority": "huge"})).await.refused(400, "InvalidParams");
    let large = json!({"to": "bob", "message": "x".repeat(800 * 1024)});
    alice.post(MESSAGES, large).await.refused(413, "PayloadTooLarge");
    let list = json!([{"to": "bob", "message": "good"}, {"to": "nobody", "message": "bad"}]);
    alice.post(MESSAGES, list).await.refused(404, "NotFound");
    let many: Vec<Value> = (0..101).map(|n| json!({"to": "bob", "message": n})).collect();
    alice.post(MESSAGES, json!(many)).await.refused(400, "InvalidParams");
    hall.caller().post(MESSAGES, json!({"to": "bob", "message": "who says this?"})).await.refused(400, "InvalidParams");
    assert_eq!(take(&hall.agent("bob"), "bob").await, Vec::<Value>::new());

    let list: Vec<Value> = (0..100).map(|n| json!({"to": "bob", "message": n})).collect();
    let receipts = alice.post(MESSAGES, json!(list)).await.ok();
    assert_eq!(receipts["receipts"].as_array().map(Vec::len), Some(100), "{receipts}");
    let taken = look(&hall.agent("bob"), "bob", "&limit=100").await.ok();
    let order: Vec<Value> = (0..100).map(Value::from).collect();
    assert_eq!(said(taken["messages"].as_array().unwrap()), order);
}

async fn the_sender_is_the_caller_and_nobody_else(hall: &Hall) {
    let alice = hall.caller().token(&hall.admin().register("alice").await);
    let bob = hall.caller().token(&hall.admin().register("bob").await);
    let forged = json!({"from": "bob", "to": "bob", "message": "it was me"});
    alice.post(MESSAGES, forged).await.refused(403, "PermissionDenied");
    send(&alice, "bob", json!("mine")).await;
    // A header cannot name another either.
    alice.agent("bob").post(MESSAGES, json!({"to": "bob", "message": "still mine"})).await;
    let taken = take(&bob, "bob").await;
    assert!(!taken.is_empty() && taken.iter().all(|mail| mail["from"] == "alice"), "{taken:?}");
}

async fn a_lease_keeps_mail_from_others_until_it_is_settled(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let bob = hall.agent("bob");
    send(&hall.agent("alice"), "bob", json!(1)).await;
    let first = look(&bob, "bob", "&lease_ms=1000").await.ok()["messages"][0].clone();
    assert_eq!(take(&bob, "bob").await, Vec::<Value>::new(), "it is in someone's hands");
    let second =
        eventually("a lease that ran out frees it", Duration::from_secs(10), async || take(&bob, "bob").await.pop())
            .await;
    assert_eq!((&second["message_id"], &second["attempt"]), (&first["message_id"], &json!(2)));
    let stale = settle(&bob, &first, "ack").await.refused(409, "Conflict");
    assert!(stale["message"].as_str().unwrap().contains("lease"), "{stale}");
    settle(&bob, &second, "renew").await.ok();
    settle(&bob, &second, "ack").await.ok();
    // The answer may have been lost: the same again is no failure.
    settle(&bob, &second, "ack").await.ok();
    let nonsense = format!("{MESSAGES}/{}/ack", second["message_id"].as_str().unwrap());
    bob.post(&nonsense, json!({"lease": "nonsense"})).await.refused(400, "InvalidParams");
    bob.post(&format!("{MESSAGES}/xyz/ack"), json!({"lease": second["lease"]})).await.refused(400, "InvalidParams");
}

async fn what_is_refused_comes_again_in_order_and_dies_after_five_attempts(hall: &Hall) {
    register(hall, &["alice", "bob", "carol"]).await;
    let bob = hall.agent("bob");
    for n in 1..=3 {
        send(&hall.agent("alice"), "bob", json!(n)).await;
    }
    for attempt in 1..=5 {
        let taken = eventually("the refused one comes again", Duration::from_secs(10), async || {
            let taken = take(&bob, "bob").await;
            (!taken.is_empty()).then_some(taken)
        })
        .await;
        assert_eq!(said(&taken), [json!(1), json!(2), json!(3)], "later ones do not pass it");
        assert_eq!(taken[0]["attempt"], attempt);
        let path = format!("{MESSAGES}/{}/nack", taken[0]["message_id"].as_str().unwrap());
        let refusal = json!({"lease": taken[0]["lease"], "delay_ms": 700, "reason": "no time"});
        bob.post(&path, refusal).await.ok();
        settle(&bob, &taken[1], "ack").await.refused(409, "Conflict");
        if attempt == 5 {
            break;
        }
        // What another sent does not wait for it.
        send(&hall.agent("carol"), "bob", json!("from carol")).await;
        let other = take(&bob, "bob").await.into_iter().find(|mail| mail["from"] == "carol");
        settle(&bob, &other.expect("another sender's line goes on"), "ack").await.ok();
    }
    let dead = hall.agent("bob").get("/api/v1/dlq?agent_id=bob").await.ok();
    let letter = &dead["dead_letters"][0];
    assert_eq!((&letter["message"], &letter["attempts"]), (&json!(1), &json!(5)), "{dead}");
    assert!(letter["reason"].as_str().unwrap().contains("no time"), "{dead}");
    let rest = eventually("the rest of its line is free", Duration::from_secs(10), async || {
        let taken = take(&bob, "bob").await;
        (!taken.is_empty()).then_some(taken)
    })
    .await;
    assert_eq!(said(&rest), [json!(2), json!(3)]);
}

async fn critical_mail_goes_first_and_low_mail_goes_too(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let of = |priority: &str, count: usize| -> Vec<Value> {
        (0..count).map(|_| json!({"to": "bob", "message": priority, "priority": priority})).collect()
    };
    for (priority, count) in [("low", 20), ("normal", 20), ("high", 20), ("critical", 2)] {
        hall.agent("alice").post(MESSAGES, json!(of(priority, count))).await.ok();
    }
    let taken = look(&hall.agent("bob"), "bob", "&limit=16").await.ok();
    let taken = said(taken["messages"].as_array().unwrap());
    assert_eq!(taken[..2], [json!("critical"), json!("critical")]);
    let count = |priority: &str| taken.iter().filter(|said| **said == priority).count();
    assert_eq!((count("high"), count("normal"), count("low")), (8, 4, 2), "{taken:?}");
}

async fn everyone_a_role_and_a_capability_each_get_a_copy(hall: &Hall) {
    register(hall, &["alice"]).await;
    for (agent, capability) in [("r1", "review"), ("r2", "review"), ("w1", "write")] {
        let body = json!({"agent_id": agent, "name": agent, "capabilities": [capability]});
        hall.caller().post("/api/v1/agents/register", body).await.ok();
    }
    let alice = hall.agent("alice");
    let wide = eventually("all of them are known", Duration::from_secs(10), async || {
        let sent = alice.post(MESSAGES, json!({"to": "capability:review", "message": "review"})).await;
        (sent.status == 200).then(|| sent.json()).filter(|sent| sent["recipients"] == 2)
    })
    .await;
    assert_eq!(wide["recipients"], 2);
    assert_eq!(send(&alice, "ALL", json!("all")).await["recipients"], 3, "everyone but the sender");
    assert_eq!(send(&alice, "role:agent", json!("role")).await["recipients"], 3);
    for (agent, copies) in [("r1", 3), ("r2", 3), ("w1", 2), ("alice", 0)] {
        let mut arrived = Vec::new();
        eventually("every copy arrives", Duration::from_secs(10), async || {
            arrived.extend(said(&take(&hall.agent(agent), agent).await));
            (arrived.len() >= copies).then_some(())
        })
        .await;
        assert_eq!(arrived.len(), copies, "{agent}: {arrived:?}");
        assert!(
            arrived.iter().rev().take(2).eq([json!("role"), json!("all")].iter().take(copies)),
            "{agent}: {arrived:?}"
        );
    }
    let id = wide["message_id"].as_str().unwrap();
    let tracked = alice.get(&format!("{MESSAGES}/{id}")).await.ok();
    assert_eq!(
        (&tracked["recipients"], tracked["deliveries"].as_array().map(Vec::len)),
        (&json!(2), Some(2)),
        "{tracked}"
    );
}

async fn a_pools_mail_is_taken_by_one_member(hall: &Hall) {
    register(hall, &["alice"]).await;
    for agent in ["p1", "p2"] {
        let body = json!({"agent_id": agent, "name": agent, "pool": "builders"});
        hall.caller().post("/api/v1/agents/register", body).await.ok();
    }
    for n in 0..6 {
        assert_eq!(send(&hall.agent("alice"), "pool:builders", json!(n)).await["recipients"], 1);
    }
    let one = look(&hall.agent("p1"), "p1", "&limit=3").await.ok();
    let other = take(&hall.agent("p2"), "p2").await;
    let mut both = said(one["messages"].as_array().unwrap());
    assert_eq!(both.len(), 3);
    settle(&hall.agent("p2"), &one["messages"][0], "nack").await.ok();
    both.extend(said(&other));
    both.sort_by_key(|n| n.as_u64());
    assert_eq!(both, (0..6).map(Value::from).collect::<Vec<_>>());
    settle(&hall.agent("p2"), &other[0], "ack").await.ok();
    hall.agent("alice").get(&format!("{MESSAGES}?agent_id=alice&pending=true")).await.ok();
}

async fn a_full_mailbox_says_so_and_a_wide_message_leaves_a_dead_letter(hall: &Hall) {
    register(hall, &["alice", "bob", "carol"]).await;
    let alice = hall.agent("alice");
    for n in 0..3 {
        send(&alice, "bob", json!(n)).await;
    }
    let full = alice.post(MESSAGES, json!({"to": "bob", "message": "one too many"})).await;
    let status = full.status;
    let full = full.refused(status, "MailboxFull");
    assert!((400..500).contains(&status) && full["message"].as_str().unwrap().contains('3'), "{status} {full}");
    let wide = send(&alice, "ALL", json!("to all")).await;
    assert_eq!(wide["recipients"], 2);
    assert_eq!(said(&take(&hall.agent("carol"), "carol").await), [json!("to all")]);
    let dead = hall.agent("bob").get("/api/v1/dlq?agent_id=bob").await.ok();
    assert_eq!(dead["dead_letters"][0]["message_id"], wide["message_id"], "{dead}");
    assert!(dead["dead_letters"][0]["reason"].as_str().unwrap().contains("full"), "{dead}");
    // Room again.
    for mail in take(&hall.agent("bob"), "bob").await {
        settle(&hall.agent("bob"), &mail, "ack").await.ok();
    }
    send(&alice, "bob", json!("fits")).await;
}

async fn what_expires_becomes_a_dead_letter_and_can_be_sent_on_its_way_again(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let body = json!({"to": "bob", "message": "soon stale", "expires_in_ms": 1_500});
    let sent = hall.agent("alice").post(MESSAGES, body).await.ok();
    let id = sent["message_id"].as_str().unwrap();
    let letter = eventually("it dies", Duration::from_secs(10), async || {
        let dead = hall.agent("bob").get("/api/v1/dlq?agent_id=bob").await.ok();
        dead["dead_letters"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(letter["message_id"], sent["message_id"]);
    assert!(letter["reason"].as_str().unwrap().contains("expire"), "{letter}");
    assert_eq!(take(&hall.agent("bob"), "bob").await, Vec::<Value>::new());
    let one = hall.agent("bob").get(&format!("/api/v1/dlq/{id}")).await.ok();
    assert!(one.to_string().contains(id), "{one}");

    let done = hall.agent("bob").post("/api/v1/dlq/redrive", json!({"message_ids": [id]})).await.ok();
    assert_eq!(done["redriven"], 1, "{done}");
    let again = take(&hall.agent("bob"), "bob").await;
    assert_eq!(said(&again), [json!("soon stale")]);
    settle(&hall.agent("bob"), &again[0], "ack").await.ok();

    let body = json!({"to": "bob", "message": "stale too", "expires_in_ms": 1});
    hall.agent("alice").post(MESSAGES, body).await.ok();
    eventually("it is purged", Duration::from_secs(10), async || {
        let done = hall.agent("bob").post("/api/v1/dlq/purge", json!({"agent_id": "bob"})).await.ok();
        (done["purged"] == 1).then_some(())
    })
    .await;
    let dead = hall.agent("bob").get("/api/v1/dlq?agent_id=bob").await.ok();
    assert_eq!(dead["dead_letters"], json!([]));
    hall.agent("bob").post("/api/v1/dlq/purge", json!({})).await.refused(400, "InvalidParams");
}

async fn history_takes_nothing_and_goes_on_after_a_message(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(send(&hall.agent("alice"), "bob", json!(n)).await["message_id"].clone());
    }
    let bob = hall.agent("bob");
    let first = take(&bob, "bob").await;
    settle(&bob, &first[0], "ack").await.ok();
    let history = bob.get(&format!("{MESSAGES}?agent_id=bob&limit=3")).await.ok();
    assert_eq!(
        said(history["messages"].as_array().unwrap()),
        [json!(2), json!(3), json!(4)],
        "the newest, newest last"
    );
    assert_eq!(history["total"], 5);
    let after = ids[2].as_str().unwrap();
    let next = bob.get(&format!("{MESSAGES}?agent_id=bob&after={after}")).await.ok();
    assert_eq!(said(next["messages"].as_array().unwrap()), [json!(3), json!(4)]);
    let all = bob.get(&format!("{MESSAGES}?agent_id=bob")).await.ok();
    assert_eq!(all["messages"][0]["state"], "acknowledged", "{all}");
    assert_eq!(all["messages"][1]["state"], "leased", "{all}");
}

async fn a_look_that_waits_ends_as_soon_as_mail_comes(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    let began = Instant::now();
    let none = look(&hall.agent("bob"), "bob", "&wait_ms=700").await.ok();
    assert_eq!(none["messages"], json!([]));
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());

    for gateway in 0..hall.gateways().len() {
        let bob = hall.caller_of(gateway).agent("bob");
        let began = Instant::now();
        let (taken, ()) = tokio::join!(look(&bob, "bob", "&wait_ms=20000&ack=auto"), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            send(&hall.agent("alice"), "bob", json!("now")).await;
        });
        assert_eq!(said(taken.ok()["messages"].as_array().unwrap()), [json!("now")]);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

async fn acknowledged_with_the_answer_means_once_it_was_written(hall: &Hall) {
    register(hall, &["alice", "bob"]).await;
    send(&hall.agent("alice"), "bob", json!("kept")).await;
    let path = format!("{MESSAGES}?agent_id=bob&pending=true&ack=auto");
    let taken = hall.agent("bob").get(&path).await.ok();
    assert_eq!(said(taken["messages"].as_array().unwrap()), [json!("kept")]);
    eventually("it is settled", Duration::from_secs(10), async || {
        let history = hall.agent("bob").get(&format!("{MESSAGES}?agent_id=bob")).await.ok();
        (history["messages"][0]["state"] == "acknowledged").then_some(())
    })
    .await;

    // A client that has gone while it waited: what came meanwhile is not lost with it.
    for _ in 0..3 {
        let gone = hall.agent("bob").request(reqwest::Method::GET, &format!("{path}&wait_ms=20000"));
        assert!(gone.timeout(Duration::from_millis(300)).send().await.is_err(), "it waits");
    }
    // Long enough for the hall to see that they have gone.
    tokio::time::sleep(Duration::from_millis(500)).await;
    send(&hall.agent("alice"), "bob", json!("not lost")).await;
    eventually("it comes to whoever asks next", Duration::from_secs(10), async || {
        let taken = hall.agent("bob").get(&path).await.ok();
        (said(taken["messages"].as_array().unwrap()) == [json!("not lost")]).then_some(())
    })
    .await;
}

async fn mail_of_others_cannot_be_read_taken_or_settled(hall: &Hall) {
    let alice = hall.caller().token(&hall.admin().register("alice").await);
    let bob = hall.caller().token(&hall.admin().register("bob").await);
    let eve = hall.caller().token(&hall.admin().register("eve").await);
    let sent = send(&alice, "bob", json!("secret")).await;
    let id = sent["message_id"].as_str().unwrap();
    eve.get(&format!("{MESSAGES}?agent_id=bob")).await.refused(403, "PermissionDenied");
    look(&eve, "bob", "").await.refused(403, "PermissionDenied");
    eve.get(&format!("{MESSAGES}/{id}")).await.refused(404, "NotFound");
    eve.get("/api/v1/dlq?agent_id=bob").await.refused(403, "PermissionDenied");
    eve.post("/api/v1/dlq/redrive", json!({"agent_id": "bob"})).await.refused(403, "PermissionDenied");
    let mail = take(&bob, "bob").await.remove(0);
    settle(&eve, &mail, "ack").await.refused(409, "Conflict");
    settle(&bob, &mail, "ack").await.ok();
    hall.admin().get(&format!("{MESSAGES}?agent_id=bob")).await.ok();
    hall.admin().get(&format!("{MESSAGES}/{id}")).await.ok();
}

async fn an_agent_that_left_gets_no_mail_and_its_id_no_old_mail(hall: &Hall) {
    let alice = hall.caller().token(&hall.admin().register("alice").await);
    hall.admin().register("bob").await;
    let sent = send(&alice, "bob", json!("for the first bob")).await;
    hall.admin().delete("/api/v1/agents/bob").await.ok();
    eventually("it is gone for every gateway", Duration::from_secs(10), async || {
        (alice.post(MESSAGES, json!({"to": "bob", "message": "anyone?"})).await.status == 404).then_some(())
    })
    .await;
    let dead = hall.admin().get("/api/v1/dlq").await.ok();
    let letter =
        dead["dead_letters"].as_array().unwrap().iter().find(|letter| letter["message_id"] == sent["message_id"]);
    assert!(letter.is_some_and(|letter| letter["reason"].as_str().unwrap().contains("left")), "{dead}");

    let second = hall.caller().token(&hall.admin().register("bob").await);
    eventually("it can be written to again", Duration::from_secs(10), async || {
        let body = json!({"to": "bob", "message": "for the second", "idempotency_key": "second"});
        (alice.post(MESSAGES, body).await.status == 200).then_some(())
    })
    .await;
    let taken = eventually("its mail comes", Duration::from_secs(10), async || {
        let answer = look(&second, "bob", "").await;
        let taken = (answer.status == 200).then(|| answer.json())?;
        taken["messages"].as_array().filter(|messages| !messages.is_empty()).cloned()
    })
    .await;
    assert_eq!(said(&taken), [json!("for the second")]);
}

async fn every_message_is_in_the_audit_and_no_body_is(hall: &Hall) {
    let alice = hall.caller().token(&hall.admin().register("alice").await);
    hall.admin().register("bob").await;
    let body = json!({"to": "bob", "message": "the secret word is xyzzy", "idempotency_key": "k"});
    let sent = alice.post(MESSAGES, body.clone()).await.ok();
    alice.post(MESSAGES, body).await.ok();
    let audit = hall.admin().get("/api/v1/audit?act=message.&limit=100").await;
    assert!(!audit.text.contains("xyzzy"), "{}", audit.text);
    let records = audit.ok()["records"].as_array().unwrap().clone();
    let of_this: Vec<_> =
        records.iter().filter(|r| r.to_string().contains(sent["message_id"].as_str().unwrap())).collect();
    assert_eq!(of_this.len(), 1, "a repeat is no act: {records:?}");
    assert_eq!((&of_this[0]["actor"], &of_this[0]["act"]), (&json!("alice"), &json!("message.send")));
    let verdict = eventually("the chain is sealed", Duration::from_secs(10), async || {
        let verdict = hall.admin().get("/api/v1/audit/verify").await.ok();
        (verdict["unsealed"] == 0).then_some(verdict)
    })
    .await;
    assert_eq!(verdict["holds"], true, "{verdict}");
}
