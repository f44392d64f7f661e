//! Sending: what was said becomes a message, is brought into its mailboxes in one transaction, and wakes them.

use guildhall_domain::{
    AgentId, AuditEntry, Call, ErrorCode, Principal, Result, TenantId, Timestamp, TraceContext,
    mail::{Message, NewMessage, Receipt, Recipient, SEND_MAX},
    ports::mail_store::{Accepted, Addressees, Outgoing, RequestTerms},
};
use guildhall_guard::Operation;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    desk::Desk,
    receipt,
    service::{MailService, count_fits},
};

impl MailService {
    pub(crate) async fn send_all(&self, call: &Call, messages: Vec<NewMessage>) -> Result<Vec<Receipt>> {
        let sender = call.principal.require_agent()?;
        self.desk.allow(call, Operation::SendMail, &sender)?;
        count_fits(messages.len(), SEND_MAX, "messages")?;
        let alone = messages.len() == 1;
        for (place, new) in messages.iter().enumerate() {
            new.check().map_err(|mut error| {
                if !alone {
                    error.message = format!("message {}: {}", place + 1, error.message).into();
                }
                error
            })?;
        }
        let now = self.desk.clock.now();
        let mut outgoing: Vec<Outgoing> = Vec::with_capacity(messages.len());
        // In the order of the messages; what is on its way gets its receipt there.
        let mut receipts: Vec<Option<Receipt>> = Vec::with_capacity(messages.len());
        for new in messages {
            let goes = match outgoing.iter().find(|before| before.message.to == new.to) {
                Some(same) => Goes::To(same.to.clone()),
                None => self.desk.goes(call, &sender, &new, None, now).await?,
            };
            receipts.push(match goes {
                Goes::Nowhere(receipt) => Some(receipt),
                Goes::To(to) => {
                    outgoing.push(self.desk.outgoing(&call.principal, sender.clone(), new, to, None, now));
                    None
                }
            });
        }
        if outgoing.is_empty() {
            return Ok(receipts.into_iter().flatten().collect());
        }
        let mut posted = self.post(&call.principal.tenant, outgoing, &call.trace).await?.into_iter();
        Ok(receipts.into_iter().filter_map(|before| before.or_else(|| posted.next())).collect())
    }

    /// Into the database; then whoever waits is woken, and what is for many goes on being brought.
    pub(crate) async fn post(
        &self,
        tenant: &TenantId,
        outgoing: Vec<Outgoing>,
        trace: &TraceContext,
    ) -> Result<Vec<Receipt>> {
        let Accepted { receipts, wake, underway } = self.desk.mail.send(tenant, outgoing, self.desk.bound).await?;
        if underway {
            self.alarm.expand.notify_one();
        }
        self.desk.waker.waiting(tenant, wake, trace);
        let sent = receipts.iter().filter(|receipt| !receipt.duplicate).count();
        metrics::counter!("guildhall_mail_sent_total").increment(sent as u64);
        Ok(receipts)
    }
}

/// Where a message goes.
pub(crate) enum Goes {
    To(Addressees),
    /// It was sent before, and whom it meant then is not there any more: its first receipt.
    Nowhere(Receipt),
}

impl Desk {
    /// `asked`: the terms of a request.
    pub(crate) async fn goes(
        &self,
        call: &Call,
        sender: &AgentId,
        new: &NewMessage,
        asked: Option<&RequestTerms>,
        now: Timestamp,
    ) -> Result<Goes> {
        let nobody = match self.resolve(call, sender, &new.to).await {
            Err(error) if error.code == ErrorCode::NotFound => error,
            resolved => return resolved.map(Goes::To),
        };
        match receipt::of(&call.principal.tenant, sender, new, asked, now) {
            Some(key) => self.mail.receipt(&key, now).await?.map(Goes::Nowhere).ok_or(nobody),
            None => Err(nobody),
        }
    }

    /// What was said and checked, as a message on its way into the database. `asked`: when it is a request.
    pub(crate) fn outgoing(
        &self,
        by: &Principal,
        from: AgentId,
        new: NewMessage,
        to: Addressees,
        asked: Option<RequestTerms>,
        now: Timestamp,
    ) -> Outgoing {
        let receipt = receipt::of(&by.tenant, &from, &new, asked.as_ref(), now);
        let message = Message {
            message_id: self.new_message_id(),
            from,
            to: new.to,
            kind: new.kind,
            priority: new.priority,
            body: new.body,
            sent_at: now,
            // Nothing waits longer than mail is kept.
            expires_at: new.expires_in.map(|time| now + time.min(self.retention.age)),
            reply_to: new.reply_to,
            correlation_id: new.correlation_id,
            conversation_id: new.conversation_id,
            requires_response: new.requires_response,
        };
        let audit = entry(by, &message, now);
        Outgoing { message, to, receipt, request: asked, audit }
    }
}

/// Who sent what to whom. Never the words: their hash, with which whoever has them can prove that these were they.
fn entry(by: &Principal, message: &Message, now: Timestamp) -> AuditEntry {
    let target = match &message.to {
        Recipient::Agent(agent) => format!("agent:{agent}"),
        others => others.to_string(),
    };
    let text = message.body.as_text();
    let body = json!({
        "message_id": message.message_id, "type": message.kind,
        "sha256": hex::encode(Sha256::digest(text)), "bytes": text.len(),
    });
    AuditEntry::done(by, now, "message.send", target, body)
}
