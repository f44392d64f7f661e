//! Mail brought to real receivers on loopback.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use guildhall_domain::{
    Clock, NewAgent,
    agent::Delivery,
    mail::{
        Body, DeadLetter, DeliveryState, MessageId, NewMessage,
        delivery::{ATTEMPTS_MAX, DeadLetterQuery, Unread},
    },
    ports::agent_registry::RegistrationRight,
};
use guildhall_guard::ExposeSecret;
use guildhall_testkit::engines::eventually;
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;

use crate::stage::{Engines, Replica, admin, agent, id, message};

const SOON: Duration = Duration::from_secs(60);

/// What came to a receiver.
#[derive(Clone)]
struct Came {
    headers: HeaderMap,
    body: Bytes,
}

impl Came {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn data(&self) -> Value {
        serde_json::from_slice::<Value>(&self.body).unwrap()["data"].take()
    }
}

/// A receiver that answers as it is told.
struct Receiver {
    url: String,
    came: Arc<Mutex<Vec<Came>>>,
}

impl Receiver {
    /// `answer` is given how often it was called before.
    async fn new<F: Future<Output = Response> + Send + 'static>(
        answer: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
    ) -> Self {
        let came = Arc::new(Mutex::new(Vec::new()));
        let seen = came.clone();
        let take = move |headers: HeaderMap, body: Bytes| {
            let mut seen = seen.lock();
            seen.push(Came { headers, body });
            answer(seen.len() - 1)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", post(take)).route("/moved", post(|| async { "taken" }));
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { url, came }
    }

    async fn answering(statuses: &'static [u16]) -> Self {
        let status = |at: usize| StatusCode::from_u16(statuses[at.min(statuses.len() - 1)]).unwrap();
        let answer = move |at| (status(at), [("location", "/moved")], "an answer that nobody reads").into_response();
        Self::new(move |at| std::future::ready(answer(at))).await
    }

    fn came(&self) -> Vec<Came> {
        self.came.lock().clone()
    }

    async fn comes(&self, count: usize) -> Vec<Came> {
        let what = format!("{count} messages come");
        eventually(&what, SOON, async || Some(self.came()).filter(|came| came.len() >= count)).await
    }
}

async fn hooked(replica: &Replica, name: &str, url: &str) -> String {
    let new = NewAgent {
        delivery: Some(Delivery::Webhook),
        webhook_url: Some(url.to_owned()),
        ..NewAgent::named(id(name), name)
    };
    let registered = replica.registry.register(&admin(), new, RegistrationRight::Caller).await.unwrap();
    registered.webhook_secret.unwrap().expose_secret().to_owned()
}

async fn send(replica: &Replica, from: &str, to: &str, body: &str) -> MessageId {
    let new = NewMessage::new(to.parse().unwrap(), Body::from_text(body).unwrap());
    replica.mail.send(&agent(from), vec![new]).await.unwrap()[0].message_id
}

async fn state(replica: &Replica, message: MessageId) -> DeliveryState {
    replica.mail.message(&admin(), message).await.unwrap().deliveries[0].state
}

async fn comes_to_be(replica: &Replica, message: MessageId, wanted: DeliveryState) {
    let what = format!("{message} is {}", wanted.as_str());
    eventually(&what, SOON, async || (state(replica, message).await == wanted).then_some(())).await;
}

/// Time passes until the message is dead.
async fn dies(engines: &Engines, replica: &Replica, who: &str) -> DeadLetter {
    let query = DeadLetterQuery { limit: 10, ..DeadLetterQuery::default() };
    eventually(&format!("a message for {who} dies"), SOON * 2, async || {
        engines.clock.advance(Duration::from_secs(30));
        replica.mail.dead_letters(&agent(who), query.clone()).await.unwrap().pop()
    })
    .await
}

