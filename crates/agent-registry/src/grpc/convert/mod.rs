//! Domain types as messages and back. Each record is taken apart by all its fields, so that a new one does not compile
//! until it is decided how it travels.

mod access;
mod agent;
mod audit;

use std::{collections::BTreeSet, time::Duration};

use guildhall_domain::{Error, PrincipalKind, Result, Timestamp};
use guildhall_proto::call::v1 as call;

/// A domain type that travels as a message.
pub(super) trait Wire: Sized {
    type Message;
    fn pack(self) -> Self::Message;
    /// Refuses what no service of this version sends.
    fn unpack(message: Self::Message) -> Result<Self>;
}

/// What a message must have, though the protocol lets it be absent.
pub(super) fn present<T>(field: Option<T>, name: &str) -> Result<T> {
    field.ok_or_else(|| {
        Error::invalid(format!("the message between two services lacks {name}: run one version of every service"))
    })
}

fn unknown(what: &str) -> Error {
    Error::unsupported(format!("a {what} came that is not known here: run one version of every service"))
}

fn bad_json(name: &str) -> Error {
    Error::invalid(format!("{name} in a message between two services is not JSON of the right form"))
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn words(words: BTreeSet<String>) -> Vec<String> {
    words.into_iter().collect()
}

impl Wire for PrincipalKind {
    type Message = i32;

    fn pack(self) -> i32 {
        let kind = match self {
            Self::Agent => call::PrincipalKind::Agent,
            Self::Person => call::PrincipalKind::Person,
            Self::Service => call::PrincipalKind::Service,
        };
        kind.into()
    }

    fn unpack(kind: i32) -> Result<Self> {
        match call::PrincipalKind::try_from(kind) {
            Ok(call::PrincipalKind::Agent) => Ok(Self::Agent),
            Ok(call::PrincipalKind::Person) => Ok(Self::Person),
            Ok(call::PrincipalKind::Service) => Ok(Self::Service),
            Ok(call::PrincipalKind::Unspecified) | Err(_) => Err(unknown("kind of principal")),
        }
    }
}
