//! A load on a hall, with so little work of its own that the hall is what is measured.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// One connection that is kept.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver);
        Self { sender, host: address.to_string() }
    }

    /// Status and body of the answer.
    pub async fn ask(&mut self, method: &str, path: &str, token: &str, body: impl Into<Bytes>) -> (u16, Bytes) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .unwrap();
        // The answer before may have ended a moment ago.
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    }
}

/// What was done, how long each took, what went wrong.
pub struct Measured {
    pub done: u64,
    pub errors: u64,
    pub seconds: f64,
    pub times: Vec<Duration>,
}

impl Measured {
    /// `share` of all took no longer.
    pub fn within(&self, share: f64) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
        let at = (times.len() as f64 * share) as usize;
        times.get(at.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Without figures of the hall's own process, which [`Usage`] has.
    pub fn figures(&self) -> Value {
        json!({
            "per_s": (self.done as f64 / self.seconds).round(),
            "p50_us": micros(self.within(0.5)), "p99_us": micros(self.within(0.99)),
            "errors": self.errors, "ops": self.done, "seconds": self.seconds,
        })
    }
}

pub fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

/// So many connections ask without pause for `time`; `ask` does one call of worker and number and says if it was fine.
pub async fn press<A>(address: SocketAddr, connections: usize, time: Duration, ask: A) -> Measured
where
    A: Ask,
{
    let ask = Arc::new(ask);
    let errors = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let workers = (0..connections).map(|worker| {
        let (ask, errors) = (ask.clone(), errors.clone());
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await;
            let mut times = Vec::new();
            let mut number = 0;
            while began.elapsed() < time {
                let (method, path, token, body) = ask.call(worker, number);
                let asked = Instant::now();
                let (status, _) = connection.ask(method, &path, &token, body).await;
                times.push(asked.elapsed());
                if status != 200 {
                    errors.fetch_add(1, Ordering::Relaxed);
                }
                number += 1;
            }
            times
        })
    });
    let mut times = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        times.extend(worker.await.unwrap());
    }
    Measured {
        done: times.len() as u64,
        errors: errors.load(Ordering::Relaxed),
        seconds: began.elapsed().as_secs_f64(),
        times,
    }
}

/// What a worker asks: method, path, token, body.
pub trait Ask: Send + Sync + 'static {
    fn call(&self, worker: usize, number: u64) -> (&'static str, String, String, Bytes);
}

impl<F> Ask for F
where
    F: Fn(usize, u64) -> (&'static str, String, String, Bytes) + Send + Sync + 'static,
{
    fn call(&self, worker: usize, number: u64) -> (&'static str, String, String, Bytes) {
        self(worker, number)
    }
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub cpu: Duration,
    pub resident_mb: f64,
}

impl Usage {
    pub fn of(process: u32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        // After the name, which is in brackets and may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: f64 = resident.split_whitespace().next().unwrap().parse().unwrap();
        // Linux counts 100 ticks a second.
        Self { cpu: Duration::from_millis(ticks * 10), resident_mb: kib / 1024.0 }
    }
}
