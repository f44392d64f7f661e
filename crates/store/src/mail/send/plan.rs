//! What a transaction of sends finds, and what it is to write.

use std::sync::Arc;

use guildhall_domain::{AgentId, Result, mail::Mailbox, ports::mail_store::ReceiptKey};
use sqlx::FromRow;

use super::Parcel;
use crate::row::bytes;

/// A mailbox by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Named<'a> {
    pub(crate) sort: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> Named<'a> {
    pub(crate) fn of(mailbox: &'a Mailbox) -> Self {
        Self { sort: mailbox.sort(), name: mailbox.name() }
    }

    pub(crate) fn agent(agent: &'a AgentId) -> Self {
        Self::of_agent(agent.as_str())
    }

    pub(crate) fn of_agent(name: &'a str) -> Self {
        Self { sort: "agent", name }
    }

    pub(crate) fn in_tenant(self, tenant: &'a str) -> Asked<'a> {
        Asked { tenant, mailbox: self }
    }
}

/// In the order in which everyone locks mailboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Asked<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) mailbox: Named<'a>,
}

/// Someone is about to wait for `whom`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begins<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) whom: &'a str,
    pub(crate) at: i64,
}

/// How a mailbox stands.
#[derive(Debug, Clone, Copy, FromRow)]
pub(crate) struct Standing {
    pub(crate) mailbox: i64,
    pub(crate) closed: bool,
    pub(crate) waiting: i64,
}

/// Mailboxes that were locked without a look at what else may speak against a call.
pub(crate) struct Claimed {
    /// How they stood before.
    pub(crate) standings: Vec<Standing>,
    /// Of as many messages as they are for, rising.
    pub(crate) numbers: Vec<i64>,
    /// What is put in them has been counted already.
    pub(crate) counted: bool,
}

/// A receipt that was given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) key: [u8; 16],
    pub(crate) fingerprint: [u8; 16],
    pub(crate) message_id: [u8; 16],
    pub(crate) recipients: i64,
    pub(crate) at: i64,
}

#[derive(Debug, FromRow)]
pub(crate) struct ReceiptRow {
    key: Vec<u8>,
    fingerprint: Vec<u8>,
    message_id: Vec<u8>,
    recipients: i64,
    at: i64,
}

impl ReceiptRow {
    pub(crate) fn kept(self) -> Result<Kept> {
        let Self { key, fingerprint, message_id, recipients, at } = self;
        let (key, fingerprint, message_id) = (bytes(&key)?, bytes(&fingerprint)?, bytes(&message_id)?);
        Ok(Kept { key, fingerprint, message_id, recipients, at })
    }
}

#[derive(Debug, Clone, FromRow)]
pub(crate) struct Breaker {
    pub(crate) tenant: String,
    pub(crate) sort: String,
    pub(crate) name: String,
    pub(crate) open_until: Option<i64>,
}

/// A message that was accepted.
#[derive(Clone, Copy)]
pub(crate) struct Accepting<'c> {
    pub(crate) tenant: &'c Arc<str>,
    pub(crate) parcel: &'c Parcel,
    /// The one mailbox that it is for.
    pub(crate) mailbox: Option<i64>,
}

/// A message on its way into a mailbox.
#[derive(Clone, Copy)]
pub(crate) struct NewDelivery<'a> {
    pub(crate) mailbox: i64,
    pub(crate) number: i64,
    pub(crate) message_id: &'a [u8; 16],
    pub(crate) sender: &'a Arc<str>,
    pub(crate) priority: i16,
    pub(crate) expires_at: Option<i64>,
}

/// A delivery that its mailbox did not take: a dead letter from the beginning.
#[derive(Clone, Copy)]
pub(crate) struct StillBorn<'a> {
    pub(crate) delivery: NewDelivery<'a>,
    pub(crate) tenant: &'a Arc<str>,
    pub(crate) reason: &'static str,
    pub(crate) died_at: i64,
}

/// A mailbox in which something was put.
#[derive(Clone, Copy)]
pub(crate) struct Counted<'c> {
    pub(crate) asked: Asked<'c>,
    pub(crate) mailbox: i64,
    pub(crate) waiting: i64,
}

/// A breaker that lets one through, and nobody else until then.
#[derive(Clone, Copy)]
pub(crate) struct Trial<'c> {
    pub(crate) asked: Asked<'c>,
    pub(crate) open_until: i64,
}

/// What every send adds; each part may be empty.
#[derive(Default)]
pub(crate) struct New<'a> {
    pub(crate) messages: &'a [Accepting<'a>],
    /// Of the messages.
    pub(crate) numbers: &'a [i64],
    pub(crate) deliveries: Vec<NewDelivery<'a>>,
    /// Of mailboxes that this transaction has locked, how many deliveries wait in them now.
    pub(crate) counted: &'a [Counted<'a>],
    /// In the order of their keys. They may replace such as are older than a receipt is kept.
    pub(crate) receipts: Vec<(&'a ReceiptKey, &'a Parcel)>,
}

/// A message is named by its place in `messages`.
#[derive(Default)]
pub(crate) struct Plan<'c> {
    pub(crate) messages: Vec<Accepting<'c>>,
    /// Mailbox and message.
    pub(crate) deliveries: Vec<(i64, usize)>,
    /// Those that no mailbox took, and why.
    pub(crate) dead: Vec<(i64, usize, &'static str)>,
    pub(crate) counted: Vec<Counted<'c>>,
    pub(crate) trials: Vec<Trial<'c>>,
}
