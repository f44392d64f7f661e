//! Tools about requests: asking another agent, answering, taking a question back.

use std::time::Duration;

use futures::FutureExt as _;
use guildhall_domain::{
    Call, Error, ErrorCode, Result,
    mail::{Body, MessageId, NewMessage, Recipient, Request, kind, request::WAIT_MAX},
};
use guildhall_guard::Operation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    About, Ask, Effect, Tool,
    mail::{TOOLSET, WHOSE_WORDS},
};
use crate::{
    hall::Hall,
    letter::Question,
    requests::{self, Said, said},
};

/// As long as its answer may take, and a little for the way.
const ASKING_TIME: Duration = WAIT_MAX.saturating_add(Duration::from_secs(30));

pub(super) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            "request_agent",
            TOOLSET,
            Operation::SendRequest,
            Effect::Repeats,
            About {
                title: "Ask another agent",
                description: "Asks another agent, or one of a pool, and waits for its answer. With async=true it \
                              returns a request_id at once, and the answer comes to your inbox.",
                advice: &[
                    (ErrorCode::Timeout, "It may be busy or away: list_agents shows its status. A longer timeout_ms or async=true leaves it more time."),
                    (ErrorCode::CircuitOpen, "It has failed to answer several times in a row. Ask another agent, or come back after retry_after_ms."),
                    (ErrorCode::Conflict, "It already waits for you, directly or through others: answer its request first, or ask with async=true."),
                    (ErrorCode::NotFound, "list_agents shows whom you can ask."),
                ],
            },
            |ask, question: Question| request_agent(ask, question).boxed(),
        )
        .within(ASKING_TIME),
        Tool::new(
            "reply",
            TOOLSET,
            Operation::AnswerRequest,
            Effect::Repeats,
            About {
                title: "Reply to a message or answer a request",
                description: "Answers what another agent sent you. A request gets its one answer, or with error the \
                              reason why you cannot; to any other message your words go back to its sender.",
                advice: &[
                    (ErrorCode::Conflict, "The request has ended: it was answered, cancelled, or its time is over."),
                    (ErrorCode::NotFound, "check_inbox gives each message with its message_id; use one that was sent to you."),
                ],
            },
            |ask, asked: Reply| reply(ask.hall, ask.call, asked).boxed(),
        ),
        Tool::new(
            "cancel_request",
            TOOLSET,
            Operation::SendRequest,
            Effect::Idempotent,
            About {
                title: "Take a request back",
                description: "Cancels a request that you sent; whoever works on it is told. One that has ended stays as \
                              it is.",
                advice: &[],
            },
            |ask, asked: CancelRequest| cancel_request(ask.hall, ask.call, asked).boxed(),
        ),
    ]
}

