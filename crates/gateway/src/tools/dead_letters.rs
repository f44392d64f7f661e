//! Tools about dead letters: mail of the caller's own that could not be delivered.

use futures::FutureExt as _;
use guildhall_domain::{
    Call, Error, ErrorCode, Result,
    mail::{
        Body, DeadLetter, Mailbox, MessageId,
        delivery::{DeadLetterQuery, DeadLetterSelection},
    },
};
use guildhall_guard::Operation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    About, Effect, Tool,
    mail::{TOOLSET, WHOSE_WORDS},
};
use crate::{
    hall::Hall,
    mail::{dead_letter_cursor, read_dead_letter_cursor},
};

const LIMIT_DEFAULT: usize = 20;
const LIMIT_MAX: usize = 100;

pub(super) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            "list_dead_letters",
            TOOLSET,
            Operation::ReadDeadLetters,
            Effect::ReadsOnly,
            About {
                title: "List dead letters",
                description: "Lists messages to you that could not be delivered, with the reason: handed back too \
                              often, expired, or your inbox was full. Newest first.",
                advice: &[],
            },
            |ask, asked: ListDeadLetters| list_dead_letters(ask.hall, ask.call, asked).boxed(),
        ),
        Tool::new(
            "redrive_dead_letter",
            TOOLSET,
            Operation::RedriveDeadLetters,
            Effect::Idempotent,
            About {
                title: "Deliver a dead letter again",
                description: "Puts a dead letter back into your inbox, as if it were sent anew.",
                advice: &[(ErrorCode::NotFound, "list_dead_letters shows which there are.")],
            },
            |ask, asked: RedriveDeadLetter| redrive_dead_letter(ask.hall, ask.call, asked).boxed(),
        ),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListDeadLetters {
    /// At most this many, 1 to 100; 20 when left out.
    #[schemars(range(min = 1, max = 100))]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct DeadLetters {
    success: bool,
    messages: Vec<Dead>,
    /// Give it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
    /// Whose words the messages are.
    note: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct Dead {
    message_id: String,
    /// The agent whose words these are.
    from: String,
    #[serde(rename = "type")]
    kind: String,
    /// The sender's words, as they were written.
    #[schemars(with = "serde_json::Value")]
    message: Body,
    sent_at: String,
    died_at: String,
    /// How often it was handed out.
    attempts: u32,
    /// Why it could not be delivered.
    reason: String,
}

impl From<DeadLetter> for Dead {
    fn from(dead: DeadLetter) -> Self {
        Self {
            message_id: dead.message.message_id.to_string(),
            from: dead.message.from.to_string(),
            kind: dead.message.kind,
            message: dead.message.body,
            sent_at: dead.message.sent_at.to_string(),
            died_at: dead.died_at.to_string(),
            attempts: dead.attempts,
            reason: dead.reason,
        }
    }
}

async fn list_dead_letters(hall: &Hall, call: &Call, asked: ListDeadLetters) -> Result<DeadLetters> {
    let own = Mailbox::Agent(call.principal.require_agent()?);
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Error::invalid(format!("limit is 1 to {LIMIT_MAX}")));
    }
    let after = asked.cursor.as_deref().map(read_dead_letter_cursor).transpose()?;
    let query = DeadLetterQuery { mailbox: Some(own), message: None, after, limit };
    let page = hall.mail.dead_letters(call, query).await?;
    let next_cursor = dead_letter_cursor(&page, limit);
    let messages = page.into_iter().map(Dead::from).collect();
    Ok(DeadLetters { success: true, messages, next_cursor, note: WHOSE_WORDS })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RedriveDeadLetter {
    /// The message's id, from list_dead_letters.
    #[schemars(with = "String")]
    message_id: MessageId,
}

#[derive(Serialize, JsonSchema)]
struct Redriven {
    success: bool,
    message_id: String,
}

async fn redrive_dead_letter(hall: &Hall, call: &Call, asked: RedriveDeadLetter) -> Result<Redriven> {
    let own = Mailbox::Agent(call.principal.require_agent()?);
    let selection = DeadLetterSelection { messages: vec![asked.message_id], mailbox: Some(own), all: false };
    if hall.mail.redrive(call, selection).await? == 0 {
        return Err(Error::not_found(format!("you have no dead letter {}", asked.message_id)));
    }
    Ok(Redriven { success: true, message_id: asked.message_id.to_string() })
}
