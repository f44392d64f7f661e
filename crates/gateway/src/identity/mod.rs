//! Who calls: settled once for every request, before anything of its body is read.
//!
//! The layer puts the outcome into the request, and whoever needs a caller asks for one: REST handlers by the
//! [`Caller`] extractor, MCP by itself, because it tells errors in its own form. Public routes do not ask.

mod access;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Uri, header, request::Parts},
    middleware::Next,
    response::Response,
};
use guildhall_domain::{
    AccessView, AgentId, Call, Clock, Error, ErrorCode, Principal, PrincipalKind, Result, TenantId, Timestamp,
    TraceContext, principal::roles,
};
use guildhall_guard::{Secret, token};
use moka::sync::Cache;
use tracing::Instrument as _;

pub(crate) use self::access::Access;
use crate::{error::Refusal, heartbeats::Heartbeats};

/// Whose word counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// On loopback only: everyone is an administrator and says by itself which agent it is.
    Open,
    /// Every call carries a token.
    Required,
}

const REGISTRATION_KEY_PREFIX: &str = "ghr_";
pub(crate) const REGISTER_PATH: &str = "/api/v1/agents/register";
/// Tokens judged lately. A token costs one signature check per gateway, not one per call.
const TOKENS_BOUND: u64 = 100_000;
/// How often an open stream's caller is looked at again: well within the 5 s that a revocation has.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A call's time unless the client asks for less.
const CALL_TIME: Duration = Duration::from_secs(30);
/// Longer than any token of the hall.
const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// Whoever makes this request.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) principal: Arc<Principal>,
    pub(crate) trace: TraceContext,
    /// Present on the registration route alone.
    pub(crate) registration_key: Option<Arc<Secret>>,
    /// `None` for a caller of an open hall, and with a registration key.
    token: Option<Arc<str>>,
}

impl Caller {
    /// A call of a port on this caller's behalf.
    pub(crate) fn call(&self) -> Call {
        Call { principal: self.principal.clone(), deadline: Instant::now() + CALL_TIME, trace: self.trace.clone() }
    }
}

type Outcome = std::result::Result<Caller, Arc<Error>>;

pub(crate) struct Identity {
    mode: AuthMode,
    access: Arc<Access>,
    heartbeats: Arc<Heartbeats>,
    clock: Arc<dyn Clock>,
    judged: Cache<Arc<str>, Judged>,
}

/// A token found good, as of one version of the access view.
#[derive(Clone)]
struct Judged {
    token: Arc<str>,
    version: u64,
    principal: Arc<Principal>,
    expires_at: Timestamp,
}

impl Identity {
    pub(crate) fn new(mode: AuthMode, access: Arc<Access>, heartbeats: Arc<Heartbeats>, clock: Arc<dyn Clock>) -> Self {
        let judged = Cache::builder().max_capacity(TOKENS_BOUND).time_to_idle(Duration::from_secs(600)).build();
        Self { mode, access, heartbeats, clock, judged }
    }

    async fn settle(&self, uri: &Uri, headers: &HeaderMap) -> Result<Caller> {
        let trace = trace_of(headers);
        let Some(token) = bearer(headers)?.or(offered_bearer(headers)?) else {
            return match self.mode {
                AuthMode::Open => {
                    let principal = Arc::new(self_named(uri, headers)?);
                    self.check_not_paused(&principal)?;
                    Ok(self.heard(Caller { principal, trace, registration_key: None, token: None }))
                }
                AuthMode::Required => Err(Error::unauthenticated(
                    "this hall asks for a token: send Authorization: Bearer <token>; an agent gets its token when it \
                     registers, an operator from `guildhall token issue`",
                )),
            };
        };
        if token.starts_with(REGISTRATION_KEY_PREFIX) {
            if uri.path() != REGISTER_PATH {
                return Err(Error::unauthenticated(
                    "a registration key is good for POST /api/v1/agents/register alone; use the token that \
                     registering answered with",
                ));
            }
            // The key decides the tenant and the roles; until the registry has looked it up, this is nobody.
            let nobody = Principal::new::<String>(TenantId::default(), PrincipalKind::Service, "registration-key", []);
            let registration_key = Some(Arc::new(Secret::from(token)));
            return Ok(Caller { principal: Arc::new(nobody), trace, registration_key, token: None });
        }
        let judged = self.judge(token).await?;
        Ok(self.heard(Caller { principal: judged.principal, trace, registration_key: None, token: Some(judged.token) }))
    }

    async fn judge(&self, token: &str) -> Result<Judged> {
        let view = self.access.view()?;
        let now = self.clock.now();
        if let Some(judged) = self.judged.get(token)
            && judged.version == view.version
            && now < judged.expires_at
        {
            return Ok(judged);
        }
        let mut version = view.version;
        let mut verdict = token::verify(token, &view, now);
        if verdict == Err(token::Refusal::UnknownKey) {
            // The key may be younger than this replica's view of the keys.
            let knows = |view: &AccessView| token::verify(token, view, now) != Err(token::Refusal::UnknownKey);
            if let Some(view) = self.access.catch_up(knows).await? {
                version = view.version;
                verdict = token::verify(token, &view, now);
            }
        }
        let verified = match verdict {
            Ok(verified) => verified,
            Err(refusal) => {
                self.judged.invalidate(token);
                return Err(refusal.into());
            }
        };
        let judged = Judged {
            token: token.into(),
            version,
            principal: Arc::new(verified.principal),
            expires_at: verified.expires_at,
        };
        self.judged.insert(judged.token.clone(), judged.clone());
        Ok(judged)
    }

