//! MCP over Streamable HTTP, spoken by hand, so that a scenario can send what no client library would.

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use sse_stream::SseStream;

use crate::{Answer, Caller};

pub const OLD: &str = "2025-11-25";
pub const NEW: &str = "2026-07-28";

const ACCEPT: &str = "application/json, text/event-stream";

/// A session of an old client.
#[derive(Debug, Clone)]
pub struct Session {
    caller: Caller,
    pub id: String,
}

impl Session {
    /// Sends `initialize`, takes the session, and says that it is initialized.
    pub async fn open(caller: &Caller) -> Self {
        let answer = initialize(caller).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let id = answer.header("mcp-session-id").expect("an old client gets a session").to_owned();
        assert_eq!(message(&answer)["result"]["protocolVersion"], OLD);
        let session = Self { caller: caller.clone(), id };
        let initialized = session.post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert_eq!(initialized.status, 202, "{}", initialized.text);
        session
    }

    /// The same session id in someone else's hands, or at another address.
    pub fn used_by(&self, caller: &Caller) -> Self {
        Self { caller: caller.clone(), id: self.id.clone() }
    }

    /// Another session id in the same hands.
    pub fn with_id(&self, id: &str) -> Self {
        Self { caller: self.caller.clone(), id: id.to_owned() }
    }

    fn with_headers(&self) -> Caller {
        self.caller.header("mcp-session-id", &self.id).header("mcp-protocol-version", OLD).header("accept", ACCEPT)
    }

    pub async fn post(&self, body: Value) -> Answer {
        self.with_headers().post("/mcp", body).await
    }

    pub async fn ask(&self, method: &str, params: Value) -> Answer {
        self.post(json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})).await
    }

    /// The result of a request that must succeed.
    pub async fn result(&self, method: &str, params: Value) -> Value {
        result(&self.ask(method, params).await)
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.result("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    pub async fn end(&self) -> Answer {
        self.with_headers().delete("/mcp").await
    }

    /// The stream on which the hall speaks by itself.
    pub async fn listen(&self) -> Listening {
        let caller = self.caller.header("mcp-session-id", &self.id).header("mcp-protocol-version", OLD);
        Listening::to(caller.header("accept", "text/event-stream").request(Method::GET, "/mcp")).await
    }
}

pub async fn initialize(caller: &Caller) -> Answer {
    let params = json!({
        "protocolVersion": OLD, "capabilities": {}, "clientInfo": {"name": "scenario", "version": "1"},
    });
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    caller.header("accept", ACCEPT).post("/mcp", body).await
}

/// A request of a new client, which has no session.
#[derive(Debug, Clone)]
pub struct Stateless {
    pub headers: Vec<(&'static str, Option<String>)>,
    pub body: Value,
}

impl Stateless {
    /// As the revision asks for it: version and capabilities in `_meta`, and the headers that repeat the body.
    pub fn new(method: &str, params: Value) -> Self {
        let mut params = params;
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": NEW,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "scenario", "version": "1"},
        });
        let named = ["name", "uri"].iter().find_map(|key| params[*key].as_str().map(str::to_owned));
        let headers = vec![
            ("accept", Some(ACCEPT.to_owned())),
            ("mcp-protocol-version", Some(NEW.to_owned())),
            ("mcp-method", Some(method.to_owned())),
            ("mcp-name", named),
        ];
        Self { headers, body: json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}) }
    }

    pub fn tool(name: &str, arguments: Value) -> Self {
        Self::new("tools/call", json!({"name": name, "arguments": arguments}))
    }

    /// Another value of a header, or none.
    pub fn header(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.headers.retain(|(there, _)| *there != name);
        self.headers.push((name, value.map(str::to_owned)));
        self
    }

    fn complete(&self, caller: &Caller) -> Caller {
        self.headers.iter().fold(caller.clone(), |caller, (name, value)| match value {
            Some(value) => caller.header(name, value),
            None => caller,
        })
    }

    pub async fn by(&self, caller: &Caller) -> Answer {
        self.complete(caller).post("/mcp", self.body.clone()).await
    }

    pub async fn result(&self, caller: &Caller) -> Value {
        result(&self.by(caller).await)
    }

    /// Sends it and reads its answer as it comes.
    pub async fn listen(&self, caller: &Caller) -> Listening {
        Listening::to(self.complete(caller).request(Method::POST, "/mcp").json(&self.body)).await
    }
}

/// The one message of an answer, which may be JSON or a stream of events.
pub fn message(answer: &Answer) -> Value {
    let is_stream = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    if !is_stream {
        return answer.json();
    }
    let events = answer.text.lines().filter_map(|line| line.strip_prefix("data:"));
    let mut messages = events.filter_map(|data| serde_json::from_str::<Value>(data.trim()).ok());
    messages.next_back().unwrap_or_else(|| panic!("no message in {}", answer.text))
}

#[track_caller]
pub fn result(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let message = message(answer);
    assert!(message.get("error").is_none(), "{message}");
    message["result"].clone()
}

/// The code of an answer that must be a JSON-RPC error, with this HTTP status.
#[track_caller]
pub fn error_code(answer: &Answer, status: u16) -> i64 {
    assert_eq!(answer.status, status, "{}", answer.text);
    message(answer)["error"]["code"].as_i64().unwrap_or_else(|| panic!("no JSON-RPC error: {}", answer.text))
}

/// A stream of messages.
pub struct Listening(std::pin::Pin<Box<dyn futures::Stream<Item = Value> + Send>>);

impl Listening {
    async fn to(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("the hall answers");
        assert_eq!(response.status(), 200);
        let events = SseStream::from_bytes_stream(response.bytes_stream());
        let messages = events.filter_map(async |event| serde_json::from_str(&event.ok()?.data?).ok());
        Self(Box::pin(messages))
    }

    /// Whether the stream ends within `patience`, whatever it still says.
    pub async fn ends(&mut self, patience: std::time::Duration) -> bool {
        tokio::time::timeout(patience, async { while self.0.next().await.is_some() {} }).await.is_ok()
    }

    /// The next message; `None` when none comes for `patience`, or the stream ends.
    pub async fn next(&mut self, patience: std::time::Duration) -> Option<Value> {
        tokio::time::timeout(patience, self.0.next()).await.ok().flatten()
    }
}
