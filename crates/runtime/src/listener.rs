//! An address the process answers on: binding it, and serving HTTP on it without letting slow or idle clients
//! use the process up.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::extract::ConnectInfo;
use bytes::Bytes;
use guildhall_domain::{Error, Result};
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::task::TaskTracker;
use tower::{BoxError, Service, ServiceExt};

use crate::Shutdown;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;
/// Open connections of one listener; above it, new ones wait in the kernel. Each costs some 20 KiB.
const CONNECTIONS_MAX: usize = 8 * 1024;
/// A client that needs longer to say what it wants holds a connection for nothing.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes in nothing for so long, though there is something to send, is cut: HTTP polls no body while its
/// buffer is full, so that nobody above would notice.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);
/// HTTP/2 connections are asked this often whether anyone is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The kernel's probe of a connection on which nothing moves; its own default is two hours.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Requests side by side on one HTTP/2 connection.
const STREAMS_MAX: u32 = 1024;
/// HTTP/2 libraries default to 16 KiB, too little for the details of an error between services.
pub const HEADER_LIST_MAX_BYTES: u32 = 64 * 1024;
/// Accepting fails when file handles run out; to try again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    patience: Patience,
    connections_max: usize,
}

/// How long a client may need.
#[derive(Debug, Clone, Copy)]
struct Patience {
    header: Duration,
    unread: Duration,
}

impl Listener {
    /// `setting` names what chooses the address, for the error: `gateway.listen or --listen`.
    pub fn bind(address: SocketAddr, setting: &str) -> Result<Self> {
        let bound = bind(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (address, socket) = bound.map_err(|error| explain(address, setting, &error))?;
        let patience = Patience { header: HEADER_TIMEOUT, unread: UNREAD_TIMEOUT };
        Ok(Self { socket, address, patience, connections_max: CONNECTIONS_MAX })
    }

    /// The address it is bound to: with the port that was found when port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers HTTP/1.1 and HTTP/2, upgrades included, with `service`, an axum `Router` for example. Handlers find the
    /// peer's address as `ConnectInfo<SocketAddr>`. Ends when the shutdown has begun and the last connection is done,
    /// or is out of time.
    pub async fn serve<S, B>(self, service: S, shutdown: &Shutdown)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let connections = TaskTracker::new();
        let room = Room::new(self.connections_max, self.address);
        loop {
            let (place, accepted) = tokio::select! {
                () = shutdown.soft().cancelled() => break,
                next = async { (room.place().await, self.socket.accept().await) } => next,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = serve_connection(stream, peer, service.clone(), self.patience, shutdown.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                // The client went away while it waited.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!("cannot accept connections on {}: {error}", self.address);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.socket);
        connections.close();
        connections.wait().await;
    }
}

/// The places for connections.
struct Room {
    places: Arc<Semaphore>,
    max: usize,
    address: SocketAddr,
    /// That it is full is said once, until a quarter is free again.
    said_full: AtomicBool,
}

impl Room {
    fn new(max: usize, address: SocketAddr) -> Self {
        Self { places: Arc::new(Semaphore::new(max)), max, address, said_full: AtomicBool::new(false) }
    }

    /// Waits until one is free. It is given back when it is dropped.
    async fn place(&self) -> OwnedSemaphorePermit {
        let free = self.places.available_permits();
        if free == 0 && !self.said_full.swap(true, Ordering::Relaxed) {
            tracing::warn!("{} has {} open connections, its most: new ones wait", self.address, self.max);
        } else if free > self.max / 4 {
            self.said_full.store(false, Ordering::Relaxed);
        }
        self.places.clone().acquire_owned().await.expect("the semaphore is never closed")
    }
}

async fn serve_connection<S, B>(stream: TcpStream, peer: SocketAddr, service: S, patience: Patience, shutdown: Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    // Answers are small and awaited: to gather them into fuller packets only delays them.
    let _ = stream.set_nodelay(true);
    // A peer that vanished without a word would otherwise keep a long stream open for ever.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEP_ALIVE));
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(patience.unread));
    let asked = Arc::new(AtomicBool::new(false));
    let ask = asked.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        ask.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(peer));
        service.clone().oneshot(request)
    });

    let builder = builder(patience.header);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    // hyper's own header time-out begins only once it knows which HTTP is spoken, and HTTP/2 has none.
    let mut first_request = pin!(tokio::time::sleep(patience.header));
    let (mut waits_for_request, mut leaving) = (true, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(client.address = %peer, "connection ended: {error}");
                }
                return;
            }
            () = &mut first_request, if waits_for_request => {
                if !asked.load(Ordering::Relaxed) {
                    tracing::debug!(client.address = %peer, "no request in time: connection closed");
                    return;
                }
                waits_for_request = false;
            }
            () = shutdown.soft().cancelled(), if !leaving => {
                connection.as_mut().graceful_shutdown();
                leaving = true;
            }
            () = shutdown.hard().cancelled() => return,
        }
    }
}

