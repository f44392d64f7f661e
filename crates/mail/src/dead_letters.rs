//! Dead letters: an agent's own, a pool's for its members, all of them for those who may.

use guildhall_domain::{
    Call, Error, Result,
    mail::{
        DeadLetter, Mailbox,
        delivery::{DeadLetterQuery, DeadLetterSelection},
    },
};
use guildhall_guard::Operation;
use serde_json::json;

use crate::{
    desk::Reach,
    service::{MailService, count_fits},
};

/// Why letters died, as they are counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Why {
    /// The last of their attempts failed.
    Attempts,
    Expired,
    /// Their taker wanted them never.
    Refused,
}

impl Why {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }
}

/// Those of which the store tells: not those that die of a nack, of a full mailbox or with their agent.
pub(crate) fn count(why: Why, letters: u64) {
    metrics::counter!("guildhall_mail_dead_total", "reason" => why.as_str()).increment(letters);
}

const LIST_MAX: usize = 1_000;
const NAMED_MAX: usize = 1_000;

impl MailService {
    pub(crate) async fn list_dead(&self, call: &Call, query: DeadLetterQuery) -> Result<Vec<DeadLetter>> {
        count_fits(query.limit, LIST_MAX, "dead letters")?;
        let mailbox = self.within(call, Operation::ReadDeadLetters, query.mailbox.clone()).await?;
        self.desk.mail.dead_letters(&call.principal.tenant, &DeadLetterQuery { mailbox, ..query }).await
    }

    pub(crate) async fn redrive_dead(&self, call: &Call, selection: DeadLetterSelection) -> Result<u64> {
        let Some(selection) = self.selected(call, Operation::RedriveDeadLetters, selection).await? else {
            return Ok(0);
        };
        let (tenant, now) = (&call.principal.tenant, self.desk.clock.now());
        let audit = self.desk.entry(call, now, "dead_letter.redrive", target(&selection), body(&selection));
        let (redriven, wake) = self.desk.mail.redrive(tenant, &selection, now, audit).await?;
        self.desk.waker.waiting(tenant, wake, &call.trace);
        Ok(redriven)
    }

    pub(crate) async fn purge_dead(&self, call: &Call, selection: DeadLetterSelection) -> Result<u64> {
        let Some(selection) = self.selected(call, Operation::PurgeDeadLetters, selection).await? else { return Ok(0) };
        let now = self.desk.clock.now();
        let audit = self.desk.entry(call, now, "dead_letter.purge", target(&selection), body(&selection));
        self.desk.mail.purge(&call.principal.tenant, &selection, audit).await
    }

    /// `None` when nothing is selected.
    async fn selected(
        &self,
        call: &Call,
        operation: Operation,
        selection: DeadLetterSelection,
    ) -> Result<Option<DeadLetterSelection>> {
        let mailbox = self.within(call, operation, selection.mailbox.clone()).await?;
        if selection.messages.is_empty() && !selection.all {
            return Ok(None);
        }
        if selection.messages.len() > NAMED_MAX {
            return Err(Error::invalid(format!(
                "name {NAMED_MAX} dead letters in one call at most, or all of a mailbox"
            )));
        }
        Ok(Some(DeadLetterSelection { mailbox, ..selection }))
    }

    /// The mailbox that was named, if the caller may do this there; where none was named, all for those who may do it
    /// to anyone, and the caller's own for others.
    async fn within(&self, call: &Call, operation: Operation, named: Option<Mailbox>) -> Result<Option<Mailbox>> {
        let own = match self.desk.reach(call, operation)? {
            Reach::Anyone => return Ok(named),
            Reach::Own(own) => own,
        };
        match named {
            None => Ok(Some(Mailbox::Agent(own))),
            Some(Mailbox::Agent(agent)) => {
                self.desk.allow(call, operation, &agent)?;
                Ok(Some(Mailbox::Agent(agent)))
            }
            Some(Mailbox::Pool(pool)) => {
                let record = self.desk.agent(call, &own).await?;
                if record.pool.as_ref() != Some(&pool) {
                    return Err(Error::denied(format!("the dead letters of the pool {pool} are for its members")));
                }
                Ok(Some(Mailbox::Pool(pool)))
            }
        }
    }
}

fn target(selection: &DeadLetterSelection) -> String {
    selection.mailbox.as_ref().map_or_else(|| "dead_letters".to_owned(), Mailbox::to_string)
}

fn body(selection: &DeadLetterSelection) -> serde_json::Value {
    json!({ "messages": selection.messages, "all": selection.all })
}