/// As the specification says, with nothing of the hall's own.
fn is_signed(came: &Came, secret: &str) -> bool {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{}.{}.", came.header("webhook-id"), came.header("webhook-timestamp")).as_bytes());
    mac.update(&came.body);
    let wanted = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    came.header("webhook-signature").split(' ').any(|signature| signature == wanted)
}

async fn staged() -> (Engines, Replica, Replica) {
    let engines = Engines::embedded();
    let (here, there) = engines.replicas().await;
    here.register("a").await;
    (engines, here, there)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_is_posted_once_signed_and_acknowledged_by_the_answer() {
    let (engines, here, _there) = staged().await;
    let receiver = Receiver::answering(&[204]).await;
    let secret = hooked(&here, "b", &receiver.url).await;
    let body = r#"{"b":1.0,  "a":[1e3, 12345678901234567890123]}"#;
    let sent = send(&here, "a", "b", body).await;
    comes_to_be(&here, sent, DeliveryState::Acknowledged).await;

    let came = receiver.came();
    assert_eq!(came.len(), 1, "two replicas, one message");
    let came = &came[0];
    assert_eq!(came.header("content-type"), "application/json");
    assert_eq!(came.header("webhook-id"), sent.to_string());
    assert_eq!(came.header("webhook-timestamp"), (engines.clock.now().as_millis() / 1_000).to_string());
    assert!(is_signed(came, &secret) && !is_signed(came, "whsec_AAAA"));
    let text = std::str::from_utf8(&came.body).unwrap();
    assert!(text.contains(body), "the body was spelled anew: {text}");
    let payload: Value = serde_json::from_str(text).unwrap();
    assert_eq!((&payload["type"], &payload["data"]["message_id"]), (&"message.new".into(), &sent.to_string().into()));
    assert_eq!((&payload["data"]["from"], &payload["data"]["to"]), (&"a".into(), &"b".into()));
    assert_eq!(payload["timestamp"], payload["data"]["sent_at"]);
    assert!(payload["data"].get("lease").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_taken_comes_again_in_order_and_at_last() {
    let (engines, here, _there) = staged().await;
    let receiver = Receiver::answering(&[503, 404, 307, 200]).await;
    hooked(&here, "b", &receiver.url).await;
    let first = send(&here, "a", "b", "1").await;
    let second = send(&here, "a", "b", "2").await;
    eventually("both are taken in the end", SOON * 2, async || {
        engines.clock.advance(Duration::from_secs(1));
        (state(&here, second).await == DeliveryState::Acknowledged).then_some(())
    })
    .await;
    let came: Vec<_> = receiver.came().iter().map(|came| came.data()["message"].clone()).collect();
    assert_eq!(came, [1, 1, 1, 1, 2].map(Value::from));
    let tracked = here.mail.message(&admin(), first).await.unwrap();
    assert_eq!((tracked.deliveries[0].state, tracked.deliveries[0].attempts), (DeliveryState::Acknowledged, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_always_fails_leaves_a_dead_letter_that_says_what_it_answered() {
    let (engines, here, _there) = staged().await;
    let receiver = Receiver::answering(&[503]).await;
    hooked(&here, "b", &receiver.url).await;
    send(&here, "a", "b", "1").await;
    let letter = dies(&engines, &here, "b").await;
    assert_eq!(letter.attempts, ATTEMPTS_MAX);
    assert!(letter.reason.contains("the webhook answered 503"), "{}", letter.reason);
    assert_eq!(receiver.came().len(), ATTEMPTS_MAX as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_gone_gets_nothing_twice() {
    let (_engines, here, _there) = staged().await;
    let receiver = Receiver::answering(&[410]).await;
    hooked(&here, "b", &receiver.url).await;
    let sent = send(&here, "a", "b", "1").await;
    comes_to_be(&here, sent, DeliveryState::Dead).await;
    let query = DeadLetterQuery { limit: 10, ..DeadLetterQuery::default() };
    let letter = here.mail.dead_letters(&agent("b"), query).await.unwrap().remove(0);
    assert_eq!((&*letter.reason, receiver.came().len()), ("the webhook answered 410", 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_is_left_alone_for_as_long_as_it_asks() {
    let (engines, here, _there) = staged().await;
    let receiver = Receiver::new(|at| async move {
        match at {
            0 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "600")]).into_response(),
            _ => StatusCode::OK.into_response(),
        }
    })
    .await;
    hooked(&here, "b", &receiver.url).await;
    let sent = send(&here, "a", "b", "1").await;
    receiver.comes(1).await;
    engines.clock.advance(Duration::from_secs(590));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(receiver.came().len(), 1, "it was asked before its time");
    engines.clock.advance(Duration::from_secs(20));
    comes_to_be(&here, sent, DeliveryState::Acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_receiver_holds_up_nobody_else() {
    let (_engines, here, _there) = staged().await;
    let slow = Receiver::new(|_| async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        StatusCode::OK.into_response()
    })
    .await;
    let quick = Receiver::answering(&[200]).await;
    hooked(&here, "slow", &slow.url).await;
    hooked(&here, "quick", &quick.url).await;
    for _ in 0..5 {
        send(&here, "a", "slow", "1").await;
    }
    slow.comes(1).await;
    let begun = Instant::now();
    let sent = send(&here, "a", "quick", "1").await;
    comes_to_be(&here, sent, DeliveryState::Acknowledged).await;
    // A hint brings it at once; without it, the look of every 2 s.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(slow.came().len(), 1, "its messages are brought one after the other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_as_are_visited_at_once_with_much_to_bring_let_others_in_between() {
    const BUSY: usize = 64;
    const EACH: usize = 40;
    let (_engines, here, there) = staged().await;
    drop(there);
    let busy = Receiver::new(|_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        StatusCode::OK.into_response()
    })
    .await;
    let quick = Receiver::answering(&[200]).await;
    let names: Vec<String> = (0..BUSY).map(|n| format!("busy-{n:02}")).collect();
    for name in &names {
        here.register(name).await;
    }
    let much: Vec<_> = (0..EACH).map(|_| message("ALL", "1")).collect();
    here.mail.send(&agent("a"), much).await.unwrap();
    for name in &names {
        hooked(&here, name, &busy.url).await;
    }
    hooked(&here, "quick", &quick.url).await;
    busy.comes(BUSY).await;
    send(&here, "a", "quick", "1").await;
    quick.comes(1).await;
    let brought = busy.came().len();
    assert!(brought < BUSY * EACH * 3 / 4, "it came when {brought} others had been brought");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_the_inside_is_never_called_and_its_mail_dies_and_says_why() {
    let (engines, here, _there) = staged().await;
    hooked(&here, "b", "http://127.0.0.2:9/hook").await;
    send(&here, "a", "b", "1").await;
    let letter = dies(&engines, &here, "b").await;
    assert_eq!(letter.attempts, ATTEMPTS_MAX);
    assert!(letter.reason.contains("127.0.0.2") && letter.reason.contains("public addresses"), "{}", letter.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_paused_or_polls_again_is_brought_nothing() {
    let (_engines, here, _there) = staged().await;
    let receiver = Receiver::answering(&[200]).await;
    for name in ["paused", "polls"] {
        hooked(&here, name, &receiver.url).await;
    }
    here.registry.pause(&admin(), &id("paused"), "for the test").await.unwrap();
    here.register_as(NewAgent { delivery: Some(Delivery::Poll), ..NewAgent::named(id("polls"), "polls") }).await;
    // Until the last look at who wants webhooks is over.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    send(&here, "a", "paused", "1").await;
    send(&here, "a", "polls", "1").await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(receiver.came().len(), 0);
    for name in ["paused", "polls"] {
        let unread = here.mail.unread(&admin(), vec![id(name)]).await.unwrap();
        assert_eq!(unread, [Unread { waiting: 1, critical: 0 }]);
    }
    here.registry.resume(&admin(), &id("paused")).await.unwrap();
    receiver.comes(1).await;
}
