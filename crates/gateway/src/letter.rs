//! What a caller says when it sends: one shape for REST and tools.

use std::{sync::Arc, time::Duration};

use guildhall_domain::{
    AgentId, Call, Error, Result,
    mail::{Body, MessageId, NewMessage, NewRequest, Priority, Recipient, kind, request::TIMEOUT_DEFAULT},
};
use schemars::JsonSchema;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::hall::Hall;

/// A message on its way out.
#[derive(Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Letter {
    /// Your own id; may be left out where the hall knows it already.
    pub(crate) from: Option<String>,
    /// Whom it is for: an agent's id, `ALL`, `role:<role>`, `capability:<capability>`, `pool:<pool>` (one of its
    /// members gets it) or `topic:<topic>` (its durable subscribers).
    #[schemars(with = "String", extend("examples" = ["worker-1", "role:reviewer", "ALL"]))]
    #[schema(value_type = String)]
    to: Recipient,
    /// What you say: any JSON, text too; at most 768 KiB. It arrives as you write it.
    #[schemars(with = "serde_json::Value", extend("examples" = ["The build is green.", {"task": "review", "file": "src/lib.rs"}]))]
    #[schema(value_type = Object)]
    message: Body,
    /// One word for the kind of message; `message` when left out.
    #[serde(rename = "type")]
    #[schemars(extend("examples" = ["task_proposal"]))]
    kind: Option<String>,
    /// `normal` when left out.
    #[schemars(with = "Option<String>", extend("enum" = ["critical", "high", "normal", "low"]))]
    #[schema(value_type = Option<String>)]
    priority: Option<Priority>,
    /// Repeat a send with the same key, and it is the same message: nobody gets it twice.
    idempotency_key: Option<String>,
    /// The message that this one answers.
    #[schemars(with = "Option<String>")]
    #[schema(value_type = Option<String>)]
    reply_to: Option<MessageId>,
    /// Your own word for what belongs together.
    correlation_id: Option<String>,
    /// The conversation that it is part of.
    conversation_id: Option<String>,
    /// How long it may wait before it is given up, in milliseconds; as long as mail is kept when left out.
    #[schemars(range(min = 1))]
    expires_in_ms: Option<u64>,
    /// Whether you need an answer.
    requires_response: Option<bool>,
}

impl Letter {
    pub(crate) fn into_message(self) -> Result<NewMessage> {
        let message = NewMessage {
            to: self.to,
            kind: self.kind.unwrap_or_else(|| kind::MESSAGE.to_owned()),
            priority: self.priority.unwrap_or_default(),
            body: self.message,
            idempotency_key: self.idempotency_key,
            reply_to: self.reply_to,
            correlation_id: self.correlation_id,
            conversation_id: self.conversation_id,
            expires_in: self.expires_in_ms.map(Duration::from_millis),
            requires_response: self.requires_response.unwrap_or_default(),
        };
        message.check()?;
        Ok(message)
    }
}

/// A request on its way out: a message that one answer belongs to.
#[derive(Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// Your own id; may be left out where the hall knows it already.
    pub(crate) from: Option<String>,
    /// Whom you ask: an agent's id, or `pool:<pool>`, of which one member answers.
    #[schemars(with = "String", extend("examples" = ["worker-1", "pool:reviewers"]))]
    #[schema(value_type = String)]
    to: Recipient,
    /// What you ask: any JSON, text too; at most 768 KiB.
    #[schemars(with = "serde_json::Value", extend("examples" = ["Does src/lib.rs compile for you?"]))]
    #[schema(value_type = Object)]
    message: Body,
    /// One word for the kind of request; `request` when left out.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// `normal` when left out.
    #[schemars(with = "Option<String>", extend("enum" = ["critical", "high", "normal", "low"]))]
    #[schema(value_type = Option<String>)]
    priority: Option<Priority>,
    /// Repeat a request with the same key, and it is the same request.
    idempotency_key: Option<String>,
    /// The message that this one answers.
    #[schemars(with = "Option<String>")]
    #[schema(value_type = Option<String>)]
    reply_to: Option<MessageId>,
    /// Your own word for what belongs together.
    correlation_id: Option<String>,
    /// The conversation that it is part of.
    conversation_id: Option<String>,
    /// How long the answer may take, in milliseconds; 30000 when left out. At most 10 minutes, or 7 days with `async`.
    #[schemars(range(min = 1))]
    timeout_ms: Option<u64>,
    /// True: do not wait; the request's id comes back at once, and the answer is asked for later.
    #[serde(rename = "async")]
    pub(crate) later: Option<bool>,
}

impl Question {
    pub(crate) fn into_request(self) -> Result<NewRequest> {
        let message = NewMessage {
            to: self.to,
            kind: self.kind.unwrap_or_else(|| kind::REQUEST.to_owned()),
            priority: self.priority.unwrap_or_default(),
            body: self.message,
            idempotency_key: self.idempotency_key,
            reply_to: self.reply_to,
            correlation_id: self.correlation_id,
            conversation_id: self.conversation_id,
            expires_in: None,
            requires_response: true,
        };
        let request = NewRequest {
            message,
            timeout: self.timeout_ms.map_or(TIMEOUT_DEFAULT, Duration::from_millis),
            waits: !self.later.unwrap_or_default(),
        };
        request.check()?;
        Ok(request)
    }
}

impl Hall {
    /// The sender is always the caller. In an open hall, one that did not say who it is may say so by `from`.
    pub(crate) async fn sender(&self, call: &Call, from: Option<&str>) -> Result<Call> {
        match (call.principal.agent(), from) {
            (Some(own), Some(named)) if *named != *own.as_str() => Err(Error::denied(format!(
                "from names {named:.128?}, but the sender is always the caller, and you are {own}; leave from out"
            ))),
            (Some(_), _) => Ok(call.clone()),
            (None, Some(named)) => {
                let principal = Arc::new(self.identity.self_named(&call.principal, AgentId::new(named)?)?);
                self.limits.pass(&principal).await?;
                Ok(Call { principal, ..call.clone() })
            }
            (None, None) => call.principal.require_agent().map(|_| call.clone()),
        }
    }
}
