//! What one socket's client holds unacknowledged, and what is under way for it: how much may be taken, which leases are
//! renewed, when nobody is at work for it any more.

use std::{
    collections::HashMap,
    mem,
    time::{Duration, Instant},
};

use guildhall_domain::{
    ErrorCode, Result,
    mail::{
        Delivered, Lease, MessageId,
        delivery::{LEASE, Settling, TAKE_MAX_BYTES, Verdict},
    },
};

use super::frame::Reference;

/// Messages that a client holds unacknowledged.
const WINDOW: usize = 64;
/// Their bodies. One taking brings up to 3 MiB, so that nothing is taken while there is less room than that.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// A lease is renewed when half of it is over, for as long as the client answers pings, but not for ever: a handler
/// that needs longer than this has forgotten the message.
const RENEWED_FOR: Duration = Duration::from_secs(60 * 60);
/// How soon a renewal that was not answered is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(10);
/// What one call of the port settles.
const SETTLE_MAX: usize = 1_000;
/// What a client may have under way before no more is read from it.
const SETTLINGS_ROOMY: usize = 1_000;

/// A delivery, whoever has it: its lease less the count of hand-outs.
type Slot = (i64, i64);

fn slot(lease: Lease) -> Slot {
    (lease.mailbox, lease.number)
}

struct Held {
    message_id: MessageId,
    lease: Lease,
    bytes: usize,
    taken: Instant,
    renew_at: Instant,
    until: Instant,
}

/// What one socket's client holds, and what is under way for it.
#[derive(Default)]
pub(super) struct Window {
    held: HashMap<Slot, Held>,
    bytes: usize,
    taking: bool,
    /// There may be something to take.
    wanted: bool,
    /// It was heard that there is.
    told: bool,
    /// There may be more behind what is held: mail of one sender waits until what it sent before is settled.
    held_up: bool,
    /// What older sockets held was given back.
    reclaimed: bool,
    settlings: Vec<(Option<Reference>, Settling)>,
    settling: bool,
    /// The socket has ended.
    over: bool,
}

/// What a taking does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Give back what older sockets held, so that it comes again in its order.
    Reclaim,
    /// So many at most, and whether it was heard that there is something.
    Take(usize, bool),
}

impl Window {
    fn has_room(&self) -> bool {
        self.held.len() < WINDOW && self.bytes + TAKE_MAX_BYTES <= WINDOW_BYTES
    }

    /// More is open in the mailbox than this socket holds.
    pub(super) fn misses(&self, open: u64) -> bool {
        open > self.held.len() as u64
    }

    /// There may be something to take, or was heard to be (`told`). True when a taking is to begin.
    pub(super) fn want(&mut self, told: bool) -> bool {
        self.wanted = true;
        self.told |= told;
        let begins = !self.taking && !self.over && self.has_room();
        self.taking |= begins;
        begins
    }

    /// There is more than the last taking brought: the one under way goes on.
    pub(super) fn want_more(&mut self, more: bool) {
        self.wanted |= more;
        self.told |= more;
    }

