//! The server's side of mail: takes the call and the message apart, asks the port, packs the answer.

use std::{sync::Arc, time::Duration};

use guildhall_domain::{
    AgentId, Call, Error, ErrorCode, Result,
    mail::{
        Answer, MessageId, NewMessage, NewRequest, Progress, Request as Asked,
        delivery::{DeadLetterQuery, DeadLetterSelection, HistoryQuery, Settling, TakeMail},
    },
    ports::Mail,
};
use guildhall_proto::mail::v1::{self as wire, mail_service_server::MailService};
use guildhall_rpc::{call::incoming, house, status::to_status, wire::present};
use prost::Message;
use tonic::{Request, Response, Status};

use super::{
    ANSWER_MAX_BYTES,
    convert::{Wire, number, pack_all},
};

pub struct MailServer {
    mail: Arc<dyn Mail>,
}

impl MailServer {
    pub(super) fn new(mail: Arc<dyn Mail>) -> Self {
        Self { mail }
    }
}

pub(super) type Reply<T> = Result<Response<T>, Status>;

pub(super) fn reply<T>(answer: Result<T>) -> Reply<T> {
    answer.map(Response::new).map_err(to_status)
}

pub(super) fn open<M>(request: Request<M>) -> Result<(Call, M), Status> {
    let call = incoming(&request).map_err(to_status)?;
    Ok((call, request.into_inner()))
}

/// What is asked, as it is or unpacked, and whether the answer may go as it is.
pub(super) fn open_in_house<T>(mut request: Request<T::Message>) -> Result<(Call, T, bool), Status>
where
    T: Wire + Clone + Send + Sync + 'static,
{
    let (asked, same_house) = (house::asked(&mut request), house::is_marked(&request));
    let (call, message) = open(request)?;
    let asked = asked.map_or_else(|| T::unpack(message), Ok).map_err(to_status)?;
    Ok((call, asked, same_house))
}

pub(super) fn reply_in_house<T>(answer: Result<T>, same_house: bool) -> Reply<T::Message>
where
    T: Wire<Message: Default> + Clone + Send + Sync + 'static,
{
    let answer = answer.map_err(to_status)?;
    Ok(if same_house { house::hand_over(answer) } else { Response::new(answer.pack()) })
}

/// A page of messages, of which each may be large.
fn page<T: Message>(answer: Result<T>) -> Reply<T> {
    reply(answer.and_then(|page| {
        let bytes = page.encoded_len();
        if bytes > ANSWER_MAX_BYTES {
            return Err(Error::new(
                ErrorCode::PayloadTooLarge,
                format!("this page is {bytes} bytes and one may be {ANSWER_MAX_BYTES}: ask for a smaller limit"),
            ));
        }
        Ok(page)
    }))
}

fn id(text: String) -> Result<MessageId> {
    MessageId::try_from(text)
}

fn packed(request: Asked) -> Option<wire::Request> {
    Some(request.pack())
}

#[tonic::async_trait]
impl MailService for MailServer {
    async fn send(&self, request: Request<wire::SendRequest>) -> Reply<wire::SendResponse> {
        let (call, messages, same_house) = open_in_house::<Vec<NewMessage>>(request)?;
        reply_in_house(self.mail.send(&call, messages).await, same_house)
    }

    async fn take(&self, request: Request<wire::TakeRequest>) -> Reply<wire::TakeResponse> {
        let (call, (agent, take), same_house) = open_in_house::<(AgentId, TakeMail)>(request)?;
        reply_in_house(self.mail.take(&call, &agent, take).await, same_house)
    }

    async fn settle(&self, request: Request<wire::SettleRequest>) -> Reply<wire::SettleResponse> {
        let (call, (agent, settlings), same_house) = open_in_house::<(AgentId, Vec<Settling>)>(request)?;
        reply_in_house(self.mail.settle(&call, &agent, settlings).await, same_house)
    }

    async fn give_back(&self, request: Request<wire::GiveBackRequest>) -> Reply<wire::GiveBackResponse> {
        let (call, wire::GiveBackRequest { agent_id, taker }) = open(request)?;
        let work = async {
            let given_back = self.mail.give_back(&call, &AgentId::new(agent_id)?, &taker).await?;
            Ok(wire::GiveBackResponse { given_back })
        };
        reply(work.await)
    }

    async fn unread(&self, request: Request<wire::UnreadRequest>) -> Reply<wire::UnreadResponse> {
        let (call, wire::UnreadRequest { agent_ids }) = open(request)?;
        let work = async {
            let agents = agent_ids.into_iter().map(AgentId::new).collect::<Result<_>>()?;
            Ok(wire::UnreadResponse { unread: pack_all(self.mail.unread(&call, agents).await?) })
        };
        reply(work.await)
    }

