//! The door of the hall: the only service that speaks MCP to agents, with REST beside it.
//!
//! One request's way, and the files in its order:
//! [`door`] (counted, traced, `Host` and `Origin`) → [`identity`] (who calls) → [`rest`] or [`mcp`] (the body, the
//! rate by [`limits`], what is asked) → [`tools`] or [`resources`] → a port of another service, by way of [`hall`].
//! [`error`] says what went wrong in the words of each protocol. [`heartbeats`] are gathered on the way.
//!
//! Mail at every door: what is sent is a [`letter`]; [`mail`], [`requests`] and [`events`] hold what REST and tools do
//! alike. What was taken is acknowledged by [`handover`] once its answer has been written; what still waits stands
//! beside other answers by [`unread`].
//!
//! Nothing here must last: sessions are kept in the hot store for any replica, everything else can be read again.

mod door;
mod error;
mod events;
mod hall;
mod handover;
mod heartbeats;
mod identity;
mod letter;
mod limits;
mod mail;
mod mcp;
mod pace;
mod requests;
mod resources;
mod rest;
mod socket;
mod tools;
mod unread;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRequestParts as _, Request, State},
    middleware::{self, Next},
    response::IntoResponse as _,
    routing::get,
};
use guildhall_domain::{
    Clock,
    ports::{AgentRegistry, Bus, Hot, Mail, Topics, bus::NodeName, hot::Rate},
};
use guildhall_guard::{
    audit::recorder::{self, Recorder, RecorderOptions},
    policy::Policy,
    token,
};
use guildhall_runtime::{Health, Metrics, admin};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::catch_panic::CatchPanicLayer;

pub use self::{door::Admission, identity::AuthMode, pace::Pace};
use self::{
    error::Refusal,
    hall::Hall,
    heartbeats::Heartbeats,
    identity::{Access, Caller, Identity},
    limits::Limits,
    mcp::McpDoor,
    tools::ToolRouter,
    unread::UnreadCounts,
};

pub struct Options {
    pub registry: Arc<dyn AgentRegistry>,
    pub mail: Arc<dyn Mail>,
    pub topics: Arc<dyn Topics>,
    /// This process, as other gateways reach it over the bus.
    pub node: NodeName,
    pub hot: Arc<dyn Hot>,
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<dyn Clock>,
    pub policy: Arc<Policy>,
    pub mode: AuthMode,
    pub admission: Admission,
    pub rate: Rate,
    pub max_sessions: usize,
    /// Live sockets that this gateway holds at most; [`SOCKETS_MAX`] is what its memory is meant for.
    pub max_sockets: usize,
    pub session_idle: Duration,
    pub health: Health,
    pub metrics: Metrics,
}

/// Each costs some 12 KB, and what its client has not read or acknowledged: 250 MB and more.
pub const SOCKETS_MAX: usize = 20_000;

/// Work in the background that ends when the token it was given is cancelled.
pub type Task = (&'static str, Pin<Box<dyn Future<Output = ()> + Send>>);

pub struct Gateway {
    /// Serves every listener alike.
    pub router: Router,
    /// Each must run as long as the gateway does.
    pub tasks: Vec<Task>,
}

impl Gateway {
    /// `stop`: the gateway is to stop; it lets answers finish and ends its streams. `drained`: its listeners have
    /// served their last request, so that what was gathered on the way can be sent on.
    pub fn new(options: Options, stop: &CancellationToken, drained: &CancellationToken) -> Self {
        Self::with_pace(options, Pace::default(), stop, drained)
    }

    pub fn with_pace(options: Options, pace: Pace, stop: &CancellationToken, drained: &CancellationToken) -> Self {
        let Options {
            registry,
            mail,
            topics,
            node,
            hot,
            bus,
            clock,
            policy,
            mode,
            admission,
            rate,
            max_sessions,
            max_sockets,
            session_idle,
            health,
            metrics,
        } = options;
        let access = Arc::new(Access::new(registry.clone(), health.component("access", "agent-registry")));
        let heartbeats = Arc::new(Heartbeats::new(registry.clone(), clock.clone()));
        let (recorder, recording) = Recorder::new(RecorderOptions::new("gateway"), clock.clone());
        let to_registry = recorder::to_registry(registry.clone(), "gateway");
        let identity = Arc::new(Identity::new(mode, access.clone(), heartbeats.clone(), clock.clone()));
        let hall = Arc::new(Hall {
            identity: identity.clone(),
            limits: Limits::new(hot.clone(), rate),
            registry,
            unread: Arc::new(UnreadCounts::new(mail.clone(), clock.clone())),
            mail,
            topics,
            node,
            hot,
            bus: bus.clone(),
            policy,
            clock: clock.clone(),
            heartbeats: heartbeats.clone(),
            tools: ToolRouter::of_the_hall(),
            session_idle,
            pace,
            recorder,
            agents_changed: hall::changes(),
            mail_waiting: hall::changes(),
            settlings: TaskTracker::new(),
            stopping: stop.clone(),
        });
        let settlings = hall.settlings.clone();
        let mcp = Arc::new(McpDoor::new(hall.clone(), max_sessions));
        let (sockets, socket_tasks) = socket::Door::new(hall.clone(), max_sockets, stop, drained);

        let router = rest::router(hall.clone())
            .merge(mcp::router(mcp.clone()))
            .merge(socket::router(sockets.clone()))
            .merge(public(access.clone(), clock, health, metrics))
            .layer(middleware::from_fn_with_state(identity, identity::layer))
            .layer(middleware::from_fn_with_state(Arc::new(admission), door::admit))
            .layer(CatchPanicLayer::custom(door::on_panic))
            .layer(middleware::from_fn(door::observe));

        let mut tasks: Vec<Task> = vec![
            ("gateway.access", Box::pin(access.keep_fresh(drained.clone()))),
            ("gateway.heartbeats", Box::pin(heartbeats.keep_flushing(drained.clone()))),
            ("gateway.fellows", Box::pin(mcp.clone().heed_fellows(bus, stop.clone()))),
            ("gateway.changes", Box::pin(hall::follow_changes(hall, sockets, stop.clone()))),
            ("gateway.sessions", Box::pin(mcp.tend(stop.clone()))),
            ("gateway.settlings", Box::pin(hall::settle_last(settlings, drained.clone()))),
            ("gateway.audit", Box::pin(recording.run(to_registry, drained.clone().cancelled_owned()))),
        ];
        tasks.extend(socket_tasks);
        Self { router, tasks }
    }
}

/// Routes that ask for no caller, and `/metrics`, which asks for any: figures tell much about who works on what.
fn public(access: Arc<Access>, clock: Arc<dyn Clock>, health: Health, metrics: Metrics) -> Router {
    let jwks = get(|State(access): State<Arc<Access>>| async move {
        match access.view() {
            Ok(view) => Json(token::jwks(&view, clock.now())).into_response(),
            Err(error) => Refusal(error).into_response(),
        }
    });
    let guarded = middleware::from_fn(|request: Request, next: Next| async move {
        let (mut parts, body) = request.into_parts();
        if parts.uri.path() == "/metrics"
            && let Err(refusal) = Caller::from_request_parts(&mut parts, &()).await
        {
            return refusal.into_response();
        }
        next.run(Request::from_parts(parts, body)).await
    });
    Router::new()
        .route("/.well-known/jwks.json", jwks)
        .with_state(access)
        .merge(admin::router(health, metrics).layer(guarded))
}