    /// What the taking is to do next; `None`: it is over.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        if self.over || !self.wanted || !self.has_room() {
            self.taking = false;
            return None;
        }
        if !self.reclaimed {
            return Some(Step::Reclaim);
        }
        self.wanted = false;
        self.held_up = !self.held.is_empty();
        Some(Step::Take(WINDOW - self.held.len(), mem::take(&mut self.told)))
    }

    /// What older sockets held was given back.
    pub(super) fn reclaimed(&mut self) {
        self.reclaimed = true;
    }

    /// The newer socket, which held what waits now, is gone.
    pub(super) fn reclaim_again(&mut self) {
        self.reclaimed = false;
    }

    /// The taking broke off, and may have left something.
    pub(super) fn broke_off(&mut self) {
        self.taking = false;
        self.wanted = true;
    }

    /// False when the socket has ended: nobody is left to hold it.
    pub(super) fn hold(&mut self, mail: &[Delivered], now: Instant, lease: Duration) -> bool {
        if self.over {
            return false;
        }
        for delivered in mail {
            let bytes = delivered.message.body.as_text().len();
            let held = Held {
                message_id: delivered.message.message_id,
                lease: delivered.lease,
                bytes,
                taken: now,
                renew_at: now + lease / 2,
                until: now + lease,
            };
            self.bytes += bytes;
            if let Some(before) = self.held.insert(slot(delivered.lease), held) {
                self.bytes -= before.bytes;
            }
        }
        true
    }

    fn let_go(&mut self, lease: Lease) {
        let slot = slot(lease);
        if self.held.get(&slot).is_some_and(|held| held.lease == lease)
            && let Some(held) = self.held.remove(&slot)
        {
            self.bytes -= held.bytes;
        }
        if self.held.is_empty() {
            self.held = HashMap::new();
        }
    }

    /// It is in other hands, or nobody's, from now on.
    pub(super) fn drop_all(&mut self) -> Vec<MessageId> {
        self.bytes = 0;
        std::mem::take(&mut self.held).into_values().map(|held| held.message_id).collect()
    }

    /// True when nobody settles yet: that is to begin.
    pub(super) fn add_settling(&mut self, reference: Option<Reference>, settling: Settling) -> bool {
        self.settlings.push((reference, settling));
        !std::mem::replace(&mut self.settling, true)
    }

    /// What is to be settled next, together; empty: nobody settles any more.
    pub(super) fn next_settlings(&mut self) -> Vec<(Option<Reference>, Settling)> {
        let count = self.settlings.len().min(SETTLE_MAX);
        if count == 0 {
            self.settling = false;
            self.settlings = Vec::new();
        }
        self.settlings.drain(..count).collect()
    }

    pub(super) fn settled(&mut self, settling: &Settling, outcome: &Result<()>, now: Instant) {
        match (outcome, &settling.verdict) {
            (Ok(()), Verdict::Renew) => {
                if let Some(held) = self.held.get_mut(&slot(settling.lease)) {
                    held.renew_at = now + LEASE / 2;
                    held.until = now + LEASE;
                }
            }
            (Ok(()), _) => self.let_go(settling.lease),
            // The lease is stale: whatever became of the message, it is not in this hand any more.
            (Err(error), _) if error.code == ErrorCode::Conflict => self.let_go(settling.lease),
            // It may be tried again.
            (Err(_), _) => {}
        }
    }

    /// Whether there may be something to take now that some was settled.
    pub(super) fn may_go_on(&self) -> bool {
        self.wanted || self.held_up
    }

    /// Whether the socket's client may go on settling before what it settled is done.
    pub(super) fn has_room_for_settlings(&self) -> bool {
        self.settlings.len() < SETTLINGS_ROOMY
    }

    /// Leases of which half is over, as they are to be renewed.
    pub(super) fn renewals(&mut self, now: Instant) -> Vec<Settling> {
        let due =
            self.held.values_mut().filter(|held| held.renew_at <= now && now.duration_since(held.taken) < RENEWED_FOR);
        due.map(|held| {
            held.renew_at = now + RENEW_AGAIN;
            Settling { message_id: held.message_id, lease: held.lease, verdict: Verdict::Renew }
        })
        .collect()
    }

    /// Forgets what is no longer in this hand. True when there was any.
    pub(super) fn forget_lapsed(&mut self, now: Instant) -> bool {
        let before = self.held.len();
        self.held.retain(|_, held| held.until > now);
        self.bytes = self.held.values().map(|held| held.bytes).sum();
        self.held.len() < before
    }

    /// The socket has ended.
    pub(super) fn end(&mut self) {
        self.over = true;
    }

    /// The socket has ended, and nobody is at work for it any more.
    pub(super) fn is_left(&self) -> bool {
        self.over && !self.taking && !self.settling
    }
}

