//! A message in one mailbox: waiting, taken under a lease, settled.

use std::{fmt, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _},
};
use serde_json::value::RawValue;

use super::{Mailbox, Message, MessageId};
use crate::{Error, Result, Timestamp};

/// How long a taker has before what it took is handed out again.
pub const LEASE: Duration = Duration::from_secs(5 * 60);
/// Hand-outs that end in a nack or a lease that ran out, before a message is dead.
pub const ATTEMPTS_MAX: u32 = 5;
/// Messages in one taking.
pub const TAKE_MAX: usize = 100;
/// Bodies in one taking, so that an answer passes every wire; the first message is given however large it is.
pub const TAKE_MAX_BYTES: usize = 3 * 1024 * 1024;
/// Backoff after the first failed attempt; doubles with each.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
pub const NACK_DELAY_MAX: Duration = Duration::from_secs(60 * 60);

/// How long a message rests after its `attempts`th failed attempt.
pub fn backoff(attempts: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(8))
}

/// The right to settle one delivery. Opaque to its holder; a later hand-out of the same delivery makes it stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lease {
    /// The mailbox, as the store numbers it.
    pub mailbox: i64,
    /// The message's number in the order of its mailbox.
    pub number: i64,
    /// Counts hand-outs of this delivery.
    pub hand_out: i64,
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}.{:x}", self.mailbox, self.number, self.hand_out)
    }
}

impl FromStr for Lease {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('.').map(|part| i64::from_str_radix(part, 16));
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(mailbox)), Some(Ok(number)), Some(Ok(hand_out)), None) => Ok(Self { mailbox, number, hand_out }),
            _ => Err(Error::invalid("not a lease: it is the text that came with the message when it was taken")),
        }
    }
}

impl TryFrom<String> for Lease {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Lease> for String {
    fn from(lease: Lease) -> String {
        lease.to_string()
    }
}

/// Mail in its taker's hands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Delivered {
    #[serde(flatten)]
    pub message: Message,
    pub mailbox: Mailbox,
    pub lease: Lease,
    pub lease_until: Timestamp,
    /// 1 the first time.
    pub attempt: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    Waiting,
    Leased,
    Acknowledged,
    /// A dead letter.
    Dead,
    /// Taken back before anyone had it: a request that was cancelled.
    Withdrawn,
}

impl DeliveryState {
    pub const ALL: [Self; 5] = [Self::Waiting, Self::Leased, Self::Acknowledged, Self::Dead, Self::Withdrawn];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Leased => "leased",
            Self::Acknowledged => "acknowledged",
            Self::Dead => "dead",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// As databases and wires keep it.
    pub const fn rank(self) -> u8 {
        self as u8
    }

    pub fn of_rank(rank: u8) -> Option<Self> {
        Self::ALL.get(usize::from(rank)).copied()
    }
}

/// What its taker says of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Ack,
    /// Not now: again after the delay, or after the usual backoff. Counts as an attempt; what else was taken of the
    /// same sender in the same run is given back with it, so that it is not overtaken.
    Nack {
        delay: Option<Duration>,
        reason: Option<String>,
    },
    /// Never: it is a dead letter at once, with this reason.
    Refuse {
        reason: String,
    },
    /// Given back at once, as if it had not been taken: no attempt is counted.
    Return,
    /// The lease runs anew.
    Renew,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settling {
    pub message_id: MessageId,
    pub lease: Lease,
    pub verdict: Verdict,
}

/// What in a mailbox is not settled, without taking it. What is in someone's hands counts too, and so does what rests
/// after a nack: it may wait again at any moment, and a mailbox keeps one number. Who took some knows how many, and may
/// take them off.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Unread {
    pub waiting: u64,
    /// Of these, critical ones.
    pub critical: u64,
}

/// A message in an agent's history, or on its way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kept {
    #[serde(flatten)]
    pub message: Message,
    pub state: DeliveryState,
    pub attempts: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryQuery {
    pub after: Option<MessageId>,
    /// 1 to 1,000.
    pub limit: usize,
}

