//! An agent at the door: REST and MCP, spoken by hand.

use std::{net::SocketAddr, time::Duration};

use futures::{Stream, StreamExt as _};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use socket2::SockRef;
use sse_stream::SseStream;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};

use crate::stage::{Gate, Stage};

const OLD: &str = "2025-11-25";
const NEW: &str = "2026-07-28";
/// Longer than anything that is not meant to take long, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    address: SocketAddr,
    agent: String,
    token: Option<String>,
    /// Of one who said that it speaks the tasks extension.
    pub(crate) capabilities: Value,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{} {}", self.status, self.text))
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text);
        self.json()
    }

    /// The error's code and message.
    #[track_caller]
    pub(crate) fn refused(self, status: u16) -> (String, String) {
        assert_eq!(self.status, status, "{}", self.text);
        let body = self.json();
        assert_eq!(body["success"], false, "{body}");
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        (text("error"), text("message"))
    }
}

impl Client {
    pub(crate) fn of(gate: &Gate, agent: &str) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        Self { http, address: gate.address, agent: agent.to_owned(), token: None, capabilities: json!({}) }
    }

    /// Of a hall that asks for tokens, where an agent may do what agents may.
    pub(crate) async fn with_token(stage: &Stage, gate: &Gate, agent: &str) -> Self {
        Self { token: Some(stage.token(agent).await), ..Self::of(gate, agent) }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("http://{}{path}", self.address));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request.header("x-agent-id", &self.agent),
        }
    }

    async fn answer(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("the hall answers");
        Answer { status: response.status().as_u16(), text: response.text().await.expect("the answer is whole") }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_text(path, body.to_string()).await
    }

    pub(crate) async fn post_text(&self, path: &str, body: String) -> Answer {
        self.answer(self.request(Method::POST, path).body(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.answer(self.request(Method::PUT, path).body(body.to_string())).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.answer(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn send(&self, to: &str, message: Value) -> String {
        let sent = self.post("/api/v1/messages", json!({"to": to, "message": message})).await.ok();
        sent["message_id"].as_str().unwrap().to_owned()
    }

    /// Takes what waits and acknowledges it by reading the answer.
    pub(crate) async fn take(&self) -> Vec<Value> {
        let taken = self.get("/api/v1/messages?pending=true&ack=auto&wait_ms=5000").await.ok();
        taken["messages"].as_array().unwrap().clone()
    }

    /// A connection on which a request was sent, and whose answer nobody reads yet.
    pub(crate) async fn half_asked(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        // So that a long answer does not vanish unread into the buffers between the two: a small window, and segments
        // so short that the other side sees no reason for a large buffer of its own.
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        SockRef::from(&socket).set_tcp_mss(536).unwrap();
        let mut stream = socket.connect(self.address).await.unwrap();
        let (address, agent, length) = (self.address, &self.agent, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nx-agent-id: {agent}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    fn stateless(&self, query: &str, method: &str, mut params: Value) -> RequestBuilder {
        let meta = &mut params["_meta"];
        if meta.is_null() {
            *meta = json!({});
        }
        meta["io.modelcontextprotocol/protocolVersion"] = NEW.into();
        meta["io.modelcontextprotocol/clientCapabilities"] = self.capabilities.clone();
        meta["io.modelcontextprotocol/clientInfo"] = json!({"name": "test", "version": "1"});
        let named = ["name", "uri", "taskId"].iter().find_map(|key| params[*key].as_str().map(str::to_owned));
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        let request = self
            .request(Method::POST, &format!("/mcp{query}"))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", NEW)
            .header("mcp-method", method);
        let request = if let Some(name) = named { request.header("mcp-name", name) } else { request };
        request.body(body.to_string())
    }

    /// Every message that answers one request of a client without a session.
    pub(crate) async fn messages(&self, method: &str, params: Value) -> impl Stream<Item = Value> + Unpin + use<> {
        let response = self.stateless("", method, params).send().await.expect("the hall answers");
        let is_stream = response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream");
        if is_stream {
            let events = SseStream::from_bytes_stream(response.bytes_stream());
            events.filter_map(async |event| serde_json::from_str(&event.ok()?.data?).ok()).boxed()
        } else {
            let whole = response.json().await.unwrap();
            futures::stream::iter([whole]).boxed()
        }
    }

    pub(crate) async fn mcp(&self, method: &str, params: Value) -> Value {
        self.mcp_at("", method, params).await
    }

    pub(crate) async fn mcp_at(&self, query: &str, method: &str, params: Value) -> Value {
        let answer = self.answer(self.stateless(query, method, params)).await.json();
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].clone()
    }

    /// A tool's result, as MCP gives it.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.mcp("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// A session of a client of an earlier revision: what it asks, and the stream on which the hall speaks by itself.
    pub(crate) async fn session(&self) -> Session {
        let params = json!({"protocolVersion": OLD, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        let request = self.request(Method::POST, "/mcp").header("accept", "application/json, text/event-stream");
        let response = request.json(&body).send().await.unwrap();
        let session =
            Session { client: self.clone(), id: response.headers()["mcp-session-id"].to_str().unwrap().into() };
        session.said(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        session
    }
}

pub(crate) struct Session {
    client: Client,
    id: String,
}

impl Session {
    fn request(&self, method: Method) -> RequestBuilder {
        self.client
            .request(method, "/mcp")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-session-id", &self.id)
            .header("mcp-protocol-version", OLD)
    }

    pub(crate) async fn said(&self, body: Value) -> Answer {
        self.client.answer(self.request(Method::POST).json(&body)).await
    }

    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        let answer = self.said(json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})).await;
        let mut messages =
            answer.text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok());
        messages.next_back().unwrap_or_else(|| answer.json())
    }

    pub(crate) async fn listen(&self) -> impl Stream<Item = Value> + Unpin + use<> {
        let response = self.request(Method::GET).send().await.unwrap();
        let events = SseStream::from_bytes_stream(response.bytes_stream());
        events.filter_map(async |event| serde_json::from_str(&event.ok()?.data?).ok()).boxed()
    }
}

/// The structured result of a call that succeeded; its text is the same.
#[track_caller]
pub(crate) fn structured(result: &Value) -> Value {
    assert_ne!(result["isError"], true, "{result}");
    let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(text, result["structuredContent"]);
    text
}

/// The error that a call met.
#[track_caller]
pub(crate) fn failure(result: &Value) -> Value {
    assert_eq!((&result["isError"], result.get("structuredContent")), (&json!(true), None), "{result}");
    serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap()
}