fn builder(header_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_MAX_BYTES);
    builder
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restart finds the port free although connections of the process before are still being wound up.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn explain(address: SocketAddr, setting: &str, error: &io::Error) -> Error {
    let (ip, port) = (address.ip(), address.port());
    match error.kind() {
        io::ErrorKind::AddrInUse => Error::unavailable(format!(
            "port {port} on {ip} is taken by another program: stop that program, or choose another port with {setting}"
        )),
        io::ErrorKind::PermissionDenied => {
            Error::denied(format!("this user may not listen on port {port}: choose one above 1023 with {setting}"))
        }
        io::ErrorKind::AddrNotAvailable => {
            Error::invalid(format!("{ip} is not an address of this machine: choose another with {setting}"))
        }
        _ => Error::internal(format!("cannot listen on {address}: {error}; choose another address with {setting}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{Router, routing::get};
    use futures::future::join_all;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const GET: &[u8] = b"GET /who HTTP/1.1\r\nhost: hall\r\nconnection: close\r\n\r\n";
    const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const HTTP2_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

    /// A listener that answers, and gives a client so long for its header.
    fn serve(header_timeout: Duration) -> (SocketAddr, Shutdown, Arc<AtomicUsize>) {
        let mut listener = Listener::bind(([127, 0, 0, 1], 0).into(), "test").unwrap();
        listener.patience = Patience { header: header_timeout, unread: Duration::from_secs(1) };
        listener.connections_max = 8;
        let (address, shutdown) = (listener.address(), Shutdown::with_grace(Duration::from_millis(1_200)));
        let asked = Arc::new(AtomicUsize::new(0));
        let (slow, never, endless) = (asked.clone(), asked.clone(), asked.clone());
        let router = Router::new()
            .route("/who", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
            .route(
                "/slow",
                get(async move || {
                    slow.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }),
            )
            .route(
                "/endless",
                get(async move || {
                    let chunk = move |()| {
                        endless.fetch_add(1, Ordering::Relaxed);
                        std::future::ready(Some((Ok::<_, io::Error>(Bytes::from(vec![b'x'; 64 * 1024])), ())))
                    };
                    axum::body::Body::from_stream(futures::stream::unfold((), chunk))
                }),
            )
            .route(
                "/never",
                get(async move || {
                    never.fetch_add(1, Ordering::Relaxed);
                    std::future::pending::<()>().await;
                }),
            );
        let until = shutdown.clone();
        tokio::spawn(async move { listener.serve(router, &until).await });
        (address, shutdown, asked)
    }

    const PATIENT: Duration = Duration::from_secs(60);

    async fn everything_after(address: SocketAddr, sent: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer));
        read.await.expect("the connection stays open").unwrap_or_default();
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn a_client_that_is_slow_with_its_header_is_cut() {
        let (address, _shutdown, _) = serve(Duration::from_millis(500));
        let preface_and_settings = [HTTP2_PREFACE, HTTP2_SETTINGS].concat();
        let starts: [&[u8]; 5] = [b"", b"P", b"GET /who HTTP/1.1\r\nhost: h", HTTP2_PREFACE, &preface_and_settings];
        for answer in join_all(starts.map(|start| everything_after(address, start))).await {
            assert!(!answer.contains("200 OK"), "what was not asked was answered: {answer}");
        }
    }

    #[tokio::test]
    async fn a_slow_answer_is_not_cut_and_the_peer_is_known() {
        let (address, _shutdown, _) = serve(PATIENT);
        let answer = everything_after(address, b"GET /slow HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(everything_after(address, GET).await.contains("\r\n\r\n127.0.0.1:"));
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_client_that_takes_in_nothing_is_cut() {
        let (address, _shutdown, asked) = serve(PATIENT);
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /endless HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let is_polled = async || {
            let polled = asked.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            asked.load(Ordering::Relaxed) > polled
        };
        while is_polled().await || asked.load(Ordering::Relaxed) == 0 {}
        tokio::time::sleep(Duration::from_secs(4)).await;
        // It reads again, too late: what lies in its own kernel is all there is.
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "it is sent to after four seconds, of which it had one");
    }

    #[tokio::test]
    async fn connections_above_the_most_wait_until_others_end() {
        let (address, _shutdown, _) = serve(PATIENT);
        let mut idle = Vec::new();
        for _ in 0..8 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let late = tokio::spawn(async move { everything_after(address, GET).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!late.is_finished(), "served above the bound");
        idle.clear();
        assert!(late.await.unwrap().starts_with("HTTP/1.1 200 OK"));
    }

    #[tokio::test]
    async fn a_shutdown_finishes_what_is_in_flight_and_cuts_what_does_not_end() {
        let (address, shutdown, asked) = serve(PATIENT);
        let ask = |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n");
            tokio::spawn(async move { everything_after(address, request.as_bytes()).await })
        };
        let (slow, never) = (ask("/slow"), ask("/never"));
        while asked.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        shutdown.begin("test");
        assert!(slow.await.unwrap().starts_with("HTTP/1.1 200 OK"));
        assert!(TcpStream::connect(address).await.is_err(), "still accepting");
        assert_eq!(never.await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_what_changes_it() {
        let first = Listener::bind(([127, 0, 0, 1], 0).into(), "test").unwrap();
        let port = first.address().port();
        let refused = Listener::bind(first.address(), "gateway.listen or --listen").unwrap_err();
        assert_eq!(
            refused.message,
            format!(
                "port {port} on 127.0.0.1 is taken by another program: stop that program, or choose another port \
                 with gateway.listen or --listen"
            )
        );
        let elsewhere = Listener::bind(([192, 0, 2, 1], 0).into(), "admin.listen").unwrap_err();
        assert!(elsewhere.message.contains("192.0.2.1 is not an address of this machine"), "{elsewhere}");
    }
}
