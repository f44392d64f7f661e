//! Requests and their answers.

use std::time::Duration;

use guildhall_domain::{
    AgentId, Result,
    mail::{Answer, Mailbox, MessageId, NewMessage, NewRequest, Progress, Request, RequestState},
};
use guildhall_proto::mail::v1 as wire;
use guildhall_rpc::wire::{millis, present, unknown};

use super::{Wire, at, body};

impl Wire for RequestState {
    type Message = i32;

    fn pack(self) -> i32 {
        let state = match self {
            Self::Pending => wire::RequestState::Pending,
            Self::Answered => wire::RequestState::Answered,
            Self::Failed => wire::RequestState::Failed,
            Self::Cancelled => wire::RequestState::Cancelled,
            Self::TimedOut => wire::RequestState::TimedOut,
        };
        state.into()
    }

    fn unpack(state: i32) -> Result<Self> {
        match wire::RequestState::try_from(state) {
            Ok(wire::RequestState::Pending) => Ok(Self::Pending),
            Ok(wire::RequestState::Answered) => Ok(Self::Answered),
            Ok(wire::RequestState::Failed) => Ok(Self::Failed),
            Ok(wire::RequestState::Cancelled) => Ok(Self::Cancelled),
            Ok(wire::RequestState::TimedOut) => Ok(Self::TimedOut),
            Ok(wire::RequestState::Unspecified) | Err(_) => Err(unknown("state of a request")),
        }
    }
}

impl Wire for Progress {
    type Message = wire::Progress;

    fn pack(self) -> wire::Progress {
        let Self { progress, total, note } = self;
        wire::Progress { progress, total, note }
    }

    fn unpack(message: wire::Progress) -> Result<Self> {
        let wire::Progress { progress, total, note } = message;
        Ok(Self { progress, total, note })
    }
}

impl Wire for NewRequest {
    type Message = wire::RequestRequest;

    fn pack(self) -> wire::RequestRequest {
        let Self { message, timeout, waits } = self;
        wire::RequestRequest { message: Some(message.pack()), timeout_ms: millis(timeout), waits }
    }

    fn unpack(message: wire::RequestRequest) -> Result<Self> {
        let wire::RequestRequest { message, timeout_ms, waits } = message;
        let message = NewMessage::unpack(present(message, "the message")?)?;
        Ok(Self { message, timeout: Duration::from_millis(timeout_ms), waits })
    }
}

impl Wire for Answer {
    type Message = wire::answer_request::Answer;

    fn pack(self) -> wire::answer_request::Answer {
        match self {
            Self::Done(body) => wire::answer_request::Answer::DoneJson(body.as_text().to_owned()),
            Self::Failed(reason) => wire::answer_request::Answer::Failed(reason),
        }
    }

    fn unpack(answer: wire::answer_request::Answer) -> Result<Self> {
        match answer {
            wire::answer_request::Answer::DoneJson(json) => Ok(Self::Done(body(json)?)),
            wire::answer_request::Answer::Failed(reason) => Ok(Self::Failed(reason)),
        }
    }
}

impl Wire for Request {
    type Message = wire::Request;

    fn pack(self) -> wire::Request {
        let Self { request_id, from, to, state, asked_at, deadline, progress, answered_by, answer, reason, ended_at } =
            self;
        wire::Request {
            request_id: request_id.into(),
            from: from.into(),
            to: to.into(),
            state: state.pack(),
            asked_at_ms: asked_at.as_millis(),
            deadline_at_ms: deadline.as_millis(),
            progress: progress.map(Wire::pack),
            answered_by: answered_by.map(Into::into),
            answer_json: answer.map(|body| body.as_text().to_owned()),
            reason,
            ended_at_ms: ended_at.map(|at| at.as_millis()),
        }
    }

    fn unpack(message: wire::Request) -> Result<Self> {
        let wire::Request {
            request_id,
            from,
            to,
            state,
            asked_at_ms,
            deadline_at_ms,
            progress,
            answered_by,
            answer_json,
            reason,
            ended_at_ms,
        } = message;
        Ok(Self {
            request_id: MessageId::try_from(request_id)?,
            from: AgentId::new(from)?,
            to: Mailbox::try_from(to)?,
            state: RequestState::unpack(state)?,
            asked_at: at(asked_at_ms),
            deadline: at(deadline_at_ms),
            progress: progress.map(Progress::unpack).transpose()?,
            answered_by: answered_by.map(AgentId::new).transpose()?,
            answer: answer_json.map(body).transpose()?,
            reason,
            ended_at: ended_at_ms.map(at),
        })
    }
}
