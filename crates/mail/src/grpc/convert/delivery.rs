//! What becomes of a message: taking, settling, history, dead letters.

use std::time::Duration;

use guildhall_domain::{
    AgentId, Result,
    mail::{
        DeadLetter, Delivered, DeliveryState, Lease, Mailbox, Message, MessageId,
        delivery::{
            DeadLetterQuery, DeadLetterSelection, History, HistoryQuery, Kept, Settling, TakeMail, Tracked,
            TrackedDelivery, Unread, Verdict,
        },
    },
};
use guildhall_proto::mail::v1 as wire;
use guildhall_rpc::{
    status::{from_detail, to_detail},
    wire::{millis, present, unknown},
};

use super::{Wire, at, count, ids, mailbox, number, pack_all, unpack_all};

impl Wire for DeliveryState {
    type Message = i32;

    fn pack(self) -> i32 {
        let state = match self {
            Self::Waiting => wire::DeliveryState::Waiting,
            Self::Leased => wire::DeliveryState::Leased,
            Self::Acknowledged => wire::DeliveryState::Acknowledged,
            Self::Dead => wire::DeliveryState::Dead,
            Self::Withdrawn => wire::DeliveryState::Withdrawn,
        };
        state.into()
    }

    fn unpack(state: i32) -> Result<Self> {
        match wire::DeliveryState::try_from(state) {
            Ok(wire::DeliveryState::Waiting) => Ok(Self::Waiting),
            Ok(wire::DeliveryState::Leased) => Ok(Self::Leased),
            Ok(wire::DeliveryState::Acknowledged) => Ok(Self::Acknowledged),
            Ok(wire::DeliveryState::Dead) => Ok(Self::Dead),
            Ok(wire::DeliveryState::Withdrawn) => Ok(Self::Withdrawn),
            Ok(wire::DeliveryState::Unspecified) | Err(_) => Err(unknown("state of a delivery")),
        }
    }
}

/// Of this agent.
impl Wire for (AgentId, TakeMail) {
    type Message = wire::TakeRequest;

    fn pack(self) -> wire::TakeRequest {
        let (agent_id, TakeMail { limit, wait, taker, lease, told }) = self;
        wire::TakeRequest {
            agent_id: agent_id.into(),
            limit: count(limit),
            wait_ms: millis(wait),
            taker,
            lease_ms: millis(lease),
            told,
        }
    }

    fn unpack(message: wire::TakeRequest) -> Result<Self> {
        let wire::TakeRequest { agent_id, limit, wait_ms, taker, lease_ms, told } = message;
        let take = TakeMail {
            limit: number(limit),
            wait: Duration::from_millis(wait_ms),
            taker,
            lease: Duration::from_millis(lease_ms),
            told,
        };
        Ok((AgentId::new(agent_id)?, take))
    }
}

impl Wire for Delivered {
    type Message = wire::Delivered;

    fn pack(self) -> wire::Delivered {
        let Self { message, mailbox, lease, lease_until, attempt } = self;
        wire::Delivered {
            message: Some(message.pack()),
            mailbox: mailbox.into(),
            lease: lease.into(),
            lease_until_at_ms: lease_until.as_millis(),
            attempt,
        }
    }

    fn unpack(message: wire::Delivered) -> Result<Self> {
        let wire::Delivered { message, mailbox, lease, lease_until_at_ms, attempt } = message;
        Ok(Self {
            message: Message::unpack(present(message, "the message")?)?,
            mailbox: Mailbox::try_from(mailbox)?,
            lease: Lease::try_from(lease)?,
            lease_until: at(lease_until_at_ms),
            attempt,
        })
    }
}

impl Wire for Vec<Delivered> {
    type Message = wire::TakeResponse;

    fn pack(self) -> wire::TakeResponse {
        wire::TakeResponse { delivered: pack_all(self) }
    }

    fn unpack(message: wire::TakeResponse) -> Result<Self> {
        unpack_all(message.delivered)
    }
}

/// By this agent.
impl Wire for (AgentId, Vec<Settling>) {
    type Message = wire::SettleRequest;

    fn pack(self) -> wire::SettleRequest {
        let (agent_id, settlings) = self;
        wire::SettleRequest { agent_id: agent_id.into(), settlings: pack_all(settlings) }
    }

