//! The client against real servers on loopback, which is private: only what a test allows may be called.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::{
    collections::VecDeque,
    future::pending,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{any, get},
};
use futures::stream;
use guildhall_domain::{Error, ErrorCode};
use guildhall_outbound::{Answer, Outbound, OutboundOptions, Request, resolver::Resolver};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(10);

/// Serves on this address until the test's runtime ends.
async fn serve_at(address: &str, router: Router) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).into_future());
    address
}

async fn serve(router: Router) -> SocketAddr {
    serve_at("127.0.0.1:0", router).await
}

fn options() -> OutboundOptions {
    OutboundOptions { allow_private: vec!["127.0.0.0/8".parse().unwrap()], ..OutboundOptions::default() }
}

async fn fetch(outbound: &Outbound, url: impl Into<String>) -> Result<Answer, Error> {
    outbound.send(Request::new(Method::GET, url), SOON).await
}

async fn code(outbound: &Outbound, url: impl Into<String>) -> ErrorCode {
    fetch(outbound, url).await.map(|answer| answer.status).unwrap_err().code
}

/// Answers as it is told, one answer a look-up.
#[derive(Default)]
struct Scripted {
    answers: Mutex<VecDeque<Vec<&'static str>>>,
    asked: AtomicUsize,
}

impl Scripted {
    fn new(answers: impl IntoIterator<Item = Vec<&'static str>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), asked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Resolver for Scripted {
    async fn addresses(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers.lock().unwrap().pop_front().ok_or(io::ErrorKind::NotFound)?;
        Ok(answer.into_iter().map(|address| address.parse().unwrap()).collect())
    }
}

#[tokio::test]
async fn no_spelling_of_a_private_address_gets_through() {
    let outbound = Outbound::new(OutboundOptions::default());
    for host in [
        "127.0.0.1",
        "127.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.01",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "0",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.100.100.200",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[::ffff:0:169.254.169.254]",
        "[64:ff9b::169.254.169.254]",
        "[2002:a9fe:a9fe::1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[fc00::1]",
        "[ff02::1]",
        "[2001:db8::1]",
    ] {
        let error = fetch(&outbound, format!("http://{host}:1/")).await.map(|answer| answer.status).unwrap_err();
        assert_eq!(error.code, ErrorCode::PermissionDenied, "{host}: {error}");
        assert!(error.message.contains("outbound.allow"), "{error}");
    }
}

#[tokio::test]
async fn a_name_that_stands_for_a_private_address_is_refused_without_telling_which() {
    assert_eq!(
        code(&Outbound::new(OutboundOptions::default()), "http://localhost:1/").await,
        ErrorCode::PermissionDenied
    );
    for addresses in [vec!["10.9.8.7"], vec!["1.1.1.1", "10.9.8.7"], vec!["::ffff:10.9.8.7"], vec!["fd00:ec2::254"]] {
        let outbound = Outbound::with_resolver(OutboundOptions::default(), Scripted::new([addresses]));
        let error = fetch(&outbound, "http://inside.example/").await.map(|answer| answer.status).unwrap_err();
        assert_eq!(error.code, ErrorCode::PermissionDenied, "{error}");
        assert!(error.message.contains("inside.example"), "{error}");
        assert!(!error.message.contains("10.9.8.7") && !error.message.contains("ec2"), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_a_plain_http_url_is_refused_before_anything_is_looked_up() {
    let resolver = Scripted::new([]);
    let outbound = Outbound::with_resolver(options(), resolver.clone());
    for url in
        ["", "example.com", "ftp://a/", "file:///etc/passwd", "http://u:p@a/", "http://u@a/", "http://", "unix:/x"]
    {
        assert_eq!(code(&outbound, url).await, ErrorCode::InvalidParams, "{url}");
    }
    for name in [header::HOST, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::CONNECTION] {
        let mut request = Request::new(Method::GET, "http://a/");
        request.headers.insert(name.clone(), HeaderValue::from_static("1"));
        let error = outbound.send(request, SOON).await.map(|answer| answer.status).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidParams, "{name}");
    }
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_after_the_check_is_not_followed_there() {
    // 127.0.0.2 plays the public server, 127.0.0.1 on the same port what must not be reached.
    let hits = Arc::new(AtomicUsize::new(0));
    let count = hits.clone();
    let inside = Router::new().fallback(move || async move { count.fetch_add(1, Ordering::SeqCst).to_string() });
    let inside = serve(inside).await;
    let public = Router::new().fallback(|| async { ([(header::CONNECTION, "close")], "public") });
    serve_at(&format!("127.0.0.2:{}", inside.port()), public).await;
    let options = OutboundOptions { allow_private: vec!["127.0.0.2/32".parse().unwrap()], ..options() };
    let resolver = Scripted::new([vec!["127.0.0.2"], vec!["127.0.0.1"], vec!["127.0.0.2", "127.0.0.1"]]);
    let outbound = Outbound::with_resolver(options, resolver.clone());
    let url = format!("http://rebinding.example:{}/", inside.port());

    assert_eq!(fetch(&outbound, &url).await.unwrap().bytes().await.unwrap(), "public");
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 1, "checking and connecting were two look-ups");
    assert_eq!(code(&outbound, &url).await, ErrorCode::PermissionDenied);
    assert_eq!(code(&outbound, &url).await, ErrorCode::PermissionDenied);
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_refused_like_the_address_itself() {
    let elsewhere = Router::new()
        .route("/literal", get(|| async { Redirect::temporary("http://169.254.169.254/latest/meta-data/") }))
        .route("/odd", get(|| async { Redirect::temporary("http://0xa9fea9fe/latest/meta-data/") }))
        .route("/name", get(|| async { Redirect::temporary("http://metadata.example/") }));
    let port = serve_at("127.0.0.2:0", elsewhere).await.port();
    let options = OutboundOptions { allow_private: vec!["127.0.0.2/32".parse().unwrap()], ..options() };
    for path in ["literal", "odd", "name"] {
        let resolver = Scripted::new([vec!["127.0.0.2"], vec!["169.254.169.254"]]);
        let outbound = Outbound::with_resolver(options.clone(), resolver);
        let url = format!("http://public.example:{port}/{path}");
        assert_eq!(code(&outbound, url).await, ErrorCode::PermissionDenied, "{path}");
    }
}

/// What arrived, told back: method, the headers that were sent, body.
async fn echo(method: Method, headers: HeaderMap, body: String) -> String {
    let mut names: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
    names.sort();
    format!("{method} {} {body}", names.join(","))
}

fn with_keys(method: Method, url: String) -> Request {
    let mut request = Request { body: Bytes::from_static(b"body"), ..Request::new(method, url) };
    for (name, value) in
        [("authorization", "Bearer hunter2"), ("cookie", "a=b"), ("x-api-key", "k"), ("content-type", "text/plain")]
    {
        request.headers.insert(name, HeaderValue::from_static(value));
    }
    request
}

#[tokio::test]
async fn a_callers_headers_stay_with_the_origin_they_were_meant_for() {
    let other = serve(Router::new().route("/echo", any(echo))).await;
    let to_other = move |status| async move { (status, [(header::LOCATION, format!("http://{other}/echo"))]) };
    let first = Router::new()
        .route("/echo", any(echo))
        .route("/within", any(|| async { Redirect::temporary("/echo") }))
        .route("/away", any(move || to_other(StatusCode::PERMANENT_REDIRECT)))
        .route("/fetched", any(move || to_other(StatusCode::SEE_OTHER)));
    let first = serve(first).await;
    let outbound = Outbound::new(options());
    let told = async |path: &str| {
        let request = with_keys(Method::POST, format!("http://{first}/{path}"));
        let answer = outbound.send(request, SOON).await.unwrap();
        (answer.url.port().unwrap(), String::from_utf8(answer.bytes().await.unwrap().to_vec()).unwrap())
    };
    let all = "POST accept,authorization,content-length,content-type,cookie,host,user-agent,x-api-key body";
    assert_eq!(told("echo").await, (first.port(), all.to_owned()));
    assert_eq!(told("within").await, (first.port(), all.to_owned()));
    let harmless = "POST accept,content-length,content-type,host,user-agent body".to_owned();
    assert_eq!(told("away").await, (other.port(), harmless));
    assert_eq!(told("fetched").await, (other.port(), "GET accept,host,user-agent ".to_owned()));
}

#[tokio::test]
async fn a_redirect_without_end_is_given_up_after_the_third() {
    let hits = Arc::new(AtomicUsize::new(0));
    let count = hits.clone();
    let round = move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        Redirect::temporary("/again")
    };
    let address = serve(Router::new().fallback(round)).await;
    assert_eq!(code(&Outbound::new(options()), format!("http://{address}/")).await, ErrorCode::UpstreamError);
    assert_eq!(hits.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn an_answer_over_the_bound_is_refused_announced_or_not() {
    let chunks = || stream::iter((0..100).map(|_| Ok::<_, io::Error>(Bytes::from(vec![b'x'; 100]))));
    let router = Router::new()
        .route("/fits", get(|| async { "x".repeat(1_000) }))
        .route("/announced", get(|| async { "x".repeat(1_001) }))
        .route("/chunked", get(move || async move { Response::new(Body::from_stream(chunks())) }));
    let address = serve(router).await;
    let outbound = Outbound::new(OutboundOptions { max_body_bytes: 1_000, ..options() });
    let read = async |path: &str| fetch(&outbound, format!("http://{address}/{path}")).await.unwrap().bytes().await;
    assert_eq!(read("fits").await.unwrap().len(), 1_000);
    for path in ["announced", "chunked"] {
        let error = read(path).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::UpstreamError, "{path}");
        assert!(error.message.contains("1000 bytes"), "{error}");
    }
}

#[tokio::test]
async fn a_slow_server_holds_nobody_longer_than_was_allowed() {
    let drip = || {
        let drops = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, io::Error>(Bytes::from_static(b"x")), ()))
        });
        async move { Response::new(Body::from_stream(drops)) }
    };
    let router = Router::new().route("/silent", get(pending::<()>)).route("/drip", get(drip));
    let address = serve(router).await;
    let begun = Instant::now();

