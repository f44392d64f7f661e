//! Requests: asked by one agent of another or of a pool, answered once, and over at their deadline whatever happens.

use std::time::Duration;

use guildhall_domain::{
    AgentId, AgentQuery, Call, Error, ErrorCode, Result, TenantId,
    mail::{
        Answer, Body, Mailbox, Message, MessageId, NewMessage, NewRequest, Priority, Progress, Receipt, Recipient,
        Request, RequestState, kind,
    },
    ports::mail_store::{Addressees, Outgoing, RequestTerms},
};
use guildhall_guard::Operation;
use serde_json::json;

use crate::{
    desk::Reach,
    inbox::until,
    post::Goes,
    service::{MailService, reason_fits},
    wake::Bell,
};

/// Why something could not be done may need more words than why it is not wanted any more.
const FAILURE_MAX_BYTES: usize = 4 * 1024;
const NOTE_MAX_BYTES: usize = 1_024;

impl MailService {
    pub(crate) async fn ask(&self, call: &Call, request: NewRequest) -> Result<Request> {
        let sender = call.principal.require_agent()?;
        self.desk.allow(call, Operation::SendRequest, &sender)?;
        request.check()?;
        let NewRequest { mut message, timeout, waits } = request;
        if !matches!(message.to, Recipient::Agent(_) | Recipient::Pool(_)) {
            return Err(Error::invalid("a request has one answer: it goes to one agent, or to pool:<pool>"));
        }
        if !waits {
            // Its answer comes as mail: there must be a mailbox for it.
            self.desk.agent(call, &sender).await?;
        }
        if message.kind == kind::MESSAGE {
            kind::REQUEST.clone_into(&mut message.kind);
        }
        message.requires_response = true;
        let now = self.desk.clock.now();
        let terms = RequestTerms { deadline: now + timeout, waits };
        let (tenant, deadline) = (&call.principal.tenant, terms.deadline);
        let asked = match self.desk.goes(call, &sender, &message, Some(&terms), now).await? {
            Goes::To(Addressees::One(asked)) => asked,
            Goes::To(Addressees::Many(_)) => return Err(Error::internal("an agent or a pool was resolved to many")),
            Goes::Nowhere(receipt) => return self.first(tenant, &receipt).await,
        };
        let to = Addressees::One(asked.clone());
        let outgoing = self.desk.outgoing(&call.principal, sender.clone(), message, to, Some(terms), now);
        let receipts = self.post(tenant, vec![outgoing], &call.trace).await?;
        let [receipt] = &receipts[..] else {
            return Err(Error::internal("one request did not get one receipt"));
        };
        if receipt.duplicate {
            return self.first(tenant, receipt).await;
        }
        self.alarm.end_at(deadline);
        count(RequestState::Pending);
        Ok(Request {
            request_id: receipt.message_id,
            from: sender,
            to: asked,
            state: RequestState::Pending,
            asked_at: now,
            deadline,
            progress: None,
            answered_by: None,
            answer: None,
            reason: None,
            ended_at: None,
        })
    }

    /// The request that was sent first under a key, as it stands now.
    async fn first(&self, tenant: &TenantId, receipt: &Receipt) -> Result<Request> {
        let id = receipt.message_id;
        self.desk.mail.request(tenant, id).await?.ok_or_else(|| unknown(id))
    }

    pub(crate) async fn state_of(
        &self,
        call: &Call,
        id: MessageId,
        known: Option<Progress>,
        wait: Duration,
    ) -> Result<Request> {
        let until = until(call, wait)?;
        let moved_on = |request: &Request| request.state.is_final() || request.progress != known;
        let first = self.visible(call, id).await?;
        if moved_on(&first) || wait.is_zero() {
            return Ok(first);
        }
        let tenant = &call.principal.tenant;
        let bells = || vec![Bell::Request(tenant.clone(), id)];
        let look = || async { self.desk.mail.request(tenant, id).await?.ok_or_else(|| unknown(id)) };
        self.desk.waker.look_until(until, bells, look, moved_on).await
    }