    fn unpack(message: wire::SettleRequest) -> Result<Self> {
        let wire::SettleRequest { agent_id, settlings } = message;
        Ok((AgentId::new(agent_id)?, unpack_all(settlings)?))
    }
}

impl Wire for Settling {
    type Message = wire::Settling;

    fn pack(self) -> wire::Settling {
        let Self { message_id, lease, verdict } = self;
        let verdict = match verdict {
            Verdict::Ack => wire::settling::Verdict::Ack(wire::Ack {}),
            Verdict::Nack { delay, reason } => {
                wire::settling::Verdict::Nack(wire::Nack { delay_ms: delay.map(millis), reason })
            }
            Verdict::Refuse { reason } => wire::settling::Verdict::Refuse(wire::Refuse { reason }),
            Verdict::Return => wire::settling::Verdict::GiveBack(wire::Return {}),
            Verdict::Renew => wire::settling::Verdict::Renew(wire::Renew {}),
        };
        wire::Settling { message_id: message_id.into(), lease: lease.into(), verdict: Some(verdict) }
    }

    fn unpack(message: wire::Settling) -> Result<Self> {
        let wire::Settling { message_id, lease, verdict } = message;
        let verdict = match present(verdict, "the verdict")? {
            wire::settling::Verdict::Ack(wire::Ack {}) => Verdict::Ack,
            wire::settling::Verdict::Nack(wire::Nack { delay_ms, reason }) => {
                Verdict::Nack { delay: delay_ms.map(Duration::from_millis), reason }
            }
            wire::settling::Verdict::Refuse(wire::Refuse { reason }) => Verdict::Refuse { reason },
            wire::settling::Verdict::GiveBack(wire::Return {}) => Verdict::Return,
            wire::settling::Verdict::Renew(wire::Renew {}) => Verdict::Renew,
        };
        Ok(Self { message_id: MessageId::try_from(message_id)?, lease: Lease::try_from(lease)?, verdict })
    }
}

/// What became of a settling.
impl Wire for Result<()> {
    type Message = wire::Settled;

    fn pack(self) -> wire::Settled {
        wire::Settled { error: self.err().map(to_detail) }
    }

    fn unpack(message: wire::Settled) -> Result<Self> {
        let wire::Settled { error } = message;
        match error {
            None => Ok(Ok(())),
            Some(detail) => Ok(Err(from_detail(detail).ok_or_else(|| unknown("code of an error"))?)),
        }
    }
}

impl Wire for Vec<Result<()>> {
    type Message = wire::SettleResponse;

    fn pack(self) -> wire::SettleResponse {
        wire::SettleResponse { settled: pack_all(self) }
    }

    fn unpack(message: wire::SettleResponse) -> Result<Self> {
        unpack_all(message.settled)
    }
}

impl Wire for Unread {
    type Message = wire::Unread;

    fn pack(self) -> wire::Unread {
        let Self { waiting, critical } = self;
        wire::Unread { waiting, critical }
    }

    fn unpack(message: wire::Unread) -> Result<Self> {
        let wire::Unread { waiting, critical } = message;
        Ok(Self { waiting, critical })
    }
}

impl Wire for (AgentId, HistoryQuery) {
    type Message = wire::HistoryRequest;

    fn pack(self) -> wire::HistoryRequest {
        let (agent_id, HistoryQuery { after, limit }) = self;
        wire::HistoryRequest { agent_id: agent_id.into(), after: after.map(Into::into), limit: count(limit) }
    }

    fn unpack(message: wire::HistoryRequest) -> Result<Self> {
        let wire::HistoryRequest { agent_id, after, limit } = message;
        let after = after.map(MessageId::try_from).transpose()?;
        Ok((AgentId::new(agent_id)?, HistoryQuery { after, limit: number(limit) }))
    }
}

impl Wire for Kept {
    type Message = wire::Kept;

    fn pack(self) -> wire::Kept {
        let Self { message, state, attempts } = self;
        wire::Kept { message: Some(message.pack()), state: state.pack(), attempts }
    }

    fn unpack(message: wire::Kept) -> Result<Self> {
        let wire::Kept { message, state, attempts } = message;
        let message = Message::unpack(present(message, "the message")?)?;
        Ok(Self { message, state: DeliveryState::unpack(state)?, attempts })
    }
}

impl Wire for History {
    type Message = wire::HistoryResponse;

