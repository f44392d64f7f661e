//! Postgres: one server for all tests of a process, a database of its own for each; or a server of its own for a
//! test that stops it.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::OnceCell;

use super::{Process, folder, free_port, program};

/// Whether an acknowledged commit must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// Several times faster, and right for every test but those of durability: `kill -9` of the server loses
    /// nothing that the kernel has.
    Lazy,
    Synced,
}

pub struct Postgres {
    process: Process,
    port: u16,
    databases: AtomicU32,
}

impl Postgres {
    /// The URL of a fresh, empty database on the server that all tests of this process share; `None` with
    /// `ENGINES=none`. Do not stop that server: [`Self::start`] gives one of your own.
    pub async fn database() -> Option<String> {
        static SHARED: OnceCell<Option<Postgres>> = OnceCell::const_new();
        let shared = SHARED.get_or_init(|| Self::start(Disk::Lazy)).await;
        Some(shared.as_ref()?.new_database().await)
    }

    /// A server of its own for whoever asks; `None` with `ENGINES=none`.
    pub async fn start(disk: Disk) -> Option<Self> {
        Self::start_on(disk, None).await
    }

    /// Likewise, on a disk of so many MiB, which [`Self::fill_disk`] fills.
    pub async fn start_on_small_disk(mebibytes: u32) -> Option<Self> {
        Self::start_on(Disk::Synced, Some(mebibytes)).await
    }

    async fn start_on(disk: Disk, small: Option<u32>) -> Option<Self> {
        let port = free_port();
        let mut process = Process::new("postgres", program("postgres")?).quits();
        let data = process.folder().join("data");
        // `cp` keeps the owner, who is `nobody` when root made the template.
        let copied = Command::new("cp").arg("--archive").arg(folder().join("pg-template")).arg(&data).status();
        assert!(copied.is_ok_and(|status| status.success()), "no target/engines/pg-template: run `make engines`");
        if rustix::process::geteuid().is_root() {
            process = process.by_nobody();
        }
        let synced = if disk == Disk::Synced { "on" } else { "off" };
        // What is measured has what Postgres takes by itself.
        let buffers = if disk == Disk::Synced { "128MB" } else { "32MB" };
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".into(),
            "unix_socket_directories=".into(),
            // Many tests at once, each with a small pool.
            "max_connections=300".into(),
            format!("shared_buffers={buffers}"),
            // Mapped memory would outlive a `kill -9` in /dev/shm.
            "dynamic_shared_memory_type=mmap".into(),
            format!("fsync={synced}"),
            format!("full_page_writes={synced}"),
        ];
        let arguments = ["-D".into(), data.display().to_string()];
        if let Some(mebibytes) = small {
            process = process.on_small_disk(data, mebibytes);
        }
        let process = process.arguments(arguments).arguments(settings.into_iter().flat_map(|set| ["-c".into(), set]));
        let postgres = Self { process, port, databases: AtomicU32::new(0) };
        postgres.restart().await;
        Some(postgres)
    }

    /// The URL of a fresh, empty database on this server.
    pub async fn new_database(&self) -> String {
        let name = format!("hall_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.url("postgres")).await.expect("postgres takes connections");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .expect("a database can be made");
        connection.close().await.expect("the connection closes in order");
        self.url(&name)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://guildhall@127.0.0.1:{}/{database}", self.port)
    }

    /// `kill -9`, backends included.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts it again on the same port, killing it first if it runs.
    pub async fn restart(&self) {
        self.process.kill();
        self.process.start();
        let process_id = self.process.id().expect("it has just been started").to_string();
        // On a disk of its own it is seen through the process alone.
        let status_file = format!("/proc/{process_id}/root{}/data/postmaster.pid", self.process.folder().display());
        self.process
            .ready(async || {
                let status = fs::read_to_string(&status_file).ok()?;
                let mut lines = status.lines().map(str::trim);
                // A server that was killed leaves its own file behind.
                let is_ours = lines.next()? == process_id;
                (is_ours && lines.nth(6)? == "ready").then_some(())
            })
            .await;
    }

    pub fn pause(&self) {
        self.process.pause();
    }

    pub fn resume(&self) {
        self.process.resume();
    }

    pub fn fill_disk(&self) {
        self.process.fill_disk();
    }

    pub fn free_disk(&self) {
        self.process.free_disk();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.process.quit();
    }
}