    pub(crate) async fn move_on(&self, call: &Call, id: MessageId, progress: Progress) -> Result<()> {
        progress.check()?;
        if progress.note.as_ref().is_some_and(|note| note.len() > NOTE_MAX_BYTES) {
            return Err(Error::invalid(format!("a note on progress is {NOTE_MAX_BYTES} bytes at most")));
        }
        self.asked(call, id).await?;
        let tenant = &call.principal.tenant;
        let request = self.desk.mail.progress(tenant, id, &progress, self.desk.clock.now()).await?;
        self.desk.waker.request(tenant, id, request.state, &call.trace);
        Ok(())
    }

    pub(crate) async fn give_answer(&self, call: &Call, id: MessageId, answer: Answer) -> Result<Request> {
        match &answer {
            Answer::Done(body) => body.check()?,
            Answer::Failed(reason) if reason.is_empty() || reason.len() > FAILURE_MAX_BYTES => {
                return Err(Error::invalid(format!("say in 1 to {FAILURE_MAX_BYTES} bytes why it could not be done")));
            }
            Answer::Failed(_) => {}
        }
        let (by, request) = self.asked(call, id).await?;
        let tenant = &call.principal.tenant;
        let body = match &answer {
            Answer::Done(body) => body.clone(),
            Answer::Failed(reason) => Body::from_value(&json!({ "success": false, "reason": reason }))?,
        };
        let question = self.question(call, id).await?;
        let requester = Mailbox::Agent(request.from);
        let to = (recipient(&requester), Addressees::One(requester));
        let response = self.follow_up(call, &question, by.clone(), to, (kind::RESPONSE, body));
        let answered = self.desk.mail.answer(tenant, id, &by, &answer, Some(response), self.desk.clock.now()).await?;
        count(answered.state);
        self.desk.waker.request(tenant, id, answered.state, &call.trace);
        self.desk.waker.waiting(tenant, vec![Mailbox::Agent(answered.from.clone())], &call.trace);
        Ok(answered)
    }

    pub(crate) async fn cancel(&self, call: &Call, id: MessageId, reason: &str) -> Result<Request> {
        reason_fits(reason)?;
        let request = self.visible(call, id).await?;
        if let Reach::Own(by) = self.desk.reach(call, Operation::SendRequest)?
            && by != request.from
        {
            return Err(Error::denied(
                "a request is cancelled by the agent that sent it; whoever was asked answers that it cannot",
            ));
        }
        if request.state.is_final() {
            return Ok(request);
        }
        let tenant = &call.principal.tenant;
        let notice = self.notice(call, &request, reason).await?;
        let told = notice.as_ref().map(|notice| mailboxes(&notice.to)).unwrap_or_default();
        let cancelled = self.desk.mail.cancel(tenant, id, reason, notice, self.desk.clock.now()).await?;
        if cancelled.state == RequestState::Cancelled {
            count(RequestState::Cancelled);
            self.desk.waker.request(tenant, id, cancelled.state, &call.trace);
            // For whoever has it; in a large pool, those who are told are reached by the expander.
            self.desk.waker.waiting(tenant, told, &call.trace);
            self.alarm.expand.notify_one();
        }
        Ok(cancelled)
    }

    /// Tells whoever works on a request that it is not wanted any more. Of a pool's members any may have it: all are
    /// told, each in its own mailbox, for in the pool's only one of them would find it.
    async fn notice(&self, call: &Call, request: &Request, reason: &str) -> Result<Option<Outgoing>> {
        let to = match &request.to {
            Mailbox::Agent(_) => Addressees::One(request.to.clone()),
            Mailbox::Pool(pool) => {
                let mut members = Vec::new();
                self.desk
                    .each_page(call, AgentQuery::default(), |page| {
                        let of_pool = page.iter().filter(|agent| agent.pool.as_ref() == Some(pool));
                        members.extend(of_pool.map(|agent| agent.agent_id.clone()));
                        true
                    })
                    .await?;
                Addressees::Many(members)
            }
        };
        if matches!(&to, Addressees::Many(nobody) if nobody.is_empty()) {
            return Ok(None);
        }
        let question = self.question(call, request.request_id).await?;
        let body = Body::from_value(&json!({ "request_id": request.request_id, "reason": reason }))?;
        let mut notice =
            self.follow_up(call, &question, request.from.clone(), (recipient(&request.to), to), (kind::CANCEL, body));
        // In the request's own line it would wait behind the request, which is in someone's hands.
        notice.message.priority =
            if question.priority == Priority::Critical { Priority::High } else { Priority::Critical };
        Ok(Some(notice))
    }