/// The newest messages (or those after the one named), newest last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    pub messages: Vec<Kept>,
    /// How many the mailbox keeps in all.
    pub total: u64,
}

/// How far a message has come.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tracked {
    #[serde(flatten)]
    pub message: Message,
    /// Mailboxes it is for.
    pub recipients: u32,
    /// False while a wide message is still being brought to its mailboxes.
    pub complete: bool,
    /// The first 100 mailboxes; to a receiver, its own alone.
    pub deliveries: Vec<TrackedDelivery>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedDelivery {
    pub mailbox: Mailbox,
    pub state: DeliveryState,
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A message that could not be delivered to one mailbox, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeadLetter {
    #[serde(flatten)]
    pub message: Message,
    pub mailbox: Mailbox,
    pub attempts: u32,
    pub died_at: Timestamp,
    pub reason: String,
}

/// Which dead letters are meant. An empty selection means none: `all` says so when all are meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetterSelection {
    pub messages: Vec<MessageId>,
    /// Only those of this mailbox.
    pub mailbox: Option<Mailbox>,
    pub all: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetterQuery {
    pub mailbox: Option<Mailbox>,
    pub message: Option<MessageId>,
    /// The last one of the page before.
    pub after: Option<(Timestamp, MessageId)>,
    /// 1 to 1,000; newest first.
    pub limit: usize,
}

/// What a taker asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeMail {
    /// 1 to [`TAKE_MAX`].
    pub limit: usize,
    /// How long to wait when there is nothing.
    pub wait: Duration,
    /// Names the hand that takes, such as one live socket, so that all it holds can be given back at once.
    pub taker: String,
    pub lease: Duration,
    /// It was heard that there is mail: nobody need look for it before it is taken.
    pub told: bool,
}

/// Reads a record that has a message's fields among its own. `flatten` cannot: it would read the body into a value,
/// and a body is kept letter for letter.
fn beside_a_message<'de, D, R>(deserializer: D) -> Result<(Message, R), D::Error>
where
    D: Deserializer<'de>,
    R: DeserializeOwned,
{
    let text = Box::<RawValue>::deserialize(deserializer)?;
    let message = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
    let rest = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
    Ok((message, rest))
}

macro_rules! reads_beside_a_message {
    ($($name:ident { $($field:ident: $kind:ty),+ $(,)? })+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                struct Rest {
                    $($field: $kind,)+
                }
                let (message, Rest { $($field),+ }) = beside_a_message(deserializer)?;
                Ok(Self { message, $($field),+ })
            }
        }
    )+};
}

reads_beside_a_message! {
    Delivered { mailbox: Mailbox, lease: Lease, lease_until: Timestamp, attempt: u32 }
    Kept { state: DeliveryState, attempts: u32 }
    Tracked { recipients: u32, complete: bool, deliveries: Vec<TrackedDelivery> }
    DeadLetter { mailbox: Mailbox, attempts: u32, died_at: Timestamp, reason: String }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Body;

    #[test]
    fn what_is_read_beside_a_message_keeps_its_body_letter_for_letter() {
        let body = r#"{"z":1.0,"a":12345678901234567890123}"#;
        let kept = Kept {
            message: Message {
                message_id: MessageId(ulid::Ulid::nil()),
                from: "a".parse().unwrap(),
                to: "b".parse().unwrap(),
                kind: "message".into(),
                priority: crate::mail::Priority::Normal,
                body: Body::from_text(body).unwrap(),
                sent_at: Timestamp::from_millis(1),
                expires_at: None,
                reply_to: None,
                correlation_id: None,
                conversation_id: None,
                requires_response: false,
            },
            state: DeliveryState::Leased,
            attempts: 2,
        };
        let text = serde_json::to_string(&kept).unwrap();
        assert!(text.contains(body), "{text}");
        assert_eq!(serde_json::from_str::<Kept>(&text).unwrap(), kept);
    }
}
