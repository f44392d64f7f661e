//! Which calls of a group are accepted: each as if those before it had been written already.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use guildhall_domain::{
    Error, ErrorCode, Result,
    mail::{Mailbox, MessageId, Receipt},
    ports::{
        bus::Durability,
        mail_store::{Accepted, Addressees, ReceiptKey},
    },
};
use serde_json::json;

use super::{
    Parcel, Sending,
    plan::{Accepting, Asked, Breaker, Counted, Kept, Named, Plan, Standing, Trial},
};
use crate::{failure::Failure, mail::requests::OPEN, row::count};

/// How long a key is remembered: the promise of the contract.
pub(crate) const RECEIPT_KEPT_MS: i64 = 24 * 60 * 60 * 1_000;

/// Why a recipient among many got a dead letter.
pub(crate) const WAS_FULL: &str = "its mailbox was full";
pub(crate) const HAS_LEFT: &str = "its agent has left";

/// What is in the database of what the calls are about; changes as they are decided.
pub(super) struct View<'c> {
    places: HashMap<Asked<'c>, usize>,
    mailboxes: Vec<Asked<'c>>,
    standings: Vec<Standing>,
    receipts: HashMap<[u8; 16], Kept>,
    /// Until when each is open.
    breakers: BTreeMap<Asked<'c>, i64>,
    waits: BTreeSet<(String, String, String)>,
}

impl<'c> View<'c> {
    /// `standings` are of `mailboxes`, in their order; `asked` are those whose breakers were looked up.
    pub(super) fn new(
        mailboxes: Vec<Asked<'c>>,
        standings: Vec<Standing>,
        receipts: Vec<Kept>,
        asked: Vec<Asked<'c>>,
        breakers: Vec<Breaker>,
        waits: Vec<(String, String, String)>,
    ) -> Result<Self, Failure> {
        let breakers: HashMap<(&str, &str, &str), i64> =
            breakers.iter().filter_map(|row| Some(((&*row.tenant, &*row.sort, &*row.name), row.open_until?))).collect();
        let of = |asked: &Asked<'c>| breakers.get(&(asked.tenant, asked.mailbox.sort, asked.mailbox.name)).copied();
        Ok(Self {
            places: mailboxes.iter().enumerate().map(|(place, asked)| (*asked, place)).collect(),
            mailboxes,
            standings,
            receipts: receipts.into_iter().map(|kept| (kept.key, kept)).collect(),
            breakers: asked.into_iter().filter_map(|asked| Some((asked, of(&asked)?))).collect(),
            waits: waits.into_iter().collect(),
        })
    }

    fn place(&self, asked: &Asked<'c>) -> usize {
        *self.places.get(asked).expect("every mailbox that a call reaches was claimed")
    }

    /// Whether `from` waits for `to`, perhaps by way of others.
    fn waits_for(&self, tenant: &str, from: &str, to: &str) -> bool {
        let (mut seen, mut next) = (BTreeSet::from([from.to_owned()]), vec![from.to_owned()]);
        while let Some(agent) = next.pop() {
            if agent == to {
                return true;
            }
            let from = (tenant.to_owned(), agent.clone(), String::new());
            let waits = self.waits.range(from..).take_while(|(of, who, _)| of == tenant && *who == agent);
            next.extend(waits.filter(|(_, _, whom)| seen.insert(whom.clone())).map(|(_, _, whom)| whom.clone()));
        }
        false
    }
}

/// What was changed on the way to a refusal, to be put back.
enum Undo<'c> {
    Waiting(usize),
    Receipt([u8; 16], Option<Kept>),
    Breaker(Asked<'c>, i64),
    Wait((String, String, String)),
}

struct Decision<'c> {
    view: View<'c>,
    plan: Plan<'c>,
    undo: Vec<Undo<'c>>,
}

