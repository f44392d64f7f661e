//! Accepting mail: receipts, messages, deliveries and the audit's entries, for a group of calls at once.
//!
//! What a call says is brought into the form of its rows before its transaction. Within it everything that may speak
//! against a call is read for the whole group, under lock; the calls are decided in memory, one after the other
//! (`decide.rs`); and what was accepted is written, a statement a table (`sqlite.rs`, `postgres.rs`).

mod decide;
mod plan;
mod postgres;
mod seldom;
mod sqlite;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use guildhall_domain::{
    Error, Result, TenantId, Timestamp,
    mail::{Mailbox, MessageId, Receipt},
    ports::mail_store::{Accepted, Addressees, MailboxBound, Outgoing, ReceiptKey, RequestTerms},
};
use sqlx::Database;

pub(crate) use self::{
    decide::{HAS_LEFT, no_room},
    plan::{Asked, Counted, Named, New, NewDelivery, Standing, StillBorn},
};
use self::{
    decide::{View, decide, first_receipt},
    plan::{Accepting, Begins, Breaker, Claimed, Kept, Plan},
    seldom::SeldomTables,
};
use super::lane::{Call, Care, GROUP_WEIGHT};
use crate::{
    agent_store::Tables,
    audit::{Scribe, Sealed},
    engine::Sql,
    failure::Failure,
};

/// More addressees than these are reached by [`super::wide`], after the answer.
const AT_ONCE_MAX: usize = 64;
/// Of a body, what weighs as much as a message.
const BODY_UNIT_BYTES: usize = 8 * 1024;

/// A message in the form of its rows.
pub(crate) struct Parcel {
    message_id: [u8; 16],
    sender: Arc<str>,
    recipient: Arc<str>,
    kind: Arc<str>,
    priority: i16,
    body: Arc<str>,
    sent_at: i64,
    expires_at: Option<i64>,
    reply_to: Option<[u8; 16]>,
    correlation_id: Option<Arc<str>>,
    conversation_id: Option<Arc<str>>,
    requires_response: bool,
    to: Addressees,
    receipt: Option<ReceiptKey>,
    request: Option<RequestTerms>,
    record: Sealed,
}

impl Parcel {
    fn new(scribe: &Scribe, outgoing: Outgoing) -> Self {
        let Outgoing { message, mut to, receipt, request, audit } = outgoing;
        if let Addressees::Many(agents) = &mut to {
            agents.sort_unstable();
            agents.dedup();
        }
        Self {
            message_id: message.message_id.bytes(),
            sender: message.from.as_str().into(),
            recipient: message.to.to_string().into(),
            kind: message.kind.into(),
            priority: i16::from(message.priority.rank()),
            body: message.body.as_text().into(),
            sent_at: message.sent_at.as_millis(),
            expires_at: message.expires_at.map(|at| at.as_millis()),
            reply_to: message.reply_to.map(MessageId::bytes),
            correlation_id: message.correlation_id.map(Into::into),
            conversation_id: message.conversation_id.map(Into::into),
            requires_response: message.requires_response,
            to,
            receipt,
            request,
            record: scribe.seal(&audit),
        }
    }

    /// The mailboxes that it reaches in its own transaction.
    fn at_once(&self) -> impl Iterator<Item = Named<'_>> {
        let (one, many) = match &self.to {
            Addressees::One(mailbox) => (Some(Named::of(mailbox)), [].as_slice()),
            Addressees::Many(agents) if !self.is_underway() => (None, agents.as_slice()),
            Addressees::Many(_) => (None, [].as_slice()),
        };
        one.into_iter().chain(many.iter().map(Named::agent))
    }

    fn recipients(&self) -> usize {
        match &self.to {
            Addressees::One(_) => 1,
            Addressees::Many(agents) => agents.len(),
        }
    }

    /// Whether [`super::wide`] is to bring it to its mailboxes.
    fn is_underway(&self) -> bool {
        self.recipients() > AT_ONCE_MAX
    }

    /// Whom its sender does nothing but wait for.
    fn waits_for(&self) -> Option<&str> {
        match (&self.request, &self.to) {
            (Some(RequestTerms { waits: true, .. }), Addressees::One(Mailbox::Agent(agent))) => Some(agent.as_str()),
            _ => None,
        }
    }

    /// Whose breaker may refuse it.
    fn asks(&self) -> Option<Named<'_>> {
        match (&self.request, &self.to) {
            (Some(_), Addressees::One(mailbox)) => Some(Named::of(mailbox)),
            _ => None,
        }
    }
}

