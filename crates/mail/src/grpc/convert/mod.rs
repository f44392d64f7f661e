//! Domain types as messages and back. Each record is taken apart by all its fields, so that a new one does not compile
//! until it is decided how it travels.

mod delivery;
mod message;
mod request;
pub(super) mod topic;

use guildhall_domain::{
    Result, Timestamp,
    mail::{Body, Mailbox, MessageId},
    ports::bus::Durability,
};
use guildhall_proto::mail::v1 as wire;
use guildhall_rpc::wire::{bad_json, unknown};

/// A domain type that travels as a message.
pub(super) trait Wire: Sized {
    type Message;
    fn pack(self) -> Self::Message;
    /// Refuses what no service of this version sends.
    fn unpack(message: Self::Message) -> Result<Self>;
}

pub(super) fn pack_all<T: Wire>(values: Vec<T>) -> Vec<T::Message> {
    values.into_iter().map(T::pack).collect()
}

pub(super) fn unpack_all<T: Wire>(messages: Vec<T::Message>) -> Result<Vec<T>> {
    messages.into_iter().map(T::unpack).collect()
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn number(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn ids(texts: Vec<String>) -> Result<Vec<MessageId>> {
    texts.into_iter().map(MessageId::try_from).collect()
}

pub(super) fn body(json: String) -> Result<Body> {
    Body::from_text(json).map_err(|_| bad_json("a body"))
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn mailbox(text: Option<String>) -> Result<Option<Mailbox>> {
    text.map(Mailbox::try_from).transpose()
}

impl Wire for Durability {
    type Message = i32;

    fn pack(self) -> i32 {
        let durability = match self {
            Self::Fsync => wire::Durability::Fsync,
            Self::Replicated => wire::Durability::Replicated,
            Self::Buffered => wire::Durability::Buffered,
        };
        durability.into()
    }

    fn unpack(durability: i32) -> Result<Self> {
        match wire::Durability::try_from(durability) {
            Ok(wire::Durability::Fsync) => Ok(Self::Fsync),
            Ok(wire::Durability::Replicated) => Ok(Self::Replicated),
            Ok(wire::Durability::Buffered) => Ok(Self::Buffered),
            Ok(wire::Durability::Unspecified) | Err(_) => Err(unknown("durability")),
        }
    }
}
