//! NATS with JetStream.

use std::time::Duration;

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::{Process, free_port, program};

pub struct Nats {
    process: Process,
    port: u16,
}

impl Nats {
    /// A server of its own for whoever asks; `None` with `ENGINES=none`.
    pub async fn start() -> Option<Self> {
        let port = free_port();
        let process = Process::new("nats-server", program("nats-server")?);
        let store = process.folder().join("jetstream").display().to_string();
        let arguments = ["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir", &store];
        let nats = Self { process: process.arguments(arguments), port };
        nats.restart().await;
        Some(nats)
    }

    /// `nats://…`, the same over all its lives.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// `kill -9`. What was on disk stays.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts it again on the same port, killing it first if it runs.
    pub async fn restart(&self) {
        self.process.kill();
        self.process.start();
        self.process.ready(async || self.greets().await).await;
    }

    pub fn pause(&self) {
        self.process.pause();
    }

    pub fn resume(&self) {
        self.process.resume();
    }

    /// A server greets first, and only once JetStream is there.
    async fn greets(&self) -> Option<()> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let mut greeting = [0_u8; 5];
        timeout(Duration::from_secs(1), connection.read_exact(&mut greeting)).await.ok()?.ok()?;
        (&greeting == b"INFO ").then_some(())
    }
}
