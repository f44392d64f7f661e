//! Mailboxes, messages and deliveries as rows, and what may become of a delivery.

use std::time::Duration;

use guildhall_domain::{
    Error, Result, Timestamp,
    mail::{
        Body, DeliveryState, Mailbox, Message, MessageId, Priority,
        delivery::{ATTEMPTS_MAX, backoff},
    },
};
use sqlx::FromRow;

use crate::{
    failure::unreadable,
    row::{bytes, count},
};

pub(crate) const fn rank(state: DeliveryState) -> i16 {
    state.rank() as i16
}

pub(crate) const PRIORITIES: [i16; 4] = [0, 1, 2, 3];

#[derive(Debug, Clone, FromRow)]
pub(crate) struct MailboxRow {
    pub(crate) mailbox: i64,
    pub(crate) tenant: String,
    pub(crate) sort: String,
    pub(crate) name: String,
    pub(crate) closed: bool,
    pub(crate) waiting: i64,
    pub(crate) turn: i64,
    /// What has a number up to this was for another agent of the same id.
    pub(crate) since: i64,
}

impl MailboxRow {
    pub(crate) fn named(&self) -> Result<Mailbox> {
        Mailbox::of(&self.sort, &self.name).map_err(unreadable)
    }

    /// The members of a pool work side by side.
    pub(crate) fn in_order(&self) -> bool {
        self.sort == "agent"
    }
}

/// Where a delivery stands in the one index that all of them stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, FromRow)]
pub(crate) struct Place {
    pub(crate) mailbox: i64,
    pub(crate) priority: i16,
    pub(crate) number: i64,
}

impl Place {
    /// Where it may stand, by what a lease says of it.
    pub(crate) fn possible(mailbox: i64, number: i64) -> impl Iterator<Item = Self> {
        PRIORITIES.into_iter().map(move |priority| Self { mailbox, priority, number })
    }
}

/// What the clock has done to a delivery that nobody has settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lapse {
    /// The lease of this taker ran out.
    Lease(String),
    Expiry,
}

#[derive(Debug, Clone, FromRow)]
pub(crate) struct DeliveryRow {
    pub(crate) mailbox: i64,
    pub(crate) number: i64,
    pub(crate) message_id: Vec<u8>,
    pub(crate) sender: String,
    pub(crate) priority: i16,
    pub(crate) open: bool,
    pub(crate) state: i16,
    pub(crate) attempts: i64,
    pub(crate) hand_out: i64,
    pub(crate) taker: Option<String>,
    pub(crate) lease_until: Option<i64>,
    pub(crate) rests_until: Option<i64>,
    pub(crate) expires_at: Option<i64>,
    pub(crate) settled_at: Option<i64>,
    pub(crate) reason: Option<String>,
}

impl DeliveryRow {
    pub(crate) fn place(&self) -> Place {
        Place { mailbox: self.mailbox, priority: self.priority, number: self.number }
    }

    pub(crate) fn is(&self, state: DeliveryState) -> bool {
        self.state == rank(state)
    }

    pub(crate) fn state(&self) -> Result<DeliveryState> {
        let known = u8::try_from(self.state).ok().and_then(DeliveryState::of_rank);
        known.ok_or_else(|| unreadable(format_args!("a delivery in state {}", self.state)))
    }

    pub(crate) fn attempts(&self) -> Result<u32> {
        u32::try_from(self.attempts).map_err(unreadable)
    }

    /// Whether it may be handed out, as far as it alone is concerned.
    pub(crate) fn is_ready(&self, now: Timestamp) -> bool {
        self.is(DeliveryState::Waiting) && self.rests_until.is_none_or(|until| until <= now.as_millis())
    }

    pub(crate) fn hand_out(&mut self, taker: &str, until: Timestamp) {
        self.state = rank(DeliveryState::Leased);
        self.hand_out += 1;
        self.taker = Some(taker.to_owned());
        self.lease_until = Some(until.as_millis());
        self.rests_until = None;
    }

    pub(crate) fn acknowledge(&mut self, now: Timestamp) {
        self.leave_hands(DeliveryState::Acknowledged);
        self.close(now, None);
    }

    /// As if it had not been taken. Who held it holds it no longer, for it is not leased.
    pub(crate) fn give_back(&mut self) {
        self.leave_hands(DeliveryState::Waiting);
    }