    let impatient = Outbound::new(OutboundOptions { read_timeout: Duration::from_millis(200), ..options() });
    assert_eq!(code(&impatient, format!("http://{address}/silent")).await, ErrorCode::Timeout);

    let outbound = Outbound::new(options());
    let within = |path: &str| {
        outbound.send(Request::new(Method::GET, format!("http://{address}/{path}")), Duration::from_secs(1))
    };
    let silent = within("silent").await.map(|answer| answer.status).unwrap_err();
    assert_eq!(silent.code, ErrorCode::Timeout);
    let drip = within("drip").await.unwrap().bytes().await.unwrap_err();
    assert_eq!(drip.code, ErrorCode::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let router = Router::new().fallback(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() });
    let address = serve(router).await;
    let outbound = Outbound::new(options());
    let peer = async || fetch(&outbound, format!("http://{address}/")).await.unwrap().bytes().await.unwrap();
    assert_eq!(peer().await, peer().await);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_by_its_origin_and_worth_another_try() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let outbound = Outbound::new(options());
    let error =
        fetch(&outbound, format!("http://{address}/secret-path?key=hunter2")).await.map(|a| a.status).unwrap_err();
    assert_eq!(error.code, ErrorCode::ConnectionError);
    assert!(error.retryable);
    assert!(error.message.contains(&address.to_string()) && error.message.contains("refused"), "{error}");
    assert!(!error.message.contains("secret-path") && !error.message.contains("hunter2"), "{error}");