/// One call of the port, ready to be written.
pub(crate) struct Sending {
    tenant: Arc<str>,
    parcels: Vec<Parcel>,
    bound: MailboxBound,
}

impl Sending {
    pub(crate) fn new(scribe: &Scribe, tenant: &TenantId, outgoing: Vec<Outgoing>, bound: MailboxBound) -> Self {
        let parcels = outgoing.into_iter().map(|outgoing| Parcel::new(scribe, outgoing)).collect();
        Self { tenant: tenant.as_str().into(), parcels, bound }
    }

    /// Those that it reaches in its own transaction.
    fn mailboxes(&self) -> impl Iterator<Item = Asked<'_>> {
        self.parcels.iter().flat_map(|parcel| parcel.at_once().map(|mailbox| mailbox.in_tenant(&self.tenant)))
    }

    /// Messages to one each, and nobody waits for an answer.
    fn is_plain(&self) -> bool {
        self.parcels.iter().all(|parcel| parcel.request.is_none() && matches!(parcel.to, Addressees::One(_)))
    }
}

impl<C: Tables> Call<C> for Sending {
    type Answer = Accepted;

    fn weight(&self) -> usize {
        let of = |parcel: &Parcel| 1 + parcel.at_once().count().saturating_sub(1) + parcel.body.len() / BODY_UNIT_BYTES;
        self.parcels.iter().map(of).sum::<usize>().min(GROUP_WEIGHT)
    }

    async fn run_all(
        tables: &mut C,
        scribe: &Scribe,
        calls: &[Self],
        care: Care,
    ) -> Result<Vec<Result<Accepted>>, Failure> {
        if care == Care::Little && calls.iter().all(Sending::is_plain) {
            accept_unseen(tables, scribe, calls).await
        } else {
            accept(tables, scribe, calls).await
        }
    }
}

pub(crate) async fn send<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    outgoing: Vec<Outgoing>,
    bound: MailboxBound,
) -> Result<Accepted>
where
    DB::Connection: Tables,
{
    let sending = Sending::new(&sql.mail_scribe, tenant, outgoing, bound);
    // What goes to one mailbox goes through one lane, so that no lane waits for another's locks.
    let hash = |mailbox| BuildHasherDefault::<DefaultHasher>::default().hash_one(mailbox);
    let lane = sending.mailboxes().next().map_or(0, hash) % sql.sends.len() as u64;
    sql.sends[usize::try_from(lane).unwrap_or_default()].push(sending).await
}

/// By the writer: a reader may see what is not on the disk yet.
pub(crate) async fn receipt<DB: Database>(sql: &Sql<DB>, key: &ReceiptKey, now: Timestamp) -> Result<Option<Receipt>>
where
    DB::Connection: Tables,
{
    let of = key.key;
    let kept = sql.writer.write_apart(move |tables| Box::pin(async move { tables.receipts(&[of]).await })).await?;
    first_receipt(kept.first(), key, now.as_millis())
}

/// Accepts each call, or refuses it before anything of it is written. An inner error is of one call.
pub(crate) async fn accept(
    tables: &mut impl Tables,
    scribe: &Scribe,
    calls: &[Sending],
) -> Result<Vec<Result<Accepted>>, Failure> {
    let view = look(tables, calls).await?;
    let (answers, plan) = decide(calls, view);
    if !plan.messages.is_empty() {
        let numbers = tables.numbers(plan.messages.len()).await?;
        write(tables, scribe, &plan, &numbers).await?;
    }
    Ok(answers)
}

