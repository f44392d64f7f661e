//! `/mcp`: MCP over Streamable HTTP, old clients with sessions and new ones without on the same path.
//!
//! A message's way: identity (already settled by the layer) → the body is read whole, within its bounds → its
//! envelope is looked at once, for method and id → rate → session → rmcp, which speaks the protocol → [`handler`].
//! What is refused on the way is an HTTP status and a JSON-RPC error.

mod as_it_came;
mod batch;
mod fellows;
mod handler;
mod log;
mod progress;
mod sessions;
mod tasks;
mod watch;

use std::{borrow::Cow, cell::Cell, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::any,
};
use bytes::Bytes;
use futures::StreamExt as _;
use guildhall_domain::{Error, ErrorCode};
use http_body_util::{BodyExt as _, Full};
use rmcp::{
    model::{ErrorCode as rpc, ErrorData, RequestId},
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde::Deserialize;
use serde_json::{error::Category, json, value::RawValue};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    as_it_came::AsItCame,
    fellows::{Watchers, subject},
    handler::McpHandler,
    sessions::{Sessions, session_id},
    watch::Watched,
};
use crate::{
    error::rpc_refusal,
    hall::Hall,
    handover::Handover,
    identity::{Caller, caller_of},
    rest::{Weight, body},
    tools::ToolRouter,
};

tokio::task_local! {
    /// What the handler watches that rmcp makes while it serves this request.
    static MADE: Cell<Option<Arc<Watched>>>;
}

/// Keeps proxies from closing a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) struct McpDoor {
    hall: Arc<Hall>,
    sessions: Arc<Sessions>,
    manager: Arc<LocalSessionManager>,
    watchers: Watchers,
    service: StreamableHttpService<McpHandler, LocalSessionManager>,
    /// Answers on their way, streamed ones too; not the streams that last as long as their client.
    answering: TaskTracker,
    /// Ends every session and stream.
    over: CancellationToken,
}

/// How long answers that are on their way may take when the gateway stops.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

impl McpDoor {
    pub(crate) fn new(hall: Arc<Hall>, max_sessions: usize) -> Self {
        let over = CancellationToken::new();
        let sessions = Arc::new(Sessions::new(hall.hot.clone(), max_sessions, hall.session_idle));
        let mut manager = LocalSessionManager::default();
        manager.session_config.keep_alive = Some(hall.session_idle);
        let manager = Arc::new(manager);
        let mut config = StreamableHttpServerConfig::default()
            // Host and Origin are checked for every path by the layer in front.
            .disable_allowed_hosts()
            .with_json_response(true)
            .with_sse_keep_alive(Some(KEEP_ALIVE))
            .with_max_request_body_bytes(body::BODY_MAX_BYTES)
            .with_cancellation_token(over.clone());
        config.session_store = Some(sessions.clone());
        let handlers = hall.clone();
        let handler = move || {
            let watched = Arc::new(Watched::new(handlers.clone()));
            // Only a request that makes or brings back a session has someone waiting for it.
            let _ = MADE.try_with(|made| made.set(Some(watched.clone())));
            Ok(McpHandler::new(handlers.clone(), watched))
        };
        let service = StreamableHttpService::new(handler, manager.clone(), config);
        Self { hall, sessions, manager, watchers: Watchers::default(), service, answering: TaskTracker::new(), over }
    }

    /// Forgets silent sessions while the gateway runs. When it stops, lets the answers that are on their way finish,
    /// then ends the streams, which would otherwise hold the listeners for ever.
    pub(crate) async fn tend(self: Arc<Self>, stop: CancellationToken) {
        self.sessions.clone().sweep(stop).await;
        self.answering.close();
        if tokio::time::timeout(LAST_ANSWERS, self.answering.wait()).await.is_err() {
            tracing::warn!(answers = self.answering.len(), "cut off answers that took too long while stopping");
        }
        self.over.cancel();
    }
}

pub(crate) fn router(door: Arc<McpDoor>) -> Router {
    Router::new().route("/mcp", any(enter)).with_state(door)
}

/// All that must be known of a message before the protocol looks at it. Everything else stays as it came.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// Of a tool's call: which tool it is.
#[derive(Deserialize)]
struct Called<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ErrorData> {
        let refused = |code, what: &str| ErrorData::new(code, what.to_owned(), None);
        // A batch within a batch would be taken for the fields in their order.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(refused(rpc::INVALID_REQUEST, "the message is not one of JSON-RPC 2.0"));
        }
        let envelope: Self = serde_json::from_slice(bytes).map_err(|fault| match fault.classify() {
            Category::Data => refused(rpc::INVALID_REQUEST, "the message is not one of JSON-RPC 2.0"),
            _ => refused(rpc::PARSE_ERROR, &format!("the message is not JSON: {fault}")),
        })?;
        let id_fits = envelope.id.is_none_or(|id| serde_json::from_str::<RequestId>(id.get()).is_ok());
        match envelope.jsonrpc.as_deref() {
            Some("2.0") if id_fits => Ok(envelope),
            Some("2.0") => {
                Err(refused(rpc::INVALID_REQUEST, "the message's id is neither a string nor a whole number"))
            }
            _ => Err(refused(
                rpc::INVALID_REQUEST,
                "the message is not one of JSON-RPC 2.0: it lacks \"jsonrpc\": \"2.0\"",
            )),
        }
    }

    fn id(&self) -> Option<RequestId> {
        self.id.and_then(|id| serde_json::from_str(id.get()).ok())
    }

    fn method(&self) -> &str {
        self.method.as_deref().unwrap_or_default()
    }

    /// Handshakes, lists of the protocol, notifications, answers and acknowledgements are free: contract section 3.
    fn counts(&self, tools: &ToolRouter) -> bool {
        match self.method() {
            "tools/call" => {
                let called = self.params.and_then(|params| serde_json::from_str::<Called<'_>>(params.get()).ok());
                let tool = called.and_then(|called| tools.known(&called.name));
                tool.is_none_or(|tool| tool.weight() == Weight::Counts)
            }
            "resources/read" | "prompts/get" | "completion/complete" => true,
            "tasks/get" | "tasks/update" | "tasks/cancel" => true,
            _ => false,
        }
    }
}