pub(super) fn decide<'c>(calls: &'c [Sending], view: View<'c>) -> (Vec<Result<Accepted>>, Plan<'c>) {
    let waited: Vec<i64> = view.standings.iter().map(|standing| standing.waiting).collect();
    let mut decision = Decision { view, plan: Plan::default(), undo: Vec::new() };
    let answers = calls.iter().map(|call| decision.call(call)).collect();
    let Decision { view, mut plan, .. } = decision;
    let counted = view.mailboxes.iter().zip(&view.standings).zip(waited);
    plan.counted = counted
        .filter(|((_, standing), waited)| standing.waiting != *waited)
        .map(|((asked, standing), _)| Counted { asked: *asked, mailbox: standing.mailbox, waiting: standing.waiting })
        .collect();
    (answers, plan)
}

impl<'c> Decision<'c> {
    fn call(&mut self, call: &'c Sending) -> Result<Accepted> {
        self.undo.clear();
        let Plan { messages, deliveries, dead, trials, .. } = &self.plan;
        let planned = (messages.len(), deliveries.len(), dead.len(), trials.len());
        let mut accepted = Accepted::default();
        for parcel in &call.parcels {
            if let Err(refused) = self.parcel(call, parcel, &mut accepted) {
                self.put_back(planned);
                return Err(refused);
            }
        }
        Ok(accepted)
    }

    fn put_back(&mut self, (messages, deliveries, dead, trials): (usize, usize, usize, usize)) {
        self.plan.messages.truncate(messages);
        self.plan.deliveries.truncate(deliveries);
        self.plan.dead.truncate(dead);
        self.plan.trials.truncate(trials);
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Waiting(place) => self.view.standings[place].waiting -= 1,
                Undo::Receipt(key, Some(before)) => drop(self.view.receipts.insert(key, before)),
                Undo::Receipt(key, None) => drop(self.view.receipts.remove(&key)),
                Undo::Breaker(asked, until) => drop(self.view.breakers.insert(asked, until)),
                Undo::Wait(wait) => drop(self.view.waits.remove(&wait)),
            }
        }
    }

    fn parcel(&mut self, call: &'c Sending, parcel: &'c Parcel, accepted: &mut Accepted) -> Result<()> {
        let before = |key: &ReceiptKey| first_receipt(self.view.receipts.get(&key.key), key, parcel.sent_at);
        if let Some(first) = parcel.receipt.as_ref().map(before).transpose()?.flatten() {
            accepted.receipts.push(first);
            return Ok(());
        }
        self.ask(call, parcel)?;
        let message = self.plan.messages.len();
        let mut new = Accepting { tenant: &call.tenant, parcel, mailbox: None };
        match &parcel.to {
            Addressees::One(mailbox) => {
                new.mailbox = Some(self.deliver_to_one(call, mailbox, message)?);
                wake(accepted, mailbox.clone());
            }
            Addressees::Many(agents) if !parcel.is_underway() => {
                for agent in agents {
                    if self.deliver_to_one_of_many(call, Named::agent(agent), message) {
                        wake(accepted, Mailbox::Agent(agent.clone()));
                    }
                }
            }
            Addressees::Many(_) => accepted.underway = true,
        }
        self.plan.messages.push(new);
        self.remember(parcel);
        accepted.receipts.push(receipt(parcel.message_id, parcel.recipients() as u64, false));
        Ok(())
    }

    fn remember(&mut self, parcel: &Parcel) {
        let Some(key) = &parcel.receipt else { return };
        let kept = Kept {
            key: key.key,
            fingerprint: key.fingerprint,
            message_id: parcel.message_id,
            recipients: i64::try_from(parcel.recipients()).unwrap_or(i64::MAX),
            at: parcel.sent_at,
        };
        let before = self.view.receipts.insert(key.key, kept);
        self.undo.push(Undo::Receipt(key.key, before));
    }

    fn deliver_to_one(&mut self, call: &'c Sending, mailbox: &'c Mailbox, message: usize) -> Result<i64> {
        let place = self.view.place(&Named::of(mailbox).in_tenant(&call.tenant));
        let Standing { mailbox: number, closed, waiting } = self.view.standings[place];
        if closed {
            return Err(Error::not_found(format!("there is no agent {} any more: it has left", mailbox.name())));
        }
        if count(waiting)? >= call.bound.messages {
            let full = format!(
                "the mailbox of {} is full: {waiting} messages wait in it; nothing was sent. Send again once some were \
                 taken, or have mail.mailbox_messages raised",
                mailbox.name()
            );
            return Err(Error::new(ErrorCode::MailboxFull, full).with_details(json!({ "waiting": waiting })));
        }
        self.put_in(place, number, message);
        Ok(number)
    }

    /// False when it became a dead letter.
    fn deliver_to_one_of_many(&mut self, call: &'c Sending, agent: Named<'c>, message: usize) -> bool {
        let place = self.view.place(&agent.in_tenant(&call.tenant));
        let standing = self.view.standings[place];
        match no_room(&standing, call.bound.messages) {
            Some(reason) => self.plan.dead.push((standing.mailbox, message, reason)),
            None => self.put_in(place, standing.mailbox, message),
        }
        no_room(&standing, call.bound.messages).is_none()
    }

    fn put_in(&mut self, place: usize, mailbox: i64, message: usize) {
        self.view.standings[place].waiting += 1;
        self.undo.push(Undo::Waiting(place));
        self.plan.deliveries.push((mailbox, message));
    }

    /// What speaks against a request alone: its addressee keeps failing, or waits for who asks.
    fn ask(&mut self, call: &'c Sending, parcel: &'c Parcel) -> Result<()> {
        let Some(asked) = parcel.asks().map(|mailbox| mailbox.in_tenant(&call.tenant)) else { return Ok(()) };
        if let Some(whom) = parcel.waits_for() {
            if self.view.waits_for(&call.tenant, whom, &parcel.sender) {
                return Err(Error::conflict(format!(
                    "{whom} waits for an answer of {} itself, perhaps by way of others: both would wait in vain. Ask \
                     with \"async\": true, or answer first",
                    parcel.sender
                )));
            }
            let wait = (call.tenant.to_string(), parcel.sender.to_string(), whom.to_owned());
            if self.view.waits.insert(wait.clone()) {
                self.undo.push(Undo::Wait(wait));
            }
        }
        let Some(until) = self.view.breakers.get(&asked).copied() else { return Ok(()) };
        if until > parcel.sent_at {
            let wait = Duration::from_millis(count(until - parcel.sent_at)?);
            let open = format!(
                "{} has failed what it was asked too often in a row and is asked nothing for now; send it a message, \
                 or ask again later",
                asked.mailbox.name
            );
            return Err(Error::new(ErrorCode::CircuitOpen, open).with_retry_after(wait));
        }
        let open_until = parcel.sent_at + i64::try_from(OPEN.as_millis()).unwrap_or(i64::MAX);
        self.view.breakers.insert(asked, open_until);
        self.undo.push(Undo::Breaker(asked, until));
        self.plan.trials.push(Trial { asked, open_until });
        Ok(())
    }
}