    /// One attempt more has failed: it rests, or was the last.
    pub(crate) fn fail(&mut self, why: &str, rest: Option<Duration>, now: Timestamp) {
        self.give_back();
        self.attempts = self.attempts.saturating_add(1);
        let attempts = u32::try_from(self.attempts).unwrap_or(u32::MAX);
        if attempts >= ATTEMPTS_MAX {
            return self.die(format!("{attempts} attempts failed, the last: {why}"), now);
        }
        let rest = rest.unwrap_or_else(|| backoff(attempts));
        self.rests_until = (!rest.is_zero()).then(|| (now + rest).as_millis());
        self.reason = Some(why.to_owned());
    }

    pub(crate) fn die(&mut self, reason: String, now: Timestamp) {
        self.leave_hands(DeliveryState::Dead);
        self.close(now, Some(reason));
    }

    /// As if it had been sent anew.
    pub(crate) fn revive(&mut self, may_wait: Option<Duration>, now: Timestamp) {
        self.leave_hands(DeliveryState::Waiting);
        self.open = true;
        self.attempts = 0;
        self.settled_at = None;
        self.reason = None;
        self.expires_at = may_wait.map(|time| (now + time).as_millis());
    }

    /// Brings it to what the clock says. While someone holds it, it does not expire.
    pub(crate) fn lapse(&mut self, now: Timestamp) -> Option<Lapse> {
        let over = |until: Option<i64>| until.is_some_and(|until| until <= now.as_millis());
        let ran_out = self.is(DeliveryState::Leased) && over(self.lease_until);
        let lapse = ran_out.then(|| {
            let taker = self.taker.take().unwrap_or_default();
            self.fail("its lease ran out before it was settled", None, now);
            Lapse::Lease(taker)
        });
        if self.is(DeliveryState::Waiting) && over(self.expires_at) {
            let tried = match self.attempts {
                0 => "nobody took it in time".to_owned(),
                failed => format!("nobody had settled it in time, and {failed} of its attempts failed"),
            };
            self.die(format!("expired: {tried}"), now);
            return lapse.or(Some(Lapse::Expiry));
        }
        lapse
    }

    fn leave_hands(&mut self, to: DeliveryState) {
        self.state = rank(to);
        self.taker = None;
        self.lease_until = None;
        self.rests_until = None;
    }

    fn close(&mut self, now: Timestamp, reason: Option<String>) {
        self.open = false;
        self.settled_at = Some(now.as_millis());
        self.reason = reason;
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct MessageRow {
    pub(crate) number: i64,
    pub(crate) message_id: Vec<u8>,
    pub(crate) sender: String,
    pub(crate) recipient: String,
    pub(crate) kind: String,
    pub(crate) priority: i16,
    pub(crate) body: String,
    pub(crate) sent_at: i64,
    pub(crate) expires_at: Option<i64>,
    pub(crate) reply_to: Option<Vec<u8>>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) conversation_id: Option<String>,
    pub(crate) requires_response: bool,
    pub(crate) recipients: i64,
    pub(crate) mailbox: Option<i64>,
}

impl MessageRow {
    pub(crate) fn recipients(&self) -> Result<u32> {
        u32::try_from(count(self.recipients)?).map_err(unreadable)
    }

    pub(crate) fn message(self) -> Result<Message> {
        let id = |stored: &[u8]| Ok::<_, Error>(MessageId::from_bytes(bytes(stored)?));
        let priority = u8::try_from(self.priority).ok().and_then(Priority::of_rank);
        Ok(Message {
            message_id: id(&self.message_id)?,
            from: self.sender.parse().map_err(unreadable)?,
            to: self.recipient.parse().map_err(unreadable)?,
            kind: self.kind,
            priority: priority.ok_or_else(|| unreadable(format_args!("priority {}", self.priority)))?,
            body: Body::from_text(self.body).map_err(unreadable)?,
            sent_at: Timestamp::from_millis(self.sent_at),
            expires_at: self.expires_at.map(Timestamp::from_millis),
            reply_to: self.reply_to.as_deref().map(id).transpose()?,
            correlation_id: self.correlation_id,
            conversation_id: self.conversation_id,
            requires_response: self.requires_response,
        })
    }
}