    let unknown = Outbound::with_resolver(options(), Scripted::new([]));
    assert_eq!(code(&unknown, "http://nowhere.example/").await, ErrorCode::ConnectionError);
}

#[tokio::test]
async fn a_servers_own_error_is_an_answer() {
    let address =
        serve(Router::new().fallback(|| async { (StatusCode::IM_A_TEAPOT, "short and stout").into_response() })).await;
    let answer = fetch(&Outbound::new(options()), format!("http://{address}/")).await.unwrap();
    assert_eq!(answer.status, StatusCode::IM_A_TEAPOT);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    assert_eq!(answer.bytes().await.unwrap(), "short and stout");
}

#[tokio::test]
async fn where_nobody_wants_to_be_sent_on_a_redirect_is_the_answer() {
    let hits = Arc::new(AtomicUsize::new(0));
    let count = hits.clone();
    let moved = move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        Redirect::temporary("/again")
    };
    let address = serve(Router::new().fallback(moved)).await;
    let request = Request { follows_redirects: false, ..Request::new(Method::POST, format!("http://{address}/")) };
    let answer = Outbound::new(options()).send(request, SOON).await.unwrap();
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_short_answer_that_nobody_reads_leaves_its_connection_and_a_long_one_holds_nobody_up() {
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = peers.clone();
    let endless = || stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from(vec![b'x'; 4_096])));
    let short = move |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
        seen.lock().unwrap().push(peer);
        "x".repeat(10_000)
    };
    let router = Router::new()
        .route("/short", get(short))
        .route("/endless", get(move || async move { Response::new(Body::from_stream(endless())) }));
    let address = serve(router).await;
    let outbound = Outbound::new(options());
    for _ in 0..2 {
        fetch(&outbound, format!("http://{address}/short")).await.unwrap().discard().await;
    }
    let endless = fetch(&outbound, format!("http://{address}/endless")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), endless.discard()).await.expect("it read on and on");
    let peers = peers.lock().unwrap();
    assert_eq!(peers[0], peers[1], "the connection was not used again");
}