    async fn peek(&self, request: Request<wire::PeekRequest>) -> Reply<wire::PeekResponse> {
        let (call, wire::PeekRequest { agent_id, limit }) = open(request)?;
        let work = async {
            let messages = self.mail.peek(&call, &AgentId::new(agent_id)?, number(limit)).await?;
            Ok(wire::PeekResponse { messages: pack_all(messages) })
        };
        page(work.await)
    }

    async fn history(&self, request: Request<wire::HistoryRequest>) -> Reply<wire::HistoryResponse> {
        let (call, asked) = open(request)?;
        let work = async {
            let (agent, query) = <(AgentId, HistoryQuery)>::unpack(asked)?;
            Ok(self.mail.history(&call, &agent, query).await?.pack())
        };
        page(work.await)
    }

    async fn message(&self, request: Request<wire::MessageRequest>) -> Reply<wire::MessageResponse> {
        let (call, wire::MessageRequest { message_id }) = open(request)?;
        let work = async { Ok(self.mail.message(&call, id(message_id)?).await?.pack()) };
        reply(work.await)
    }

    async fn dead_letters(&self, request: Request<wire::DeadLettersRequest>) -> Reply<wire::DeadLettersResponse> {
        let (call, query) = open(request)?;
        let work = async {
            let dead_letters = self.mail.dead_letters(&call, DeadLetterQuery::unpack(query)?).await?;
            Ok(wire::DeadLettersResponse { dead_letters: pack_all(dead_letters) })
        };
        page(work.await)
    }

    async fn redrive(&self, request: Request<wire::RedriveRequest>) -> Reply<wire::RedriveResponse> {
        let (call, wire::RedriveRequest { selection }) = open(request)?;
        let work = async {
            let selection = DeadLetterSelection::unpack(present(selection, "the selection")?)?;
            Ok(wire::RedriveResponse { redriven: self.mail.redrive(&call, selection).await? })
        };
        reply(work.await)
    }

    async fn purge(&self, request: Request<wire::PurgeRequest>) -> Reply<wire::PurgeResponse> {
        let (call, wire::PurgeRequest { selection }) = open(request)?;
        let work = async {
            let selection = DeadLetterSelection::unpack(present(selection, "the selection")?)?;
            Ok(wire::PurgeResponse { purged: self.mail.purge(&call, selection).await? })
        };
        reply(work.await)
    }

    async fn request(&self, request: Request<wire::RequestRequest>) -> Reply<wire::RequestResponse> {
        let (call, new) = open(request)?;
        let work = async {
            let asked = self.mail.request(&call, NewRequest::unpack(new)?).await?;
            Ok(wire::RequestResponse { request: packed(asked) })
        };
        reply(work.await)
    }

    async fn request_state(&self, request: Request<wire::RequestStateRequest>) -> Reply<wire::RequestStateResponse> {
        let (call, wire::RequestStateRequest { request_id, known, wait_ms }) = open(request)?;
        let work = async {
            let known = known.map(Progress::unpack).transpose()?;
            let wait = Duration::from_millis(wait_ms);
            let asked = self.mail.request_state(&call, id(request_id)?, known, wait).await?;
            Ok(wire::RequestStateResponse { request: packed(asked) })
        };
        reply(work.await)
    }

    async fn report_progress(
        &self,
        request: Request<wire::ReportProgressRequest>,
    ) -> Reply<wire::ReportProgressResponse> {
        let (call, wire::ReportProgressRequest { request_id, progress }) = open(request)?;
        let work = async {
            let progress = Progress::unpack(present(progress, "the progress")?)?;
            self.mail.report_progress(&call, id(request_id)?, progress).await?;
            Ok(wire::ReportProgressResponse {})
        };
        reply(work.await)
    }

    async fn answer(&self, request: Request<wire::AnswerRequest>) -> Reply<wire::AnswerResponse> {
        let (call, wire::AnswerRequest { request_id, answer }) = open(request)?;
        let work = async {
            let answer = Answer::unpack(present(answer, "the answer")?)?;
            let asked = self.mail.answer(&call, id(request_id)?, answer).await?;
            Ok(wire::AnswerResponse { request: packed(asked) })
        };
        reply(work.await)
    }

    async fn cancel_request(&self, request: Request<wire::CancelRequestRequest>) -> Reply<wire::CancelRequestResponse> {
        let (call, wire::CancelRequestRequest { request_id, reason }) = open(request)?;
        let work = async {
            let asked = self.mail.cancel_request(&call, id(request_id)?, &reason).await?;
            Ok(wire::CancelRequestResponse { request: packed(asked) })
        };
        reply(work.await)
    }
}
