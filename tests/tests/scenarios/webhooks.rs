//! Mail brought by webhook, by whichever replica comes first.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use guildhall_tests::{Hall, Setup, eventually, scenarios};
use http_body_util::{BodyExt, Empty};
use hyper::{HeaderMap, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

scenarios! {
    mail_is_brought_signed_in_order_and_again_when_it_was_not_taken(Setup::open().set("outbound.allow", "127.0.0.1/32"));
}

struct Came {
    headers: HeaderMap,
    body: Value,
}

/// Takes what is brought, but not the first time.
struct Receiver {
    url: String,
    came: Arc<Mutex<Vec<Came>>>,
    _serving: JoinSet<()>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let came: Arc<Mutex<Vec<Came>>> = Arc::default();
        let seen = came.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let seen = seen.clone();
                let serve = http1::Builder::new()
                    .serve_connection(TokioIo::new(connection), service_fn(move |request| take(request, seen.clone())));
                connections.spawn(async move { drop(serve.await) });
            }
        });
        Self { url, came, _serving: serving }
    }
}

async fn take(request: Request<Incoming>, seen: Arc<Mutex<Vec<Came>>>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    let mut seen = seen.lock().unwrap();
    let status = if seen.is_empty() { 503 } else { 200 };
    seen.push(Came { headers: head.headers, body });
    Ok(Response::builder().status(status).body(Empty::new()).unwrap())
}

async fn mail_is_brought_signed_in_order_and_again_when_it_was_not_taken(hall: &Hall) {
    let receiver = Receiver::start().await;
    hall.caller().register("alice").await;
    let bob = json!({"agent_id": "bob", "name": "bob", "delivery": "webhook", "webhook_url": receiver.url});
    let registered = hall.caller().post("/api/v1/agents/register", bob).await.ok();
    assert!(registered["webhook_secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")), "{registered}");
    let mut sent = Vec::new();
    for n in 1..=2 {
        let message = json!({"to": "bob", "message": n});
        sent.push(hall.agent("alice").post("/api/v1/messages", message).await.ok()["message_id"].clone());
    }
    for id in &sent {
        let path = format!("/api/v1/messages/{}", id.as_str().unwrap());
        eventually("it is brought and acknowledged", Duration::from_secs(30), async || {
            let tracked = hall.agent("alice").get(&path).await.ok();
            (tracked["deliveries"][0]["state"] == "acknowledged").then_some(())
        })
        .await;
    }
    let came = receiver.came.lock().unwrap();
    let said: Vec<_> = came.iter().map(|came| (&came.body["type"], &came.body["data"]["message"])).collect();
    let new = &json!("message.new");
    assert_eq!(said, [(new, &json!(1)), (new, &json!(1)), (new, &json!(2))]);
    for (came, id) in came.iter().zip([&sent[0], &sent[0], &sent[1]]) {
        let header = |name: &str| came.headers[name].to_str().unwrap();
        assert_eq!((header("webhook-id"), &came.body["data"]["message_id"]), (id.as_str().unwrap(), id));
        assert!(header("webhook-signature").starts_with("v1,") && header("webhook-timestamp").parse::<u64>().is_ok());
    }
}
