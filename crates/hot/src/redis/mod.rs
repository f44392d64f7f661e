//! The hot store that replicas share: Redis 7. What must happen at once is a Lua script, in a file beside this one.
//!
//! The pool pings a connection before it hands it out. That costs a round trip, and buys that a Redis which went away
//! is noticed before anything was sent: the error is `Unavailable` then, and not a `Timeout` that leaves the caller
//! wondering. The paths that count call rarely: limits are leased in slices, signs of life sent in batches.

mod faults;

use std::{sync::LazyLock, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_redis::{
    Connection, Manager, Pool, Runtime,
    redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Script, ScriptInvocation, cmd},
};
use guildhall_domain::{
    Error, Result,
    ports::{
        Hot,
        hot::{HotKey, LeaseOutcome, Rate, Slice},
    },
};

use self::faults::{Effect, Faults};
use crate::limits::{check_marks, check_rate, check_value, whole_millis};

/// To reach Redis: waiting for a free connection, opening one and seeing that it is alive, together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// From sending a command to its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Commands take well under a millisecond, so this is more than 10,000 calls a second from one process.
const CONNECTIONS_MAX: usize = 16;

static LEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lease.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));
static PUT_IF_NEWER: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("put_if_newer.lua")));
static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));

/// The counter that all leases take their fences from. No key of a [`HotKey`] is as short.
const FENCES: &str = "gh:fence";

pub(crate) struct Redis {
    pool: Pool,
    faults: Faults,
}

impl Redis {
    pub(crate) fn new(url: &str) -> Result<Self> {
        // The library's message may repeat the address, and with it the password.
        let refused = |_| Error::invalid("hot.url is not a Redis address: write redis://[user:password@]host:port/db");
        // The library takes the process's TLS provider, and panics where two are compiled in and none was chosen. An
        // error means that the program has chosen.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::open(url).map_err(refused)?;
        let info = client.get_connection_info().clone();
        let faults = Faults::at(info.addr().to_string());
        let timeouts = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        let pool = Pool::builder(Manager::new_with_config(info, timeouts).map_err(refused)?)
            .max_size(CONNECTIONS_MAX)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::internal(format!("the pool of Redis connections cannot be made: {error}")))?;
        Ok(Self { pool, faults })
    }

    /// A live connection. When it fails, nothing was sent.
    async fn connection(&self) -> Result<Connection> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.pool.get()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.faults.not_reached(&error)),
            Err(_) => Err(self.faults.silent(CONNECT_TIMEOUT)),
        }
    }

    async fn command<T: FromRedisValue>(&self, effect: Effect, command: &Cmd) -> Result<T> {
        let mut connection = self.connection().await?;
        command.query_async(&mut connection).await.map_err(|error| self.faults.after_sending(effect, &error))
    }

    async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T> {
        let mut connection = self.connection().await?;
        script.invoke_async(&mut connection).await.map_err(|error| self.faults.after_sending(Effect::Writes, &error))
    }
}

fn named(kind: &str, key: &HotKey) -> String {
    format!("gh:{kind}:{}", key.as_str())
}

fn value(key: &HotKey) -> String {
    named("val", key)
}

fn versioned(key: &HotKey) -> String {
    named("ver", key)
}

fn lease(key: &HotKey) -> String {
    named("lease", key)
}

fn marks(set: &HotKey) -> String {
    named("marks", set)
}

#[async_trait]
impl Hot for Redis {
    async fn get(&self, key: &HotKey) -> Result<Option<Bytes>> {
        self.command(Effect::None, cmd("GET").arg(value(key))).await
    }

    async fn put(&self, key: &HotKey, bytes: Bytes, ttl: Duration) -> Result<()> {
        check_value(&bytes)?;
        let mut set = cmd("SET");
        set.arg(value(key)).arg(&bytes[..]).arg("PX").arg(whole_millis(ttl));
        self.command(Effect::Writes, &set).await
    }

