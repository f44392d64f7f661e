//! Redis, as a cache: nothing is written to disk, so a restart has lost everything.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Process, free_port, program};

pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// A server of its own for whoever asks; `None` with `ENGINES=none`.
    pub async fn start() -> Option<Self> {
        let port = free_port();
        let process = Process::new("redis-server", program("redis-server")?);
        let folder = process.folder().display().to_string();
        let port_text = port.to_string();
        let arguments =
            ["--bind", "127.0.0.1", "--port", &port_text, "--dir", &folder, "--save", "", "--appendonly", "no"];
        let redis = Self { process: process.arguments(arguments), port };
        redis.restart().await;
        Some(redis)
    }

    /// `redis://…`, the same over all its lives.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `kill -9`. Everything in it is lost.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts it again on the same port, empty, killing it first if it runs.
    pub async fn restart(&self) {
        self.process.kill();
        self.process.start();
        self.process.ready(async || self.says("PING").await.filter(|answer| answer == "+PONG")).await;
    }

    pub fn pause(&self) {
        self.process.pause();
    }

    pub fn resume(&self) {
        self.process.resume();
    }

    /// Loses everything while it runs.
    pub async fn flush(&self) {
        let answer = self.says("FLUSHALL").await;
        assert_eq!(answer.as_deref(), Some("+OK"), "redis does not flush");
    }

    /// Its answer to a command, the first line.
    async fn says(&self, command: &str) -> Option<String> {
        timeout(Duration::from_secs(1), async {
            let mut connection = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            connection.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
            let mut answer = [0_u8; 64];
            let length = connection.read(&mut answer).await.ok()?;
            let text = std::str::from_utf8(&answer[..length]).ok()?;
            text.lines().next().map(str::to_owned)
        })
        .await
        .ok()
        .flatten()
    }
}
