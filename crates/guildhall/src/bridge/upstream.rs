//! Streamable HTTP as a client: one POST a message, one GET for what the hall says by itself, DELETE at the end.

use std::time::Duration;

use futures::{StreamExt, stream::BoxStream};
use guildhall_guard::{ExposeSecret, Secret};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};
use sse_stream::{Sse, SseByteStream};
use url::Url;

use super::{
    message::{Kind, Message, error_line},
    session::Now,
};
use crate::{failure::Failure, hall};

const SESSION_ID: &str = "Mcp-Session-Id";
const PROTOCOL_VERSION: &str = "MCP-Protocol-Version";
/// The hall says something at least every 15 s on a stream that lives.
const SILENCE_MAX: Duration = Duration::from_secs(300);

pub(super) type Events = BoxStream<'static, Result<Sse, sse_stream::Error>>;

/// What came back for a message.
pub(super) enum Reply {
    /// Taken, and there is nothing to say.
    Nothing,
    One {
        text: String,
        session_id: Option<String>,
    },
    Many {
        events: Events,
        session_id: Option<String>,
    },
    SessionLost,
}

/// Why there is no answer of the hall.
#[derive(Debug)]
pub(super) struct Trouble {
    /// The HTTP status, which is no code of JSON-RPC's own.
    code: i64,
    pub(super) message: String,
    data: Option<Value>,
    refused: bool,
}

impl Trouble {
    pub(super) fn of_the_bridge(message: &str) -> Self {
        let data = Some(json!({ "error": "ConnectionError" }));
        Self { code: 503, message: message.to_owned(), data, refused: false }
    }

    /// The hall said no, so that asking again is of no use.
    pub(super) fn is_refusal(&self) -> bool {
        self.refused
    }

    pub(super) fn line(&self, id: &Value) -> String {
        error_line(id, self.code, &self.message, self.data.as_ref())
    }

    /// The hall answers in JSON-RPC's form where it can, and in its own where there is no request to answer.
    fn refused(status: StatusCode, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let code = i64::from(status.as_u16());
        if let Some(error) = body.get("error").filter(|error| error.is_object()) {
            let message = error["message"].as_str().unwrap_or("the hall refused this").to_owned();
            let code = error["code"].as_i64().unwrap_or(code);
            return Self { code, message, data: error.get("data").cloned(), refused: true };
        }
        match body["message"].as_str() {
            Some(message) => Self { code, message: message.to_owned(), data: Some(body), refused: true },
            None => {
                let message = format!("the hall answered with HTTP {status}; see that the address is right");
                Self { code, message, data: None, refused: true }
            }
        }
    }
}

#[derive(Clone)]
pub(super) struct Upstream {
    client: reqwest::Client,
    endpoint: Url,
    token: Option<Secret>,
}

impl Upstream {
    pub(super) fn new(endpoint: Url, token: Option<Secret>) -> Result<Self, Failure> {
        Ok(Self { client: hall::client_for_streams(&endpoint, SILENCE_MAX)?, endpoint, token })
    }

    pub(super) async fn post(&self, message: &Message, session: &Now) -> Result<Reply, Trouble> {
        let mut request = self
            .request(Method::POST)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .body(message.text.clone());
        let mut in_session = false;
        if let Some(modern) = &message.modern {
            request = request.header(PROTOCOL_VERSION, &modern.version);
            request = with(request, "Mcp-Method", message.method.as_deref());
            request = with(request, "Mcp-Name", modern.name.as_deref());
        } else if message.kind != Kind::Initialize {
            in_session = session.id.is_some();
            request = in_a_session(request, session);
        }
        let response = self.send(request).await?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND && in_session {
            return Ok(Reply::SessionLost);
        }
        if !status.is_success() {
            return Err(self.refusal(response).await);
        }
        let session_id = response.headers().get(SESSION_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        if status == StatusCode::ACCEPTED {
            return Ok(Reply::Nothing);
        }
        if is_stream(&response) {
            return Ok(Reply::Many { events: events(response), session_id });
        }
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        Ok(if text.trim().is_empty() { Reply::Nothing } else { Reply::One { text, session_id } })
    }

    /// What the hall says by itself, or the rest of an answer, after the event `after`.
    pub(super) async fn listen(&self, session: &Now, after: Option<&str>) -> Result<Events, Trouble> {
        let request = self.request(Method::GET).header(ACCEPT, "text/event-stream");
        let request = with(in_a_session(request, session), "Last-Event-ID", after);
        let response = self.send(request).await?;
        if response.status().is_success() && is_stream(&response) {
            Ok(events(response))
        } else {
            Err(self.refusal(response).await)
        }
    }

    pub(super) async fn end(&self, session: &Now) {
        if let Err(trouble) = self.send(in_a_session(self.request(Method::DELETE), session)).await {
            tracing::debug!("the session was not ended: {}", trouble.message);
        }
    }

    fn request(&self, method: Method) -> RequestBuilder {
        let request = self.client.request(method, self.endpoint.clone());
        let bearer = self.token.as_ref().and_then(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        match bearer {
            Some(bearer) => request.header(AUTHORIZATION, bearer),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Trouble> {
        request.send().await.map_err(|error| self.unreachable(&error))
    }

    async fn refusal(&self, response: Response) -> Trouble {
        let status = response.status();
        match response.bytes().await {
            Ok(body) => Trouble::refused(status, &body),
            Err(error) => self.unreachable(&error),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Trouble {
        let mut hall = self.endpoint.clone();
        hall.set_query(None);
        Trouble::of_the_bridge(hall::unreachable(&hall, error).message())
    }
}

fn in_a_session(request: RequestBuilder, session: &Now) -> RequestBuilder {
    with(with(request, SESSION_ID, session.id.as_deref()), PROTOCOL_VERSION, session.version.as_deref())
}

/// What cannot be a header is left out: the hall then says what it misses.
fn with(request: RequestBuilder, name: &'static str, value: Option<&str>) -> RequestBuilder {
    match value.and_then(|value| HeaderValue::from_str(value).ok()) {
        Some(value) => request.header(name, value),
        None => request,
    }
}

fn is_stream(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.trim_start().starts_with("text/event-stream"))
}

fn events(response: Response) -> Events {
    SseByteStream::new(response.bytes_stream()).boxed()
}
