//! What a generated client calls through.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use guildhall_domain::Result;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Service, service_fn, util::BoxCloneSyncService};

use crate::{
    in_process,
    remote::{Remote, RemoteOptions},
};

/// The way to a service, remote or in process. Cheap to clone; every clone shares its connections.
///
/// Its error is [`Status`], not a boxed error: with that, a spawned call of a generated client would not be `Send`.
#[derive(Clone)]
pub struct Transport {
    way: BoxCloneSyncService<Request<Body>, Response<Body>, Status>,
    in_process: bool,
}

impl Transport {
    /// Calls go round robin over `endpoints`, each `http://host:port`; one that cannot be reached is passed over.
    /// Connects with the first call. Must be made within a tokio runtime.
    pub fn remote<E: AsRef<str>>(endpoints: impl IntoIterator<Item = E>, options: RemoteOptions) -> Result<Self> {
        let remote = Arc::new(Remote::new(endpoints, options)?);
        let way = BoxCloneSyncService::new(service_fn(move |request| {
            let remote = remote.clone();
            async move { remote.send(request).await }
        }));
        Ok(Self { way, in_process: false })
    }

    /// Calls go to `server`, a generated server, each as a part of its caller's task.
    pub fn in_process<S>(server: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        let way = BoxCloneSyncService::new(service_fn(move |request| in_process::send(server.clone(), request)));
        Self { way, in_process: true }
    }

    /// What is put beside a message arrives with it.
    pub fn is_in_process(&self) -> bool {
        self.in_process
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.way.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.way.call(request)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}
