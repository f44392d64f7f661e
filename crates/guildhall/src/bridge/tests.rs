//! The bridge between a host and a hall that does, over real sockets, what a test tells it to.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::any,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf},
    net::TcpListener,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the hall was asked.
#[derive(Debug, Clone)]
struct Asked {
    method: Method,
    headers: HeaderMap,
    body: Value,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn is(&self, method: &str) -> bool {
        self.body["method"] == method
    }
}

type Script = dyn Fn(&Asked, usize) -> Response + Send + Sync;

#[derive(Clone)]
struct TestHall {
    asked: Arc<Mutex<Vec<Asked>>>,
    script: Arc<Script>,
}

impl TestHall {
    async fn answer(State(hall): State<TestHall>, method: Method, headers: HeaderMap, body: Bytes) -> Response {
        let asked = Asked { method, headers, body: serde_json::from_slice(&body).unwrap_or_default() };
        // How often this very thing was asked before.
        let before = {
            let mut all = hall.asked.lock().unwrap();
            let before = all.iter().filter(|one| one.method == asked.method && one.body == asked.body).count();
            all.push(asked.clone());
            before
        };
        (hall.script)(&asked, before)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// A host that speaks with a hall by the bridge.
struct Host {
    hall: TestHall,
    input: WriteHalf<DuplexStream>,
    output: Lines<BufReader<ReadHalf<DuplexStream>>>,
    bridge: JoinHandle<Result<(), Failure>>,
    early: VecDeque<Value>,
}

impl Host {
    async fn with(script: impl Fn(&Asked, usize) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/mcp", listener.local_addr().unwrap()).parse().unwrap();
        let hall = TestHall { asked: Arc::default(), script: Arc::new(script) };
        let router = Router::new().route("/mcp", any(TestHall::answer)).with_state(hall.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (input, output) = tokio::io::split(far);
        let bridge = tokio::spawn(super::run(endpoint, Some("t0ken".into()), input, output, CancellationToken::new()));
        let (output, input) = tokio::io::split(near);
        Self { hall, input, output: BufReader::new(output).lines(), bridge, early: VecDeque::new() }
    }

    async fn say(&mut self, message: Value) {
        self.input.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        if let Some(message) = self.early.pop_front() {
            return message;
        }
        let line = timeout(PATIENCE, self.output.next_line()).await.expect("the bridge is silent").unwrap();
        serde_json::from_str(&line.expect("the bridge has ended")).unwrap()
    }

    async fn answer_to(&mut self, id: i64) -> Value {
        let mut others = VecDeque::new();
        loop {
            let message = self.hear().await;
            if message["id"] == id {
                self.early.append(&mut others);
                return message;
            }
            others.push_back(message);
        }
    }

    async fn shake_hands(&mut self) {
        self.say(json!({"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}})).await;
        self.answer_to(0).await;
        self.say(json!({"jsonrpc":"2.0","method":"notifications/initialized"})).await;
    }

    /// Ends the host's side, and gives what the hall was asked altogether.
    async fn end(mut self) -> Vec<Asked> {
        self.input.shutdown().await.unwrap();
        timeout(PATIENCE, self.bridge).await.expect("the bridge does not end").unwrap().unwrap();
        self.hall.asked()
    }
}

fn one(asked: &Asked, result: Value) -> Response {
    axum::Json(json!({"jsonrpc":"2.0","id":asked.body["id"],"result":result})).into_response()
}

fn stream(parts: Vec<String>, then_stays_open: bool) -> Response {
    let parts = futures::stream::iter(parts.into_iter().map(Ok::<_, std::io::Error>));
    let body = if then_stays_open {
        Body::from_stream(parts.chain(futures::stream::pending()))
    } else {
        Body::from_stream(parts)
    };
    ([("content-type", "text/event-stream")], body).into_response()
}

/// What a hall with sessions does with everything that a test is not about.
fn plain(asked: &Asked, session: &'static str) -> Response {
    if asked.is("initialize") {
        let answer = one(asked, json!({"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{}}));
        return ([("mcp-session-id", session)], answer).into_response();
    }
    match asked.method {
        Method::GET => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        Method::DELETE => StatusCode::NO_CONTENT.into_response(),
        _ if asked.body["id"].is_null() || asked.body["method"].is_null() => StatusCode::ACCEPTED.into_response(),
        _ => one(asked, json!({})),
    }
}

#[tokio::test]
async fn a_session_is_named_in_every_call_and_ended_with_the_host() {
    let mut host = Host::with(|asked, _| plain(asked, "s1")).await;
    host.shake_hands().await;
    host.say(json!({"jsonrpc":"2.0","id":1,"method":"tools/list"})).await;
    assert_eq!(host.answer_to(1).await["result"], json!({}));
    let asked = host.end().await;
    assert_eq!(asked[0].header("mcp-session-id"), "");
    assert!(asked.iter().all(|one| one.header("authorization") == "Bearer t0ken"));
    for later in &asked[1..] {
        assert_eq!((later.header("mcp-session-id"), later.header("mcp-protocol-version")), ("s1", "2025-11-25"));
    }
    assert_eq!(asked.last().unwrap().method, Method::DELETE);
}

#[tokio::test]
async fn requests_that_meet_a_lost_session_open_one_new_one_and_are_answered() {
    let mut host = Host::with(|asked, before| {
        let of_the_lost_one = asked.header("mcp-session-id") == "s1";
        match asked.body["method"].as_str() {
            Some("initialize") if before > 0 => plain(asked, "s2"),
            Some("tools/call") if of_the_lost_one => StatusCode::NOT_FOUND.into_response(),
            _ => plain(asked, "s1"),
        }
    })
    .await;
    host.shake_hands().await;
    for id in 1..=3 {
        host.say(json!({"jsonrpc":"2.0","id":id,"method":"tools/call","params":{"name":"x"}})).await;
    }
    for id in 1..=3 {
        assert_eq!(host.answer_to(id).await["result"], json!({}), "{id}");
    }
    assert!(host.early.is_empty(), "the host heard of the second handshake: {:?}", host.early);
    let asked = host.end().await;
    assert_eq!(asked.iter().filter(|one| one.is("initialize")).count(), 2);
    assert_eq!(asked.iter().filter(|one| one.is("notifications/initialized")).count(), 2);
    let repeated = asked.iter().filter(|one| one.is("tools/call") && one.header("mcp-session-id") == "s2");
    assert_eq!(repeated.count(), 3);
}

#[tokio::test]
async fn a_slow_request_does_not_hold_up_another() {
    let mut host = Host::with(|asked, _| {
        if asked.body["id"] == 1 {
            let delayed = futures::stream::once(async {
                tokio::time::sleep(Duration::from_millis(400)).await;
                Ok::<_, std::io::Error>("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n")
            });
            return ([("content-type", "text/event-stream")], Body::from_stream(delayed)).into_response();
        }
        plain(asked, "s1")
    })
    .await;
    host.say(json!({"jsonrpc":"2.0","id":1,"method":"tools/call"})).await;
    host.say(json!({"jsonrpc":"2.0","id":2,"method":"tools/call"})).await;
    assert_eq!(host.hear().await["id"], 2);
    // Its answer comes although the host has said its last.
    host.input.shutdown().await.unwrap();
    assert_eq!(host.hear().await["id"], 1);
}

#[tokio::test]
async fn what_the_hall_says_by_itself_reaches_the_host_and_the_hosts_answer_the_hall() {
    let mut host = Host::with(|asked, before| match asked.method {
        Method::GET if before == 0 => stream(
            vec!["data: {\"jsonrpc\":\"2.0\",\n".into(), "data: \"id\":7,\"method\":\"roots/list\"}\n\n".into()],
            true,
        ),
        _ => plain(asked, "s1"),
    })
    .await;
    host.shake_hands().await;
    assert_eq!(host.hear().await, json!({"jsonrpc":"2.0","id":7,"method":"roots/list"}));
    host.say(json!({"jsonrpc":"2.0","id":7,"result":{"roots":[]}})).await;
    let asked = host.end().await;
    assert!(asked.iter().any(|one| one.body["result"]["roots"] == json!([])), "{asked:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_gone_on_with_where_it_broke() {
    let mut host = Host::with(|asked, _| match asked.method {
        Method::POST if asked.is("tools/call") => {
            let progress = "id: 5\nretry: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n";
            stream(vec![progress.into()], false)
        }
        Method::GET if asked.header("last-event-id") == "5" => {
            stream(vec!["id: 6\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"ok\":true}}\n\n".into()], false)
        }
        _ => plain(asked, "s1"),
    })
    .await;
    host.shake_hands().await;
    host.say(json!({"jsonrpc":"2.0","id":1,"method":"tools/call"})).await;
    assert_eq!(host.answer_to(1).await["result"]["ok"], true);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_an_error_and_not_silence() {
    let mut host = Host::with(|asked, _| match asked.body["id"].as_i64() {
        Some(1) => stream(vec![": nothing\n\n".into()], false),
        Some(2) => StatusCode::ACCEPTED.into_response(),
        Some(3) => (
            StatusCode::TOO_MANY_REQUESTS,
            axum::Json(json!({"success":false,"error":"RateLimited","message":"too many","retry_after_ms":5})),
        )
            .into_response(),
        _ => (
            StatusCode::BAD_REQUEST,
            axum::Json(json!({"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"bad","data":1}})),
        )
            .into_response(),
    })
    .await;
    for id in 1..=4 {
        host.say(json!({"jsonrpc":"2.0","id":id,"method":"tools/call"})).await;
    }
    assert!(host.answer_to(1).await["error"]["message"].as_str().unwrap().contains("broke off"));
    assert!(host.answer_to(2).await["error"]["message"].as_str().unwrap().contains("no answer"));
    let limited = host.answer_to(3).await["error"].clone();
    assert_eq!((&limited["code"], &limited["data"]["retry_after_ms"]), (&json!(429), &json!(5)));
    assert_eq!(host.answer_to(4).await["error"], json!({"code":-32600,"message":"bad","data":1}));
    host.say(json!([{"jsonrpc":"2.0","id":8,"method":"a"},{"jsonrpc":"2.0","id":9,"method":"b"}])).await;
    assert_eq!(host.answer_to(8).await["error"]["code"], -32600);
    assert_eq!(host.answer_to(9).await["error"]["code"], -32600);
}

#[tokio::test]
async fn a_client_without_sessions_is_told_by_its_headers_and_ends_a_request_by_ending_its_stream() {
    let ended = CancellationToken::new();
    let guard = Arc::new(Mutex::new(Some(ended.clone().drop_guard())));
    let mut host = Host::with(move |asked, _| {
        if asked.body["id"] == 1 {
            let held = guard.lock().unwrap().take();
            let first = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n";
            let body = futures::stream::once(async move { Ok::<_, std::io::Error>(first) })
                .chain(futures::stream::pending())
                .map(move |part| {
                    let _held = &held;
                    part
                });
            return ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response();
        }
        plain(asked, "s1")
    })
    .await;
    let meta = json!({"io.modelcontextprotocol/protocolVersion":"2026-07-28"});
    host.say(json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait","_meta":meta}})).await;
    host.hear().await;
    host.say(json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"_meta":meta}})).await;
    timeout(PATIENCE, ended.cancelled()).await.expect("the hall still works on what was cancelled");
    let asked = host.end().await;
    assert_eq!(asked.len(), 1, "more was said than the request: {asked:?}");
    let names = ["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id"].map(|name| asked[0].header(name));
    assert_eq!(names, ["2026-07-28", "tools/call", "wait", ""]);
}