#[cfg(test)]
mod tests {
    use guildhall_domain::{
        AgentId, Error, Timestamp,
        mail::{Body, Mailbox, Message, Priority, Recipient},
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn delivered(number: i64, bytes: usize) -> Delivered {
        let agent = AgentId::new("b").unwrap();
        let message = Message {
            message_id: MessageId::from_bytes([7; 16]),
            from: AgentId::new("a").unwrap(),
            to: Recipient::Agent(agent.clone()),
            kind: "message".to_owned(),
            priority: Priority::Normal,
            body: Body::from_text(format!("\"{}\"", "x".repeat(bytes))).unwrap(),
            sent_at: Timestamp::default(),
            expires_at: None,
            reply_to: None,
            correlation_id: None,
            conversation_id: None,
            requires_response: false,
        };
        let lease = Lease { mailbox: 1, number, hand_out: 1 };
        Delivered { message, mailbox: Mailbox::Agent(agent), lease, lease_until: Timestamp::default(), attempt: 1 }
    }

    fn renewed(window: &mut Window, at: Instant) -> Vec<Lease> {
        window
            .renewals(at)
            .into_iter()
            .inspect(|one| assert_eq!(one.verdict, Verdict::Renew))
            .map(|one| one.lease)
            .collect()
    }

    fn renewal(lease: Lease) -> Settling {
        Settling { message_id: MessageId::from_bytes([7; 16]), lease, verdict: Verdict::Renew }
    }

    #[test]
    fn a_lease_is_renewed_when_half_of_it_is_over_and_then_again_but_not_for_ever() {
        let (mut window, began) = (Window::default(), Instant::now());
        let mail = delivered(1, 10);
        assert!(window.hold(std::slice::from_ref(&mail), began, LEASE));
        assert_eq!(renewed(&mut window, began + LEASE / 2 - SECOND), []);
        let mut renewals = 0;
        let mut now = began + LEASE / 2;
        while renewed(&mut window, now) == [mail.lease] {
            renewals += 1;
            assert_eq!(renewed(&mut window, now + SECOND), [], "asked again before there could be an answer");
            window.settled(&renewal(mail.lease), &Ok(()), now);
            assert_eq!(renewed(&mut window, now + LEASE / 2 - SECOND), []);
            now += LEASE / 2;
        }
        assert_eq!(renewals, RENEWED_FOR.as_secs() / (LEASE / 2).as_secs() - 1);
        assert!(!window.forget_lapsed(now), "its last renewal still counts");
        assert!(window.forget_lapsed(now + LEASE / 2) && window.want(false), "what has lapsed holds a place");
    }

    #[test]
    fn a_renewal_that_failed_is_tried_again_soon_and_one_that_came_too_late_frees_the_place() {
        let (mut window, began) = (Window::default(), Instant::now());
        let mail = delivered(1, 10);
        window.hold(std::slice::from_ref(&mail), began, LEASE);
        let half = began + LEASE / 2;
        assert_eq!(renewed(&mut window, half), [mail.lease]);
        window.settled(&renewal(mail.lease), &Err(Error::unavailable("away")), half + SECOND);
        assert_eq!(renewed(&mut window, half + RENEW_AGAIN - SECOND), []);
        assert_eq!(renewed(&mut window, half + RENEW_AGAIN), [mail.lease]);
        window.settled(&renewal(mail.lease), &Err(Error::conflict("stale")), half + RENEW_AGAIN);
        assert!(!window.misses(0) && window.misses(1), "it is held no longer");
    }

    #[test]
    fn nothing_is_taken_while_a_client_holds_as_much_as_it_may() {
        let (mut window, now) = (Window::default(), Instant::now());
        assert!(window.want(false) && window.next_step() == Some(Step::Reclaim));
        window.reclaimed();
        assert_eq!(window.next_step(), Some(Step::Take(WINDOW, false)));
        assert!(!window.want(true), "one taking at a time");
        let mail = [delivered(1, 700 * 1024), delivered(2, 700 * 1024)];
        window.hold(&mail, now, LEASE);
        assert_eq!(window.next_step(), None, "another 3 MiB would not fit");
        assert!(!window.want(false));
        window.settled(&Settling { verdict: Verdict::Ack, ..renewal(mail[0].lease) }, &Ok(()), now);
        assert!(window.may_go_on() && window.want(false));
        assert_eq!(window.next_step(), Some(Step::Take(WINDOW - 1, true)));
    }

    #[test]
    fn a_newer_socket_that_went_while_mail_is_taken_is_reclaimed_from_before_more_is() {
        let mut window = Window::default();
        window.want(false);
        window.reclaimed();
        assert_eq!(window.next_step(), Some(Step::Take(WINDOW, false)));
        window.reclaim_again();
        window.want(false);
        assert_eq!(window.next_step(), Some(Step::Reclaim));
    }
}
