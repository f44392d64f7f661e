//! The listener of a service: HTTP/2 with gRPC, for other services of the same hall only.

use std::convert::Infallible;

use guildhall_domain::{Error, Result};
use guildhall_runtime::{Listener, Shutdown};
use http::{Request, Response};
use hyper::body::Incoming;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tonic::body::Body;
use tower::{Service, service_fn};

use crate::{CLUSTER_HEADER, answer::answer, status::to_status};

#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// Callers must know it. Without one, only a loopback address is served: whoever reaches this port is believed
    /// when it says for whom it calls.
    pub cluster_secret: Option<SecretString>,
}

/// Serves `server`, a generated server, until the shutdown; calls in flight are finished first.
pub async fn serve<S>(listener: Listener, server: S, options: ServeOptions, shutdown: &Shutdown) -> Result<()>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let address = listener.address();
    if options.cluster_secret.is_none() && !address.ip().is_loopback() {
        return Err(Error::invalid(format!(
            "refusing to serve gRPC on {address} without cluster.secret: anyone who reaches it could act for anyone; \
             set cluster.secret, or listen on 127.0.0.1"
        )));
    }
    let secret = options.cluster_secret;
    let service = service_fn(move |request: Request<Incoming>| {
        let admitted = is_of_this_hall(secret.as_ref(), &request);
        let server = server.clone();
        async move {
            let answer = if admitted { answer(server, request.map(Body::new)).await } else { refusal().into_http() };
            Ok::<_, Infallible>(answer)
        }
    });
    listener.serve(service, shutdown).await;
    Ok(())
}

/// Compared in constant time, so that the secret cannot be guessed byte by byte.
fn is_of_this_hall<B>(secret: Option<&SecretString>, request: &Request<B>) -> bool {
    let Some(secret) = secret else { return true };
    let said = request.headers().get(CLUSTER_HEADER).map_or(&[][..], |value| value.as_bytes());
    said.ct_eq(secret.expose_secret().as_bytes()).into()
}

fn refusal() -> tonic::Status {
    to_status(Error::unauthenticated(
        "this port is for services of the hall: give the caller the same cluster.secret as this service",
    ))
}
