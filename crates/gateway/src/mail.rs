//! What REST and tools do with mail alike.

use std::time::Duration;

use guildhall_domain::{
    AgentId, Call, Error, Result, Timestamp,
    mail::{
        DeadLetter, MessageId, Receipt,
        delivery::{NACK_DELAY_MAX, Settling, Verdict},
    },
    ports::bus::Durability,
};
use schemars::JsonSchema;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{hall::Hall, letter::Letter};

/// How long a caller may wait for mail: within what proxies let a connection be quiet.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);
/// Why a message was handed back; the port's own bound.
const REASON_MAX_BYTES: usize = 512;

/// What a sender holds once its message is as safe as `durability` says.
#[derive(Serialize, JsonSchema, ToSchema)]
pub(crate) struct Sent {
    message_id: String,
    /// How many mailboxes it reaches.
    recipients: u32,
    /// `fsync`, `replicated` or `buffered`
    #[schemars(with = "String")]
    #[schema(value_type = String)]
    durability: Durability,
    /// True when the key was used before for this very message: nothing was added.
    duplicate: bool,
}

impl From<Receipt> for Sent {
    fn from(receipt: Receipt) -> Self {
        Self {
            message_id: receipt.message_id.to_string(),
            recipients: receipt.recipients,
            durability: receipt.durability,
            duplicate: receipt.duplicate,
        }
    }
}

pub(crate) fn wait(wait_ms: Option<u64>) -> Result<Duration> {
    let wait = Duration::from_millis(wait_ms.unwrap_or_default());
    if wait > WAIT_MAX {
        return Err(Error::invalid(format!("wait_ms is 0 to {}", WAIT_MAX.as_millis())));
    }
    Ok(wait)
}

/// Within the bounds of the port: on a socket it goes there together with others, which it must not take along.
pub(crate) fn nack(delay_ms: Option<u64>, reason: Option<String>) -> Result<Verdict> {
    let delay = delay_ms.map(Duration::from_millis);
    if delay.is_some_and(|delay| delay > NACK_DELAY_MAX) {
        return Err(Error::invalid(format!("delay_ms is 0 to {}", NACK_DELAY_MAX.as_millis())));
    }
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_MAX_BYTES || reason.chars().any(char::is_control)) {
        return Err(Error::invalid(format!("reason is at most {REASON_MAX_BYTES} bytes, without control characters")));
    }
    Ok(Verdict::Nack { delay, reason })
}

/// The agent that was named, or the caller.
pub(crate) fn whose(call: &Call, named: Option<&str>) -> Result<AgentId> {
    match named {
        Some(named) => AgentId::new(named),
        None => call.principal.require_agent(),
    }
}

/// Where the next page of dead letters begins, if this one was full.
pub(crate) fn dead_letter_cursor(page: &[DeadLetter], limit: usize) -> Option<String> {
    let last = page.last().filter(|_| page.len() == limit)?;
    Some(format!("{}.{}", last.died_at.as_millis(), last.message.message_id))
}

pub(crate) fn read_dead_letter_cursor(cursor: &str) -> Result<(Timestamp, MessageId)> {
    let parts = cursor.split_once('.').and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
    let (at, id) =
        parts.ok_or_else(|| Error::invalid("the cursor is not one that this list gave; begin without one"))?;
    Ok((Timestamp::from_millis(at), id))
}

impl Hall {
    /// All of one caller's letters or none; they name one sender, or leave it out.
    pub(crate) async fn send(&self, call: &Call, letters: Vec<Letter>) -> Result<Vec<Receipt>> {
        let mut froms = letters.iter().filter_map(|letter| letter.from.as_deref());
        let from = froms.next();
        if froms.any(|other| Some(other) != from) {
            return Err(Error::denied("the messages of one list have one sender: the caller"));
        }
        let call = self.sender(call, from).await?;
        let messages = letters.into_iter().map(Letter::into_message).collect::<Result<_>>()?;
        self.mail.send(&call, messages).await
    }

    pub(crate) async fn settle(&self, call: &Call, agent: &AgentId, settling: Settling) -> Result<()> {
        let each = self.mail.settle(call, agent, vec![settling.clone()]).await?;
        self.unread.settled(&call.principal.tenant, agent, &settling);
        each.into_iter().next().unwrap_or_else(|| Err(Error::internal("a settling was taken without a verdict")))
    }
}