    /// With a token this is part of judging it.
    fn check_not_paused(&self, principal: &Principal) -> Result<()> {
        let (Some(agent), Ok(view)) = (principal.agent(), self.access.view()) else { return Ok(()) };
        match view.paused.get(&(principal.tenant.clone(), agent)) {
            Some(reason) => Err(token::Refusal::Paused(reason.clone()).into()),
            None => Ok(()),
        }
    }

    /// Comes when the caller of an open stream is no longer let in.
    pub(crate) async fn shut_out(&self, caller: &Caller) {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            if self.still_let_in(caller).await.is_err() {
                return;
            }
        }
    }

    /// Why the caller of an open stream is no longer let in: its token has expired or was revoked, or its agent paused.
    /// A hall that cannot tell keeps the stream, and refuses the next call.
    pub(crate) async fn still_let_in(&self, caller: &Caller) -> Result<()> {
        let verdict = match &caller.token {
            Some(token) => self.judge(token).await.map(drop),
            None => self.check_not_paused(&caller.principal),
        };
        verdict.or_else(|error| if error.code == ErrorCode::Unavailable { Ok(()) } else { Err(error) })
    }

    /// The agent that a caller of an open hall says it is in what it sends, having not said so before.
    pub(crate) fn self_named(&self, caller: &Principal, id: AgentId) -> Result<Principal> {
        if self.mode != AuthMode::Open || !caller.id.is_empty() {
            return Err(Error::denied(format!(
                "from names {id}, but the sender is always the caller, and you are no agent: use that agent's token"
            )));
        }
        let principal = open_agent(&id);
        self.check_not_paused(&principal)?;
        self.heartbeats.hear(&principal.tenant, id);
        Ok(principal)
    }

    fn heard(&self, caller: Caller) -> Caller {
        if let Some(agent) = caller.principal.agent() {
            self.heartbeats.hear(&caller.principal.tenant, agent);
        }
        caller
    }
}

pub(crate) async fn layer(State(identity): State<Arc<Identity>>, mut request: Request, next: Next) -> Response {
    let outcome: Outcome = identity.settle(request.uri(), request.headers()).await.map_err(Arc::new);
    let span = tracing::Span::current();
    if let Ok(caller) = &outcome {
        span.record("principal", tracing::field::display(&caller.principal.id));
    }
    request.extensions_mut().insert(outcome);
    next.run(request).instrument(span).await
}

/// The caller that the layer found, or why there is none.
pub(crate) fn caller_of(parts: &Parts) -> Result<Caller> {
    match parts.extensions.get::<Outcome>() {
        Some(Ok(caller)) => Ok(caller.clone()),
        Some(Err(error)) => Err(Error::clone(error)),
        None => Err(Error::internal("the request passed no identity layer; this is a fault of the hall, report it")),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Refusal> {
        Ok(caller_of(parts)?)
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Ok(None) };
    let malformed = || Error::unauthenticated("send the token once, as Authorization: Bearer <token>");
    if all.next().is_some() || value.len() > TOKEN_MAX_BYTES {
        return Err(malformed());
    }
    let (scheme, token) = value.to_str().map_err(|_| malformed())?.split_once(' ').ok_or_else(malformed)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(malformed());
    }
    Ok(Some(token))
}

/// A page cannot set headers on the web socket that it opens, but offer protocols: `guildhall, bearer.<token>`. The
/// token is no part of the address, which proxies and histories keep.
fn offered_bearer(headers: &HeaderMap) -> Result<Option<&str>> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let mut tokens = offered
        .flat_map(|value| value.split(','))
        .filter_map(|protocol| protocol.trim().strip_prefix("bearer."))
        .filter(|token| !token.is_empty() && token.len() <= TOKEN_MAX_BYTES);
    match (tokens.next(), tokens.next()) {
        (token, None) => Ok(token),
        _ => Err(Error::unauthenticated("offer one token as a protocol, bearer.<token>, and guildhall beside it")),
    }
}

/// In an open hall the caller names itself: `X-Agent-Id`, or `?agent=` in the address.
fn self_named(uri: &Uri, headers: &HeaderMap) -> Result<Principal> {
    let header = headers.get("x-agent-id").map(|value| value.to_str().unwrap_or("")).map(str::to_owned);
    let named = header.or_else(|| query_value(uri, "agent"));
    Ok(match named {
        Some(id) => open_agent(&AgentId::new(id)?),
        None => Principal::new(TenantId::default(), PrincipalKind::Person, "", [roles::ADMIN]),
    })
}

fn open_agent(id: &AgentId) -> Principal {
    Principal::new(TenantId::default(), PrincipalKind::Agent, id.as_str(), [roles::ADMIN, roles::AGENT])
}

pub(crate) fn query_value(uri: &Uri, key: &str) -> Option<String> {
    url::form_urlencoded::parse(uri.query()?.as_bytes())
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.into_owned())
}

pub(crate) fn trace_of(headers: &HeaderMap) -> TraceContext {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    TraceContext { traceparent: text("traceparent"), tracestate: text("tracestate") }
}