const JSON_TYPE: &[u8] = b"application/json";

fn malformed(error: ErrorData, id: Option<RequestId>) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({"jsonrpc": "2.0", "id": id, "error": error}))).into_response()
}

async fn enter(State(door): State<Arc<McpDoor>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let caller = match caller_of(&parts) {
        Ok(caller) if caller.registration_key.is_none() => caller,
        Ok(_) => return rpc_refusal(&Error::unauthenticated("a registration key opens no MCP session"), None),
        Err(error) => return rpc_refusal(&error, None),
    };
    match parts.method {
        Method::POST => door.post(caller, parts, body).await,
        _ => door.other(caller, parts).await,
    }
}

impl McpDoor {
    async fn post(&self, caller: Caller, parts: Parts, body: Body) -> Response {
        let bytes = match body::read(body, body::BODY_MAX_BYTES).await {
            Ok(bytes) => bytes,
            Err(error) => return rpc_refusal(&error, None),
        };
        let handover = Handover::default();
        let response = match bytes.trim_ascii_start().first() {
            Some(b'[') => self.batch(caller, parts, bytes, &handover).await,
            _ => self.one(caller, parts, bytes, &handover).await,
        };
        handover.with(response)
    }

    async fn one(&self, caller: Caller, mut parts: Parts, bytes: Bytes, handover: &Handover) -> Response {
        let envelope = match Envelope::read(&bytes) {
            Ok(envelope) => envelope,
            Err(error) => return malformed(error, None),
        };
        if envelope.counts(&self.hall.tools)
            && let Err(error) = self.hall.limits.pass(&caller.principal).await
        {
            return rpc_refusal(&error, envelope.id());
        }
        let opens = envelope.method() == "initialize" && session_id(&parts.headers).is_none();
        let admitted = if opens { self.admit(&caller).await } else { self.check(&caller, &parts).await };
        if let Err(error) = admitted {
            return rpc_refusal(&error, envelope.id());
        }
        let lasting = envelope.method() == "subscriptions/listen";
        let answering = (!lasting).then(|| self.answering.token());
        let is_json =
            parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(JSON_TYPE));
        parts.extensions.insert(AsItCame { message: bytes.clone(), handover: handover.clone() });
        let response = self.serve(parts, bytes.clone()).await;
        // What the protocol layer cannot read it answers in plain text, as if the content type were wrong.
        if is_json && response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            let what = format!("the parameters do not fit {:?}", envelope.method());
            return malformed(ErrorData::invalid_params(what, None), envelope.id());
        }
        // Held by the body until its last frame has been taken.
        let response = response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _ = &answering;
                frame
            }))
        });
        if opens && let Some(id) = session_id(response.headers()) {
            self.sessions.opened(id, &caller.principal).await;
        }
        response
    }

    /// GET opens a session's stream, DELETE ends the session; rmcp refuses the rest.
    async fn other(&self, caller: Caller, parts: Parts) -> Response {
        if let Err(error) = self.check(&caller, &parts).await {
            return rpc_refusal(&error, None);
        }
        let ends = (parts.method == Method::DELETE).then(|| session_id(&parts.headers).map(str::to_owned)).flatten();
        let response = self.serve(parts, Bytes::new()).await;
        // A stream ends with its caller's right to it.
        let (hall, watched) = (self.hall.clone(), caller.clone());
        let shut_out = async move { hall.identity.shut_out(&watched).await };
        let response = response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(shut_out))));
        if let Some(id) = ends
            && response.status().is_success()
        {
            self.end(&caller, &id).await;
        }
        response
    }

    /// Ends a session here, in the hot store, and on every other replica that has it.
    async fn end(&self, caller: &Caller, id: &str) {
        self.sessions.closed(id).await;
        self.end_here(id).await;
        self.hall.tell_gateways(&caller.call(), subject::SESSION_CLOSED, id).await;
    }

    async fn serve(&self, parts: Parts, bytes: Bytes) -> Response {
        let asked = session_id(&parts.headers).map(str::to_owned);
        let request = Request::from_parts(parts, Full::new(bytes));
        let (response, made) = MADE
            .scope(Cell::new(None), async {
                let response = self.service.handle(request).await.map(Body::new);
                (response, MADE.with(Cell::take))
            })
            .await;
        if let Some(watched) = made
            && let Some(session) = asked.as_deref().or(session_id(response.headers()))
        {
            self.watchers.note(session, &watched);
            watched.reload(session).await;
        }
        let mut response = response;
        // Proxies must hand events on as they come.
        response.headers_mut().insert("x-accel-buffering", header::HeaderValue::from_static("no"));
        response
    }

    async fn admit(&self, caller: &Caller) -> Result<(), Error> {
        for id in self.sessions.make_room(&caller.principal)? {
            tracing::info!(session = %id, "closed a principal's oldest session: it has too many");
            self.end(caller, &id).await;
        }
        Ok(())
    }

    async fn check(&self, caller: &Caller, parts: &Parts) -> Result<(), Error> {
        let Some(id) = session_id(&parts.headers) else { return Ok(()) };
        if self.sessions.belongs(id, &caller.principal).await? {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::NotFound,
            "there is no such session (it may have ended); begin again with initialize",
        ))
    }
}
