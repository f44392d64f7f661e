//! Calls over HTTP/2 to the replicas of a service: round robin, and past those that cannot be reached.

use std::{
    error::Error as StdError,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use guildhall_domain::{Error, Result};
use guildhall_runtime::{listener::HEADER_LIST_MAX_BYTES, telemetry};
use http::{HeaderValue, Request, Response};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout_at;
use tonic::{
    Status, TimeoutExpired,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::ServiceExt;
use tracing::Instrument;

use crate::{CLUSTER_HEADER, call, request_body::RequestBody, response_body::ResponseBody, status::to_status};

/// An endpoint that could not be reached is asked last for so long: one lost attempt a second, not one a call.
const REST: Duration = Duration::from_secs(1);
/// A ping this often on a connection in use; without an answer in [`KEEP_ALIVE_TIMEOUT`] the connection is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// What errors and logs call the other side: `agent-registry`.
    pub service: String,
    /// The secret that the other side's listener asks for.
    pub cluster_secret: Option<SecretString>,
    /// Long enough for a busy machine in the same data centre, short enough to try another endpoint after it.
    pub connect_timeout: Duration,
}

impl RemoteOptions {
    pub fn new(service: impl Into<String>) -> Self {
        Self { service: service.into(), cluster_secret: None, connect_timeout: Duration::from_secs(2) }
    }
}

pub(crate) struct Remote {
    service: Arc<str>,
    peers: Vec<Peer>,
    next: AtomicUsize,
    cluster_secret: Option<HeaderValue>,
}

struct Peer {
    address: String,
    channel: Channel,
    /// Set while it cannot be reached.
    rests_until: Mutex<Option<Instant>>,
}

impl Remote {
    pub(crate) fn new<E: AsRef<str>>(endpoints: impl IntoIterator<Item = E>, options: RemoteOptions) -> Result<Self> {
        let service = options.service;
        let peers = endpoints
            .into_iter()
            .map(|address| Peer::new(&service, address.as_ref(), options.connect_timeout))
            .collect::<Result<Vec<_>>>()?;
        if peers.is_empty() {
            return Err(Error::invalid(format!("{service} has no endpoints: name at least one as http://host:port")));
        }
        let cluster_secret = options.cluster_secret.map(|secret| secret_header(&secret)).transpose()?;
        Ok(Self { service: service.into(), peers, next: AtomicUsize::new(0), cluster_secret })
    }

    pub(crate) async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let deadline = call::deadline(request.headers());
        if let Some(secret) = &self.cluster_secret {
            request.headers_mut().insert(CLUSTER_HEADER, secret.clone());
        }
        let path = request.uri().path().trim_start_matches('/');
        let span = tracing::info_span!(
            "rpc.client",
            otel.name = path,
            otel.kind = "client",
            rpc.system.name = "grpc",
            rpc.method = path
        );
        let own = telemetry::trace_of(&span);
        if !own.traceparent.is_empty() {
            call::write_trace(request.headers_mut(), &own);
        }
        let response = timeout_at(deadline.into(), self.send_to_any(request)).instrument(span).await;
        let response = response.unwrap_or_else(|_elapsed| Err(too_late(&self.service)))?;
        Ok(response.map(|body| ResponseBody::until(deadline, body, self.service.clone())))
    }

    /// A call that no endpoint has begun to take goes to the next one. Any other failure ends it here: it is not
    /// known whether it took effect.
    async fn send_to_any(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let body = RequestBody::new(body);
        for peer in self.in_turn() {
            let attempt = Request::from_parts(parts.clone(), body.lend());
            match peer.channel.clone().oneshot(attempt).await {
                Ok(response) => {
                    peer.answered(&self.service);
                    return Ok(response);
                }
                Err(error) if chain(&error).any(|e| e.is::<TimeoutExpired>()) => return Err(too_late(&self.service)),
                Err(error) if body.is_untouched() => peer.could_not_be_reached(&self.service, &error),
                Err(error) => return Err(body.failure().unwrap_or_else(|| lost(&self.service, &error))),
            }
        }
        let service = &self.service;
        Err(to_status(Error::unavailable(format!(
            "{service} cannot be reached at any of its {} endpoints; nothing was done, repeat the call later",
            self.peers.len()
        ))))
    }

    /// Every endpoint once: those at rest last, each group from the next in turn.
    fn in_turn(&self) -> Vec<&Peer> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.peers.len();
        let (later, sooner) = self.peers.split_at(first);
        let now = Instant::now();
        let mut order: Vec<_> = sooner.iter().chain(later).collect();
        order.sort_by_key(|peer| peer.rests_until.lock().is_some_and(|until| until > now));
        order
    }
}

impl Peer {
    fn new(service: &str, address: &str, connect_timeout: Duration) -> Result<Self> {
        let endpoint = Endpoint::from_shared(address.to_owned())
            .ok()
            .filter(|endpoint| endpoint.uri().scheme_str() == Some("http") && endpoint.uri().host().is_some())
            .ok_or_else(|| {
                Error::invalid(format!("{address:?} is not an endpoint of {service}: write it as http://host:port"))
            })?;
        let channel = endpoint
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .http2_max_header_list_size(HEADER_LIST_MAX_BYTES)
            .connect_lazy();
        Ok(Self { address: address.to_owned(), channel, rests_until: Mutex::new(None) })
    }

    fn answered(&self, service: &str) {
        if self.rests_until.lock().take().is_some() {
            tracing::info!(
                rpc.service = service,
                server.address = self.address,
                "{service} at {} is back",
                self.address
            );
        }
    }

    fn could_not_be_reached(&self, service: &str, error: &(dyn StdError + 'static)) {
        let known = self.rests_until.lock().replace(Instant::now() + REST).is_some();
        if !known {
            let reason = chain(error).last().map(ToString::to_string).unwrap_or_default();
            let address = &self.address;
            tracing::warn!(
                rpc.service = service,
                server.address = address,
                "{service} at {address} cannot be reached: {reason}"
            );
        }
    }
}

fn secret_header(secret: &SecretString) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(secret.expose_secret())
        .map_err(|_| Error::invalid("cluster.secret may hold only printable ASCII characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

pub(crate) fn too_late(service: &str) -> Status {
    to_status(Error::timeout(format!(
        "{service} did not answer by the call's deadline; it is not known whether the call took effect"
    )))
}

/// The connection failed after the message had begun to leave.
pub(crate) fn lost(service: &str, error: &(dyn StdError + 'static)) -> Status {
    let reason = chain(error).last().map(ToString::to_string).unwrap_or_default();
    tracing::debug!(rpc.service = service, "connection to {service} lost during a call: {reason}");
    to_status(Error::timeout(format!(
        "the connection to {service} was lost before it answered; it is not known whether the call took effect"
    )))
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
