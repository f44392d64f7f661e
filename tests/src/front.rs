//! The one address in front of several gateways: every request goes to the next gateway, whoever sent it, so that
//! nothing can rely on meeting the same one again. Bodies stream both ways, and what becomes a WebSocket stays with its
//! gateway.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

type Body = BoxBody<Bytes, hyper::Error>;

pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Front {
    pub(crate) async fn before(gateways: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let turn = Arc::new(AtomicUsize::new(0));
        let serving = tokio::spawn(async move {
            // Dropped with this task, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let (gateways, turn) = (gateways.clone(), turn.clone());
                let service = service_fn(move |request| {
                    let first = turn.fetch_add(1, Ordering::Relaxed);
                    forward(request, gateways.clone(), first)
                });
                connections.spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // A client that goes away in the middle is its own affair.
                    let _ = server.serve_connection_with_upgrades(TokioIo::new(connection), service).await;
                });
            }
        });
        Self { address, serving }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// To the first gateway from `first` on that takes a connection, as a balancer with health checks would.
async fn forward(
    mut request: Request<Incoming>,
    gateways: Vec<SocketAddr>,
    first: usize,
) -> hyper::Result<Response<Body>> {
    for step in 0..gateways.len() {
        let Ok(connection) = TcpStream::connect(gateways[(first + step) % gateways.len()]).await else { continue };
        let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
        // It ends with the last of request and answer.
        tokio::spawn(driver.with_upgrades());
        let near = hyper::upgrade::on(&mut request);
        let mut answer = sender.send_request(request).await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let far = hyper::upgrade::on(&mut answer);
            tokio::spawn(async move {
                let (Ok(near), Ok(far)) = tokio::join!(near, far) else { return };
                // One side that goes away ends both.
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
            });
        }
        return Ok(answer.map(BodyExt::boxed));
    }
    let mut nobody =
        Response::new(Full::new(Bytes::from("no gateway takes a connection")).map_err(|e| match e {}).boxed());
    *nobody.status_mut() = StatusCode::BAD_GATEWAY;
    Ok(nobody)
}