    async fn put_if_absent(&self, key: &HotKey, bytes: Bytes, ttl: Duration) -> Result<bool> {
        check_value(&bytes)?;
        let mut set = cmd("SET");
        set.arg(value(key)).arg(&bytes[..]).arg("NX").arg("PX").arg(whole_millis(ttl));
        let done: Option<String> = self.command(Effect::Writes, &set).await?;
        Ok(done.is_some())
    }

    async fn put_if_newer(&self, key: &HotKey, version: u64, bytes: Bytes, ttl: Duration) -> Result<bool> {
        check_value(&bytes)?;
        let mut put = PUT_IF_NEWER.key(versioned(key));
        put.arg(format!("{version:020}")).arg(&bytes[..]).arg(whole_millis(ttl));
        self.script(&put).await
    }

    async fn get_versioned(&self, key: &HotKey) -> Result<Option<(u64, Bytes)>> {
        let mut get = cmd("HMGET");
        get.arg(versioned(key)).arg("version").arg("value");
        let (version, bytes): (Option<u64>, Option<Bytes>) = self.command(Effect::None, &get).await?;
        Ok(version.zip(bytes))
    }

    async fn remove(&self, key: &HotKey) -> Result<()> {
        let mut delete = cmd("DEL");
        delete.arg(value(key)).arg(versioned(key));
        self.command::<u64>(Effect::Writes, &delete).await.map(drop)
    }

    async fn lease(&self, key: &HotKey, holder: &str, ttl: Duration) -> Result<LeaseOutcome> {
        let mut take = LEASE.key(lease(key));
        take.key(FENCES).arg(holder).arg(whole_millis(ttl));
        let (held, who, remaining_ms): (bool, String, i64) = self.script(&take).await?;
        if held {
            let fence = who.parse().map_err(|_| self.faults.nonsense("a fence that is no number"))?;
            return Ok(LeaseOutcome::Held { fence });
        }
        let remaining = Duration::from_millis(u64::try_from(remaining_ms).unwrap_or(0));
        Ok(LeaseOutcome::Taken { by: who, remaining })
    }

    async fn release(&self, key: &HotKey, holder: &str) -> Result<bool> {
        self.script(RELEASE.key(lease(key)).arg(holder)).await
    }

    async fn take(&self, bucket: &HotKey, want: u32, rate: Rate) -> Result<Slice> {
        check_rate(rate)?;
        let mut take = TAKE.key(named("bucket", bucket));
        take.arg(want).arg(rate.per_second).arg(rate.burst);
        let (granted, wait_ms): (u32, u64) = self.script(&take).await?;
        Ok(Slice { granted, wait: Duration::from_millis(wait_ms) })
    }

    async fn mark(&self, set: &HotKey, new: &[(String, i64)]) -> Result<()> {
        check_marks(new)?;
        if new.is_empty() {
            return Ok(());
        }
        let mut add = cmd("ZADD");
        add.arg(marks(set)).arg("GT");
        for (member, number) in new {
            add.arg(number).arg(member);
        }
        self.command::<u64>(Effect::Writes, &add).await.map(drop)
    }

    async fn marks(&self, set: &HotKey, from: i64) -> Result<Vec<(String, i64)>> {
        let mut range = cmd("ZRANGEBYSCORE");
        range.arg(marks(set)).arg(from).arg("+inf").arg("WITHSCORES");
        self.command(Effect::None, &range).await
    }

    async fn unmark(&self, set: &HotKey, members: &[String]) -> Result<()> {
        if members.is_empty() {
            return Ok(());
        }
        let mut remove = cmd("ZREM");
        remove.arg(marks(set)).arg(members);
        self.command::<u64>(Effect::Writes, &remove).await.map(drop)
    }

    async fn ping(&self) -> Result<()> {
        self.command(Effect::None, &cmd("PING")).await
    }
}