    fn pack(self) -> wire::HistoryResponse {
        let Self { messages, total } = self;
        wire::HistoryResponse { messages: pack_all(messages), total }
    }

    fn unpack(message: wire::HistoryResponse) -> Result<Self> {
        let wire::HistoryResponse { messages, total } = message;
        Ok(Self { messages: unpack_all(messages)?, total })
    }
}

impl Wire for Tracked {
    type Message = wire::MessageResponse;

    fn pack(self) -> wire::MessageResponse {
        let Self { message, recipients, complete, deliveries } = self;
        wire::MessageResponse { message: Some(message.pack()), recipients, complete, deliveries: pack_all(deliveries) }
    }

    fn unpack(message: wire::MessageResponse) -> Result<Self> {
        let wire::MessageResponse { message, recipients, complete, deliveries } = message;
        let message = Message::unpack(present(message, "the message")?)?;
        Ok(Self { message, recipients, complete, deliveries: unpack_all(deliveries)? })
    }
}

impl Wire for TrackedDelivery {
    type Message = wire::TrackedDelivery;

    fn pack(self) -> wire::TrackedDelivery {
        let Self { mailbox, state, attempts, settled_at, reason } = self;
        wire::TrackedDelivery {
            mailbox: mailbox.into(),
            state: state.pack(),
            attempts,
            settled_at_ms: settled_at.map(|at| at.as_millis()),
            reason,
        }
    }

    fn unpack(message: wire::TrackedDelivery) -> Result<Self> {
        let wire::TrackedDelivery { mailbox, state, attempts, settled_at_ms, reason } = message;
        Ok(Self {
            mailbox: Mailbox::try_from(mailbox)?,
            state: DeliveryState::unpack(state)?,
            attempts,
            settled_at: settled_at_ms.map(at),
            reason,
        })
    }
}

impl Wire for DeadLetterQuery {
    type Message = wire::DeadLettersRequest;

    fn pack(self) -> wire::DeadLettersRequest {
        let Self { mailbox, message, after, limit } = self;
        wire::DeadLettersRequest {
            mailbox: mailbox.map(Into::into),
            message_id: message.map(Into::into),
            after: after
                .map(|(at, message)| wire::DeadLetterPlace { died_at_ms: at.as_millis(), message_id: message.into() }),
            limit: count(limit),
        }
    }

    fn unpack(message: wire::DeadLettersRequest) -> Result<Self> {
        let wire::DeadLettersRequest { mailbox: of, message_id, after, limit } = message;
        let place = |wire::DeadLetterPlace { died_at_ms, message_id }| {
            Ok::<_, guildhall_domain::Error>((at(died_at_ms), MessageId::try_from(message_id)?))
        };
        Ok(Self {
            mailbox: mailbox(of)?,
            message: message_id.map(MessageId::try_from).transpose()?,
            after: after.map(place).transpose()?,
            limit: number(limit),
        })
    }
}

impl Wire for DeadLetter {
    type Message = wire::DeadLetter;

    fn pack(self) -> wire::DeadLetter {
        let Self { message, mailbox, attempts, died_at, reason } = self;
        wire::DeadLetter {
            message: Some(message.pack()),
            mailbox: mailbox.into(),
            attempts,
            died_at_ms: died_at.as_millis(),
            reason,
        }
    }

    fn unpack(message: wire::DeadLetter) -> Result<Self> {
        let wire::DeadLetter { message, mailbox, attempts, died_at_ms, reason } = message;
        Ok(Self {
            message: Message::unpack(present(message, "the message")?)?,
            mailbox: Mailbox::try_from(mailbox)?,
            attempts,
            died_at: at(died_at_ms),
            reason,
        })
    }
}

impl Wire for DeadLetterSelection {
    type Message = wire::DeadLetterSelection;

    fn pack(self) -> wire::DeadLetterSelection {
        let Self { messages, mailbox, all } = self;
        wire::DeadLetterSelection {
            message_ids: messages.into_iter().map(Into::into).collect(),
            mailbox: mailbox.map(Into::into),
            all,
        }
    }

    fn unpack(message: wire::DeadLetterSelection) -> Result<Self> {
        let wire::DeadLetterSelection { message_ids, mailbox: of, all } = message;
        Ok(Self { messages: ids(message_ids)?, mailbox: mailbox(of)?, all })
    }
}