    /// The request, if the caller asked it, was asked it, or may read everyone's mail.
    async fn visible(&self, call: &Call, id: MessageId) -> Result<Request> {
        let reach = self.desk.reach(call, Operation::ReadMail)?;
        let request = self.desk.mail.request(&call.principal.tenant, id).await?.ok_or_else(|| unknown(id))?;
        let caller = match reach {
            Reach::Anyone => return Ok(request),
            Reach::Own(caller) => caller,
        };
        if request.from == caller || self.is_asked(call, &caller, &request).await? {
            return Ok(request);
        }
        Err(unknown(id))
    }

    /// The caller and the request, if the caller is who was asked.
    async fn asked(&self, call: &Call, id: MessageId) -> Result<(AgentId, Request)> {
        let caller = call.principal.require_agent()?;
        self.desk.allow(call, Operation::AnswerRequest, &caller)?;
        let request = self.desk.mail.request(&call.principal.tenant, id).await?.ok_or_else(|| unknown(id))?;
        if self.is_asked(call, &caller, &request).await? {
            return Ok((caller, request));
        }
        if request.from == caller {
            return Err(Error::denied(format!("{} was asked: only it can answer", request.to)));
        }
        Err(unknown(id))
    }

    async fn is_asked(&self, call: &Call, caller: &AgentId, request: &Request) -> Result<bool> {
        match &request.to {
            Mailbox::Agent(asked) => Ok(asked == caller),
            Mailbox::Pool(pool) => {
                let record = self.desk.known(call, caller).await?;
                Ok(record.is_some_and(|record| record.pool.as_ref() == Some(pool)))
            }
        }
    }

    /// The message that asked. Kept at least as long as its request.
    async fn question(&self, call: &Call, id: MessageId) -> Result<Message> {
        let tracked = self.desk.mail.message(&call.principal.tenant, id, Some(&[])).await?;
        tracked.map(|tracked| tracked.message).ok_or_else(|| unknown(id))
    }

    /// A message that belongs to a request, in its conversation and as urgent as it was.
    fn follow_up(
        &self,
        call: &Call,
        question: &Message,
        from: AgentId,
        (to, addressees): (Recipient, Addressees),
        (kind, body): (&str, Body),
    ) -> Outgoing {
        let id = question.message_id;
        let new = NewMessage {
            kind: kind.to_owned(),
            priority: question.priority,
            reply_to: Some(id),
            correlation_id: Some(id.to_string()),
            conversation_id: question.conversation_id.clone(),
            ..NewMessage::new(to, body)
        };
        self.desk.outgoing(&call.principal, from, new, addressees, None, self.desk.clock.now())
    }
}

fn recipient(mailbox: &Mailbox) -> Recipient {
    match mailbox {
        Mailbox::Agent(agent) => Recipient::Agent(agent.clone()),
        Mailbox::Pool(pool) => Recipient::Pool(pool.clone()),
    }
}

fn mailboxes(addressees: &Addressees) -> Vec<Mailbox> {
    match addressees {
        Addressees::One(mailbox) => vec![mailbox.clone()],
        Addressees::Many(agents) => agents.iter().cloned().map(Mailbox::Agent).collect(),
    }
}

pub(crate) fn count(state: RequestState) {
    metrics::counter!("guildhall_requests_total", "state" => state.as_str()).increment(1);
}

fn unknown(id: MessageId) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no request {id} that you sent or were asked"))
}