#[derive(Serialize, JsonSchema)]
struct Asked {
    success: bool,
    request_id: String,
    /// `answered`, or `pending` with `async`.
    state: &'static str,
    /// The agent whose words the answer is.
    #[serde(skip_serializing_if = "Option::is_none")]
    answered_by: Option<String>,
    /// Its words, as it wrote them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    answer: Option<Body>,
    /// With `async`: without an answer by then it has timed out.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    /// Whose words the answer is.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

async fn request_agent(ask: &Ask<'_>, question: Question) -> Result<Asked> {
    let later = question.later == Some(true);
    let call = ask.hall.sender(ask.call, question.from.as_deref()).await?;
    let waiting = ask.hall.ask(&call, question.into_request()?).await?;
    if later {
        let request = waiting.leave();
        let asked = Asked {
            success: true,
            request_id: request.request_id.to_string(),
            state: request.state.as_str(),
            answered_by: None,
            answer: None,
            deadline: Some(request.deadline.to_string()),
            note: None,
        };
        ask.begins(request);
        return Ok(asked);
    }
    answered(waiting.ended(ask.listener).await?)
}

fn answered(request: Request) -> Result<Asked> {
    let answered = requests::answer(request)?;
    Ok(Asked {
        success: true,
        request_id: answered.request_id,
        state: answered.state,
        answered_by: answered.answered_by,
        answer: answered.answer,
        deadline: None,
        note: Some(WHOSE_WORDS),
    })
}

/// What `request_agent` answers once its request has ended; for those who come back for it later.
pub(crate) fn outcome(request: Request) -> Result<Box<serde_json::value::RawValue>> {
    super::as_text(&answered(request)?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Reply {
    /// The message that you answer, from check_inbox.
    #[schemars(with = "Option<String>")]
    message_id: Option<MessageId>,
    /// The request that you answer; the same as its message's id.
    #[schemars(with = "Option<String>")]
    request_id: Option<MessageId>,
    /// What you say: any JSON, text too.
    #[serde(default, deserialize_with = "said")]
    #[schemars(with = "serde_json::Value", extend("examples" = ["Yes, it compiles.", {"compiles": true}]))]
    message: Option<Body>,
    /// Of a request: why you cannot do it, instead of message.
    error: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Replied {
    success: bool,
    /// The agent that gets your words.
    to: String,
    /// The request that is answered now; absent when it was a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// How the request ended: `answered`, or `failed` with error.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// The message that your words are, when it was no request.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
}

async fn reply(hall: &Hall, call: &Call, asked: Reply) -> Result<Replied> {
    let own = call.principal.require_agent()?;
    let (id, must_be_request) = match (asked.request_id, asked.message_id) {
        (Some(request), None) => (request, true),
        (None, Some(message)) => (message, false),
        (Some(request), Some(message)) if request == message => (request, true),
        _ => return Err(Error::invalid("say what you answer: message_id or request_id, one of them")),
    };
    let request = match hall.mail.request_state(call, id, None, Duration::ZERO).await {
        // A request that the caller sent itself is nothing that it could answer.
        Ok(request) => Some(request).filter(|request| must_be_request || request.from != own),
        Err(error) if error.code == ErrorCode::NotFound && !must_be_request => None,
        Err(error) => return Err(error),
    };
    if request.is_some() {
        let ended = hall.mail.answer(call, id, Said::new(asked.message, asked.error).into_answer()?).await?;
        return Ok(Replied {
            success: true,
            to: ended.from.to_string(),
            request_id: Some(id.to_string()),
            state: Some(ended.state.as_str()),
            message_id: None,
        });
    }
    let (Some(body), None) = (asked.message, asked.error) else {
        return Err(Error::invalid("the message is no request: say what you answer as message, and leave error out"));
    };
    let answered = hall.mail.message(call, id).await?.message;
    if answered.from == own {
        return Err(Error::invalid("you wrote that message yourself: use send_message to write more"));
    }
    let message = NewMessage {
        kind: kind::RESPONSE.to_owned(),
        priority: answered.priority,
        reply_to: Some(id),
        correlation_id: answered.correlation_id,
        conversation_id: answered.conversation_id,
        ..NewMessage::new(Recipient::Agent(answered.from.clone()), body)
    };
    let receipt = hall.mail.send(call, vec![message]).await?.pop();
    Ok(Replied {
        success: true,
        to: answered.from.to_string(),
        request_id: None,
        state: None,
        message_id: receipt.map(|receipt| receipt.message_id.to_string()),
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CancelRequest {
    /// The request's id, from request_agent.
    #[schemars(with = "String")]
    request_id: MessageId,
    /// Why; told to the other side.
    reason: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Cancelled {
    success: bool,
    request_id: String,
    /// How the request stands now: `cancelled`, unless it had ended before.
    state: &'static str,
}

async fn cancel_request(hall: &Hall, call: &Call, asked: CancelRequest) -> Result<Cancelled> {
    let reason = asked.reason.as_deref().unwrap_or("the requester cancelled it");
    let request = hall.mail.cancel_request(call, asked.request_id, reason).await?;
    Ok(Cancelled { success: true, request_id: request.request_id.to_string(), state: request.state.as_str() })
}
