//! Domain types as messages and back. Each record is taken apart by all its fields, so that a new one does not compile
//! until it is decided how it travels.

mod access;
mod agent;
mod audit;

use std::collections::BTreeSet;

use guildhall_domain::{PrincipalKind, Result, Timestamp};
use guildhall_proto::call::v1 as call;
use guildhall_rpc::wire::unknown;

/// A domain type that travels as a message.
pub(super) trait Wire: Sized {
    type Message;
    fn pack(self) -> Self::Message;
    /// Refuses what no service of this version sends.
    fn unpack(message: Self::Message) -> Result<Self>;
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
