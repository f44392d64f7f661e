//! What goes wrong with Redis, in the hall's words. The point that matters to callers: did anything take effect?

use std::time::Duration;

use deadpool_redis::{
    PoolError,
    redis::{ErrorKind, RedisError, ServerErrorKind},
};
use guildhall_domain::Error;

/// What a command does, if it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Writes,
}

pub(super) struct Faults {
    /// `host:port`, without credentials.
    address: String,
}

impl Faults {
    pub(super) fn at(address: String) -> Self {
        Self { address }
    }

    pub(super) fn not_reached(&self, error: &PoolError) -> Error {
        match error {
            PoolError::Backend(error) => self.away(error),
            other => self.unavailable(&format!("is not reached ({other})")),
        }
    }

    pub(super) fn silent(&self, waited: Duration) -> Error {
        self.unavailable(&format!("is away or overloaded: no connection within {} ms", waited.as_millis()))
    }

    pub(super) fn nonsense(&self, what: &str) -> Error {
        Error::internal(format!(
            "hot store redis at {} answered {what}: is another program using its keys?",
            self.address
        ))
    }

    pub(super) fn after_sending(&self, effect: Effect, error: &RedisError) -> Error {
        match error.kind() {
            ErrorKind::Io if effect == Effect::Writes => Error::timeout(format!(
                "hot store redis at {} did not answer: whether the call took effect is not known",
                self.address
            )),
            ErrorKind::Io => self.away(error),
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain,
            ) => self.unavailable(&format!("refuses for now ({})", error.code().unwrap_or("no code"))),
            ErrorKind::Extension if error.code() == Some("OOM") => {
                self.unavailable("has no memory left: raise its maxmemory, or set a policy that evicts")
            }
            _ => Error::internal(format!("hot store redis at {} failed: {error}", self.address)),
        }
    }

    fn away(&self, error: &RedisError) -> Error {
        match error.kind() {
            ErrorKind::AuthenticationFailed => self.unavailable("refuses the user or password of hot.url"),
            _ => self.unavailable(&format!("is away ({})", error.category())),
        }
    }

    fn unavailable(&self, what: &str) -> Error {
        Error::unavailable(format!("hot store redis at {} {what}", self.address))
    }
}