/// Why a mailbox takes nothing more.
pub(crate) fn no_room(standing: &Standing, bound: u64) -> Option<&'static str> {
    if standing.closed {
        return Some(HAS_LEFT);
    }
    (u64::try_from(standing.waiting).unwrap_or(0) >= bound).then_some(WAS_FULL)
}

/// The receipt that was given for this very message before, by what is `kept` under its key.
pub(super) fn first_receipt(kept: Option<&Kept>, key: &ReceiptKey, now: i64) -> Result<Option<Receipt>> {
    let Some(first) = kept.filter(|first| !is_over(first.at, now)) else { return Ok(None) };
    if first.fingerprint != key.fingerprint {
        return Err(Error::conflict(
            "this idempotency_key was used within 24 h for another message: use a new key for a new message, and the \
             old key only to repeat the old message letter for letter",
        ));
    }
    Ok(Some(receipt(first.message_id, count(first.recipients)?, true)))
}

/// Whether a receipt given `at` is forgotten.
fn is_over(at: i64, now: i64) -> bool {
    at.saturating_add(RECEIPT_KEPT_MS) <= now
}

fn receipt(message_id: [u8; 16], recipients: u64, duplicate: bool) -> Receipt {
    Receipt {
        message_id: MessageId::from_bytes(message_id),
        recipients: u32::try_from(recipients).unwrap_or(u32::MAX),
        durability: Durability::Fsync,
        duplicate,
    }
}

fn wake(accepted: &mut Accepted, mailbox: Mailbox) {
    if !accepted.wake.contains(&mailbox) {
        accepted.wake.push(mailbox);
    }
}
