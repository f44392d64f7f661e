//! The caller's side of mail: the port, with every method a call over the transport.

use std::time::Duration;

use async_trait::async_trait;
use guildhall_domain::{
    AgentId, Call, Error, ErrorCode, Result,
    mail::{
        Answer, DeadLetter, Delivered, Message, MessageId, NewMessage, NewRequest, Progress, Receipt, Request,
        delivery::{DeadLetterQuery, DeadLetterSelection, History, HistoryQuery, Settling, TakeMail, Tracked, Unread},
    },
    ports::Mail,
};
use guildhall_proto::mail::v1::{self as wire, mail_service_client::MailServiceClient};
use guildhall_rpc::{
    Transport,
    call::outgoing,
    house,
    status::from_status,
    wire::{millis, present},
};

use super::convert::{Wire, count, unpack_all};

/// The bodies of one sending (contract, section 4).
const LIST_MAX_BYTES: usize = 4 * 1024 * 1024;

pub(super) struct MailClient {
    /// Cloned for every call: it is a handle.
    service: MailServiceClient<Transport>,
    same_house: bool,
}

impl MailClient {
    pub(super) fn new(service: MailServiceClient<Transport>, same_house: bool) -> Self {
        Self { service, same_house }
    }
}

/// One call: the message out with the call around it, the answer's message back.
macro_rules! ask {
    ($client:ident . $method:ident, $call:expr, $message:expr) => {{
        let request = outgoing($call, $message)?;
        $client.service.clone().$method(request).await.map_err(from_status)?.into_inner()
    }};
}

/// The same for what goes and comes as it is, within the process.
macro_rules! ask_in_house {
    ($client:ident . $method:ident, $call:expr, $asked:expr) => {{
        let asked = $asked;
        let request = if $client.same_house {
            house::hand_in(outgoing($call, Default::default())?, asked)
        } else {
            outgoing($call, asked.pack())?
        };
        house::take($client.service.clone().$method(request).await.map_err(from_status)?).or_else(Wire::unpack)
    }};
}

fn request(message: Option<wire::Request>) -> Result<Request> {
    Request::unpack(present(message, "the request")?)
}

#[async_trait]
impl Mail for MailClient {
    async fn send(&self, call: &Call, messages: Vec<NewMessage>) -> Result<Vec<Receipt>> {
        let bytes: usize = messages.iter().map(|message| message.body.as_text().len()).sum();
        if bytes > LIST_MAX_BYTES {
            return Err(Error::new(
                ErrorCode::PayloadTooLarge,
                format!(
                    "the messages are {bytes} bytes of JSON together; one list may be {LIST_MAX_BYTES}: send fewer at once"
                ),
            ));
        }
        ask_in_house!(self.send, call, messages)
    }

    async fn take(&self, call: &Call, agent: &AgentId, take: TakeMail) -> Result<Vec<Delivered>> {
        ask_in_house!(self.take, call, (agent.clone(), take))
    }

    async fn settle(&self, call: &Call, agent: &AgentId, settlings: Vec<Settling>) -> Result<Vec<Result<()>>> {
        ask_in_house!(self.settle, call, (agent.clone(), settlings))
    }

    async fn give_back(&self, call: &Call, agent: &AgentId, taker: &str) -> Result<u64> {
        let message = wire::GiveBackRequest { agent_id: agent.to_string(), taker: taker.to_owned() };
        Ok(ask!(self.give_back, call, message).given_back)
    }

    async fn unread(&self, call: &Call, agents: Vec<AgentId>) -> Result<Vec<Unread>> {
        let agent_ids = agents.into_iter().map(Into::into).collect();
        unpack_all(ask!(self.unread, call, wire::UnreadRequest { agent_ids }).unread)
    }

    async fn peek(&self, call: &Call, agent: &AgentId, limit: usize) -> Result<Vec<Message>> {
        let message = wire::PeekRequest { agent_id: agent.to_string(), limit: count(limit) };
        unpack_all(ask!(self.peek, call, message).messages)
    }

    async fn history(&self, call: &Call, agent: &AgentId, query: HistoryQuery) -> Result<History> {
        History::unpack(ask!(self.history, call, (agent.clone(), query).pack()))
    }

    async fn message(&self, call: &Call, message: MessageId) -> Result<Tracked> {
        Tracked::unpack(ask!(self.message, call, wire::MessageRequest { message_id: message.into() }))
    }

    async fn dead_letters(&self, call: &Call, query: DeadLetterQuery) -> Result<Vec<DeadLetter>> {
        unpack_all(ask!(self.dead_letters, call, query.pack()).dead_letters)
    }

    async fn redrive(&self, call: &Call, selection: DeadLetterSelection) -> Result<u64> {
        Ok(ask!(self.redrive, call, wire::RedriveRequest { selection: Some(selection.pack()) }).redriven)
    }

    async fn purge(&self, call: &Call, selection: DeadLetterSelection) -> Result<u64> {
        Ok(ask!(self.purge, call, wire::PurgeRequest { selection: Some(selection.pack()) }).purged)
    }

    async fn request(&self, call: &Call, new: NewRequest) -> Result<Request> {
        request(ask!(self.request, call, new.pack()).request)
    }

    async fn request_state(
        &self,
        call: &Call,
        id: MessageId,
        known: Option<Progress>,
        wait: Duration,
    ) -> Result<Request> {
        let message =
            wire::RequestStateRequest { request_id: id.into(), known: known.map(Wire::pack), wait_ms: millis(wait) };
        request(ask!(self.request_state, call, message).request)
    }

    async fn report_progress(&self, call: &Call, id: MessageId, progress: Progress) -> Result<()> {
        let message = wire::ReportProgressRequest { request_id: id.into(), progress: Some(progress.pack()) };
        let wire::ReportProgressResponse {} = ask!(self.report_progress, call, message);
        Ok(())
    }

    async fn answer(&self, call: &Call, id: MessageId, answer: Answer) -> Result<Request> {
        let message = wire::AnswerRequest { request_id: id.into(), answer: Some(answer.pack()) };
        request(ask!(self.answer, call, message).request)
    }

    async fn cancel_request(&self, call: &Call, id: MessageId, reason: &str) -> Result<Request> {
        let message = wire::CancelRequestRequest { request_id: id.into(), reason: reason.to_owned() };
        request(ask!(self.cancel_request, call, message).request)
    }
}