/// Accepts every call, as messages that nothing speaks against, with fewer looks: whether a receipt was given before is
/// seen when it is put. `Raced`, and nothing is written, where one would not have been accepted, or had been before.
async fn accept_unseen(
    tables: &mut impl Tables,
    scribe: &Scribe,
    calls: &[Sending],
) -> Result<Vec<Result<Accepted>>, Failure> {
    let mut claims: BTreeMap<Asked<'_>, i64> = BTreeMap::new();
    calls.iter().flat_map(Sending::mailboxes).for_each(|mailbox| *claims.entry(mailbox).or_default() += 1);
    let (mailboxes, more): (Vec<Asked<'_>>, Vec<i64>) = claims.into_iter().unzip();
    let Claimed { standings, numbers, counted } = tables.claim_unseen(&mailboxes, &more).await?;
    if standings.len() != mailboxes.len() {
        return Err(look_closer());
    }
    let view = View::new(mailboxes, standings, Vec::new(), Vec::new(), Vec::new(), Vec::new())?;
    let (answers, mut plan) = decide(calls, view);
    if answers.iter().any(Result::is_err) || plan.messages.len() != numbers.len() {
        return Err(look_closer());
    }
    if counted {
        plan.counted.clear();
    }
    write(tables, scribe, &plan, &numbers).await?;
    Ok(answers)
}

async fn write(tables: &mut impl Tables, scribe: &Scribe, plan: &Plan<'_>, numbers: &[i64]) -> Result<(), Failure> {
    let delivery = |mailbox: i64, message: usize| {
        let parcel = plan.messages[message].parcel;
        NewDelivery {
            mailbox,
            number: numbers[message],
            message_id: &parcel.message_id,
            sender: &parcel.sender,
            priority: parcel.priority,
            expires_at: parcel.expires_at,
        }
    };
    let deliveries = plan.deliveries.iter().map(|&(mailbox, message)| delivery(mailbox, message)).collect();
    let with = |is: fn(&Parcel) -> bool| plan.messages.iter().zip(numbers).filter(move |(new, _)| is(new.parcel));
    let mut receipts: Vec<(&ReceiptKey, &Parcel)> =
        plan.messages.iter().filter_map(|new| Some((new.parcel.receipt.as_ref()?, new.parcel))).collect();
    // In the order in which everyone locks them, and in which they lie.
    receipts.sort_unstable_by_key(|(receipt, _)| receipt.key);
    tables.add(New { messages: &plan.messages, numbers, deliveries, counted: &plan.counted, receipts }).await?;
    let still_born = plan.dead.iter().map(|&(mailbox, message, reason)| {
        let Accepting { tenant, parcel, .. } = plan.messages[message];
        StillBorn { delivery: delivery(mailbox, message), tenant, reason, died_at: parcel.sent_at }
    });
    let still_born: Vec<_> = still_born.collect();
    if !still_born.is_empty() {
        tables.add_still_born(&still_born).await?;
    }
    for (new, number) in with(|parcel| matches!(parcel.to, Addressees::Many(_))) {
        tables.add_wide(new, *number).await?;
    }
    for (new, _) in with(|parcel| parcel.request.is_some()) {
        tables.add_request(new).await?;
    }
    for trial in &plan.trials {
        tables.let_through(trial).await?;
    }
    let records: Vec<&Sealed> = plan.messages.iter().map(|message| &message.parcel.record).collect();
    scribe.record_sealed(tables, &records).await
}

/// Everything that may speak against the calls, locked in the order in which everyone locks it.
async fn look<'c>(tables: &mut impl Tables, calls: &'c [Sending]) -> Result<View<'c>, Failure> {
    let parcels = || calls.iter().flat_map(|call| call.parcels.iter().map(move |parcel| (&*call.tenant, parcel)));
    let begins: Vec<Begins<'_>> = parcels()
        .filter_map(|(tenant, parcel)| Some(Begins { tenant, whom: parcel.waits_for()?, at: parcel.sent_at }))
        .collect();
    if !begins.is_empty() {
        let tenants: BTreeSet<&str> = begins.iter().map(|wait| wait.tenant).collect();
        tables.lock_waits(&tenants.into_iter().collect::<Vec<_>>()).await?;
    }

    let mailboxes: BTreeSet<Asked<'_>> =
        parcels().flat_map(|(tenant, parcel)| parcel.at_once().map(move |mailbox| mailbox.in_tenant(tenant))).collect();
    let mailboxes: Vec<Asked<'_>> = mailboxes.into_iter().collect();
    let standings = tables.claim_mailboxes(&mailboxes).await?;

    let keys: BTreeSet<[u8; 16]> = parcels().filter_map(|(_, parcel)| Some(parcel.receipt?.key)).collect();
    let receipts = if keys.is_empty() { Vec::new() } else { tables.receipts(&Vec::from_iter(keys)).await? };

    let asked: BTreeSet<Asked<'_>> =
        parcels().filter_map(|(tenant, parcel)| Some(parcel.asks()?.in_tenant(tenant))).collect();
    let asked: Vec<Asked<'_>> = asked.into_iter().collect();
    let breakers = if asked.is_empty() { Vec::new() } else { tables.lock_breakers(&asked).await? };
    let waits = if begins.is_empty() { Vec::new() } else { tables.waits(&begins).await? };
    View::new(mailboxes, standings, receipts, asked, breakers, waits)
}

