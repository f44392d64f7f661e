//! Messages and their receipts.

use std::time::Duration;

use guildhall_domain::{
    AgentId, Result,
    mail::{Message, MessageId, NewMessage, Priority, Receipt, Recipient},
    ports::bus::Durability,
};
use guildhall_proto::mail::v1 as wire;
use guildhall_rpc::wire::{millis, unknown};

use super::{Wire, at, body, pack_all, unpack_all};

impl Wire for Priority {
    type Message = i32;

    fn pack(self) -> i32 {
        let priority = match self {
            Self::Critical => wire::Priority::Critical,
            Self::High => wire::Priority::High,
            Self::Normal => wire::Priority::Normal,
            Self::Low => wire::Priority::Low,
        };
        priority.into()
    }

    fn unpack(priority: i32) -> Result<Self> {
        match wire::Priority::try_from(priority) {
            Ok(wire::Priority::Critical) => Ok(Self::Critical),
            Ok(wire::Priority::High) => Ok(Self::High),
            Ok(wire::Priority::Normal) => Ok(Self::Normal),
            Ok(wire::Priority::Low) => Ok(Self::Low),
            Ok(wire::Priority::Unspecified) | Err(_) => Err(unknown("priority")),
        }
    }
}

impl Wire for NewMessage {
    type Message = wire::NewMessage;

    fn pack(self) -> wire::NewMessage {
        let Self {
            to,
            kind,
            priority,
            body,
            idempotency_key,
            reply_to,
            correlation_id,
            conversation_id,
            expires_in,
            requires_response,
        } = self;
        wire::NewMessage {
            to: to.into(),
            kind,
            priority: priority.pack(),
            body_json: body.as_text().to_owned(),
            idempotency_key,
            reply_to: reply_to.map(Into::into),
            correlation_id,
            conversation_id,
            expires_in_ms: expires_in.map(millis),
            requires_response,
        }
    }

    fn unpack(message: wire::NewMessage) -> Result<Self> {
        let wire::NewMessage {
            to,
            kind,
            priority,
            body_json,
            idempotency_key,
            reply_to,
            correlation_id,
            conversation_id,
            expires_in_ms,
            requires_response,
        } = message;
        Ok(Self {
            to: Recipient::try_from(to)?,
            kind,
            priority: Priority::unpack(priority)?,
            body: body(body_json)?,
            idempotency_key,
            reply_to: reply_to.map(MessageId::try_from).transpose()?,
            correlation_id,
            conversation_id,
            expires_in: expires_in_ms.map(Duration::from_millis),
            requires_response,
        })
    }
}

impl Wire for Message {
    type Message = wire::Message;

    fn pack(self) -> wire::Message {
        let Self {
            message_id,
            from,
            to,
            kind,
            priority,
            body,
            sent_at,
            expires_at,
            reply_to,
            correlation_id,
            conversation_id,
            requires_response,
        } = self;
        wire::Message {
            message_id: message_id.into(),
            from: from.into(),
            to: to.into(),
            kind,
            priority: priority.pack(),
            body_json: body.as_text().to_owned(),
            sent_at_ms: sent_at.as_millis(),
            expires_at_ms: expires_at.map(|at| at.as_millis()),
            reply_to: reply_to.map(Into::into),
            correlation_id,
            conversation_id,
            requires_response,
        }
    }

    fn unpack(message: wire::Message) -> Result<Self> {
        let wire::Message {
            message_id,
            from,
            to,
            kind,
            priority,
            body_json,
            sent_at_ms,
            expires_at_ms,
            reply_to,
            correlation_id,
            conversation_id,
            requires_response,
        } = message;
        Ok(Self {
            message_id: MessageId::try_from(message_id)?,
            from: AgentId::new(from)?,
            to: Recipient::try_from(to)?,
            kind,
            priority: Priority::unpack(priority)?,
            body: body(body_json)?,
            sent_at: at(sent_at_ms),
            expires_at: expires_at_ms.map(at),
            reply_to: reply_to.map(MessageId::try_from).transpose()?,
            correlation_id,
            conversation_id,
            requires_response,
        })
    }
}

impl Wire for Receipt {
    type Message = wire::Receipt;

    fn pack(self) -> wire::Receipt {
        let Self { message_id, recipients, durability, duplicate } = self;
        wire::Receipt { message_id: message_id.into(), recipients, durability: durability.pack(), duplicate }
    }

    fn unpack(message: wire::Receipt) -> Result<Self> {
        let wire::Receipt { message_id, recipients, durability, duplicate } = message;
        Ok(Self {
            message_id: MessageId::try_from(message_id)?,
            recipients,
            durability: Durability::unpack(durability)?,
            duplicate,
        })
    }
}

impl Wire for Vec<NewMessage> {
    type Message = wire::SendRequest;

    fn pack(self) -> wire::SendRequest {
        wire::SendRequest { messages: pack_all(self) }
    }

    fn unpack(message: wire::SendRequest) -> Result<Self> {
        unpack_all(message.messages)
    }
}

impl Wire for Vec<Receipt> {
    type Message = wire::SendResponse;

    fn pack(self) -> wire::SendResponse {
        wire::SendResponse { receipts: pack_all(self) }
    }

    fn unpack(message: wire::SendResponse) -> Result<Self> {
        unpack_all(message.receipts)
    }
}