pub(crate) trait SendTables: SeldomTables {
    /// Locks those of the mailboxes that are there, in the order of `asked`, for `more` deliveries to each.
    fn claim_unseen(
        &mut self,
        asked: &[Asked<'_>],
        more: &[i64],
    ) -> impl Future<Output = Result<Claimed, Failure>> + Send;
    /// Lets nobody else begin to wait in these tenants until the transaction is over: two that begin at once could
    /// close a circle that neither sees.
    fn lock_waits(&mut self, tenants: &[&str]) -> impl Future<Output = Result<(), Failure>> + Send;
    /// In the order of `asked`, which is sorted. Makes those that are not there, and locks all.
    fn claim_mailboxes(&mut self, asked: &[Asked<'_>]) -> impl Future<Output = Result<Vec<Standing>, Failure>> + Send;
    /// Those of the keys that are there.
    fn receipts(&mut self, keys: &[[u8; 16]]) -> impl Future<Output = Result<Vec<Kept>, Failure>> + Send;
    /// Those that are open or were, locked.
    fn lock_breakers(&mut self, asked: &[Asked<'_>]) -> impl Future<Output = Result<Vec<Breaker>, Failure>> + Send;
    /// Who waits for whom, as far as it can be reached from those who are about to be waited for: tenant, who, whom.
    fn waits(
        &mut self,
        begins: &[Begins<'_>],
    ) -> impl Future<Output = Result<Vec<(String, String, String)>, Failure>> + Send;
    /// The next numbers of messages, rising.
    fn numbers(&mut self, how_many: usize) -> impl Future<Output = Result<Vec<i64>, Failure>> + Send;
    /// `Raced` when one of the receipts was given before.
    fn add(&mut self, new: New<'_>) -> impl Future<Output = Result<(), Failure>> + Send;
    fn add_still_born(&mut self, dead: &[StillBorn<'_>]) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Something may speak against one of the calls.
fn look_closer() -> Failure {
    Failure::Raced(Error::unavailable(
        "the mailboxes have changed at this moment; nothing was changed, repeat the call",
    ))
}

/// Another transaction has used a key of this one's at the same moment.
fn raced() -> Failure {
    Failure::Raced(Error::unavailable(
        "another replica took a message under the same key at this moment; nothing was changed, repeat the call",
    ))
}
