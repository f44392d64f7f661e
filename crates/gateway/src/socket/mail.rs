//! Mail on its way through one socket: taken as far as the socket's window is free, pushed, and settled as its client
//! says.
//!
//! Nothing polls on this way: a hint wakes the socket's taking, one at a time; what its client acknowledges while one
//! settling is under way goes into the next. Whatever a socket holds when it ends is given back at once. What an older
//! socket held, even of a gateway that died, is given back by the first taking of the next one, before anything else,
//! so that it comes again in its order.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_domain::{
    Call, Error, ErrorCode, Principal, Result,
    mail::{
        Body, Delivered, Lease, MessageId, NewMessage, Recipient,
        delivery::{LEASE, NACK_DELAY_MAX, Settling, TAKE_MAX_BYTES, TakeMail, Verdict},
        kind,
    },
};
use serde_json::json;

use super::{Door, frame::Reference, sockets::Socket, tell};

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
/// Of a nack.
const REASON_MAX_BYTES: usize = 512;
/// What begins the name of every hand that takes for a socket.
const HANDS: &str = "ws/";

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
    /// There may be more behind what is held: mail of one sender waits until what it sent before is settled.
    held_up: bool,
    /// What older sockets held was given back.
    reclaimed: bool,
    settlings: Vec<(Option<Reference>, Settling)>,
    settling: bool,
    /// The socket has ended.
    over: bool,
}

impl Window {
    fn has_room(&self) -> bool {
        self.held.len() < WINDOW && self.bytes + TAKE_MAX_BYTES <= WINDOW_BYTES
    }

    /// More is open in the mailbox than this socket holds.
    pub(super) fn misses(&self, open: u64) -> bool {
        open > self.held.len() as u64
    }

    /// True when a taking is to begin.
    fn want(&mut self) -> bool {
        self.wanted = true;
        let begins = !self.taking && !self.over && self.has_room();
        self.taking |= begins;
        begins
    }

    /// How much to take now, or the end of the taking.
    fn next_taking(&mut self) -> Option<usize> {
        if self.over || !self.wanted || !self.has_room() {
            self.taking = false;
            return None;
        }
        self.wanted = false;
        self.held_up = !self.held.is_empty();
        Some(WINDOW - self.held.len())
    }

    fn hold(&mut self, delivered: &Delivered, now: Instant) {
        let bytes = delivered.message.body.as_text().len();
        let held = Held {
            message_id: delivered.message.message_id,
            lease: delivered.lease,
            bytes,
            taken: now,
            renew_at: now + LEASE / 2,
            until: now + LEASE,
        };
        self.bytes += bytes;
        if let Some(before) = self.held.insert(slot(delivered.lease), held) {
            self.bytes -= before.bytes;
        }
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

    fn drop_all(&mut self) {
        self.held = HashMap::new();
        self.bytes = 0;
    }

    fn settled(&mut self, settling: &Settling, outcome: &Result<()>, now: Instant) {
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

    /// Whether the socket's client may go on settling before what it settled is done.
    pub(super) fn has_room_for_settlings(&self) -> bool {
        self.settlings.len() < SETTLINGS_ROOMY
    }

    fn is_idle(&self) -> bool {
        !self.taking && !self.settling
    }
}

impl Door {
    /// The name of the hand that takes for this socket. The slash at the end: 1 also begins 10.
    fn hand(&self, socket: &Socket) -> String {
        format!("{HANDS}{}/{}/", self.hall.node.as_str(), socket.id.0)
    }

    /// There may be mail for it.
    pub(super) fn wake(self: &Arc<Self>, socket: &Arc<Socket>) {
        if socket.window.lock().want() {
            self.running.spawn(self.clone().take(socket.clone()));
        }
    }

    async fn take(self: Arc<Self>, socket: Arc<Socket>) {
        if let Err(error) = self.take_all(&socket).await {
            // The sweep begins another taking.
            tracing::debug!(%error, agent = %socket.agent, "mail was not taken for a socket");
            socket.window.lock().taking = false;
        }
        self.leave_if_over(&socket).await;
    }

    async fn take_all(self: &Arc<Self>, socket: &Arc<Socket>) -> Result<()> {
        if !socket.window.lock().reclaimed {
            self.hall.mail.give_back(&socket.caller.call(), &socket.agent, HANDS).await?;
            socket.window.lock().reclaimed = true;
        }
        loop {
            let Some(limit) = socket.window.lock().next_taking() else { return Ok(()) };
            if !self.sockets.has_mail(socket) || !socket.outbox.has_room() {
                let mut window = socket.window.lock();
                window.taking = false;
                // What its client settles, or the sweep, begins another taking.
                window.wanted = true;
                return Ok(());
            }
            let take = TakeMail { limit, wait: Duration::ZERO, taker: self.hand(socket), lease: LEASE };
            let taken = self.hall.mail.take(&socket.caller.call(), &socket.agent, take).await?;
            if !self.sockets.has_mail(socket) {
                // A newer socket was opened meanwhile: it is the one to push to.
                socket.window.lock().taking = false;
                self.give_back(socket).await;
                return Ok(());
            }
            let bytes: usize = taken.iter().map(|mail| mail.message.body.as_text().len()).sum();
            let more = taken.len() == limit || bytes > TAKE_MAX_BYTES / 2;
            let pings = self.push(socket, taken);
            socket.window.lock().wanted |= more;
            if !pings.is_empty() {
                self.answer_pings(socket, pings).await;
            }
        }
    }

    /// Pushes what was taken; gives the pings, which the hall answers by itself.
    fn push(&self, socket: &Socket, taken: Vec<Delivered>) -> Vec<Delivered> {
        let answers_pings = socket.caller.principal.agent().is_some_and(|own| own == socket.agent);
        let is_ping = |mail: &Delivered| answers_pings && mail.message.kind == kind::PING;
        let (pings, mail): (Vec<_>, Vec<_>) = taken.into_iter().partition(is_ping);
        if mail.is_empty() {
            return pings;
        }
        let mut window = socket.window.lock();
        if window.over {
            return Vec::new();
        }
        let now = Instant::now();
        let again = mail.iter().filter(|mail| mail.lease.hand_out > 1).count();
        for delivered in &mail {
            window.hold(delivered, now);
            socket.outbox.push(tell::message(delivered));
        }
        drop(window);
        metrics::counter!("guildhall_socket_pushes_total").increment(mail.len() as u64);
        metrics::counter!("guildhall_socket_redeliveries_total").increment(again as u64);
        pings
    }

    async fn answer_pings(self: &Arc<Self>, socket: &Arc<Socket>, pings: Vec<Delivered>) {
        for ping in pings {
            let verdict = match self.hall.mail.send(&socket.caller.call(), vec![pong(&ping)]).await {
                Ok(_) => Verdict::Ack,
                // Nobody is there to be answered.
                Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::MailboxFull) => Verdict::Ack,
                Err(_) => Verdict::Nack { delay: None, reason: Some("the hall could not answer it".to_owned()) },
            };
            self.settle(socket, None, Settling { message_id: ping.message.message_id, lease: ping.lease, verdict });
        }
    }

    /// `reference`: what the answer carries; `None`: nobody waits for one.
    pub(super) fn settle(self: &Arc<Self>, socket: &Arc<Socket>, reference: Option<Reference>, settling: Settling) {
        let mut window = socket.window.lock();
        window.settlings.push((reference, settling));
        if !std::mem::replace(&mut window.settling, true) {
            self.running.spawn(self.clone().settle_all(socket.clone()));
        }
    }

    async fn settle_all(self: Arc<Self>, socket: Arc<Socket>) {
        loop {
            let batch: Vec<_> = {
                let mut window = socket.window.lock();
                let count = window.settlings.len().min(SETTLE_MAX);
                if count == 0 {
                    window.settling = false;
                    window.settlings = Vec::new();
                    break;
                }
                window.settlings.drain(..count).collect()
            };
            let (references, settlings): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let call = socket.caller.call();
            let outcomes = match self.hall.mail.settle(&call, &socket.agent, settlings.clone()).await {
                Ok(outcomes) => outcomes,
                Err(error) => vec![Err(error); settlings.len()],
            };
            let now = Instant::now();
            let mut window = socket.window.lock();
            for ((reference, settling), outcome) in references.iter().zip(&settlings).zip(&outcomes) {
                window.settled(settling, outcome, now);
                match (reference, outcome) {
                    (Some(reference), Ok(())) => socket.outbox.push(tell::done(reference)),
                    (Some(reference), Err(error)) => socket.outbox.push(tell::error(reference, error)),
                    (None, Ok(())) => {}
                    (None, Err(error)) => tracing::debug!(%error, agent = %socket.agent, "the hall could not settle"),
                }
            }
            let more = window.wanted || window.held_up;
            drop(window);
            // The reader may have waited for room.
            socket.outbox.wake();
            if more {
                self.wake(&socket);
            }
        }
        self.leave_if_over(&socket).await;
    }

    /// Another socket of the agent gets its mail from now on.
    pub(super) fn hand_over(self: &Arc<Self>, socket: &Arc<Socket>) {
        socket.window.lock().drop_all();
        socket.outbox.push(tell::mail_here(false));
        let (door, socket) = (self.clone(), socket.clone());
        self.running.spawn(async move { door.give_back(&socket).await });
    }

    /// The newer socket of the agent is gone: this one gets the mail again.
    pub(super) fn take_over(self: &Arc<Self>, socket: &Arc<Socket>) {
        socket.outbox.push(tell::mail_here(true));
        socket.window.lock().reclaimed = false;
        self.wake(socket);
    }

    /// The socket has ended. What is under way for it comes to its end first.
    pub(super) async fn leave_mail(&self, socket: &Socket) {
        {
            let mut window = socket.window.lock();
            window.over = true;
        }
        self.leave_if_over(socket).await;
    }

    /// Whoever is the last at work for a socket that has ended gives back what it held.
    async fn leave_if_over(&self, socket: &Socket) {
        let last = {
            let window = socket.window.lock();
            window.over && window.is_idle()
        };
        if last {
            self.give_back(socket).await;
        }
    }

    async fn give_back(&self, socket: &Socket) {
        // The right to give back does not end with the agent's token.
        let call = Call::new(Principal::hall(socket.tenant.clone(), "gateway"));
        match self.hall.mail.give_back(&call, &socket.agent, &self.hand(socket)).await {
            Ok(_) => {}
            // The agent's next socket gives it back; else it waits until the lease is over.
            Err(error) => tracing::debug!(%error, agent = %socket.agent, "what a socket held was not given back"),
        }
    }

    /// Renews what is held for long, and forgets what is no longer held.
    pub(super) fn tend_leases(self: &Arc<Self>, socket: &Arc<Socket>, now: Instant) {
        let mut renewals = Vec::new();
        let lapsed = {
            let mut window = socket.window.lock();
            if window.held.is_empty() {
                return;
            }
            for held in window.held.values_mut() {
                if held.renew_at <= now && now.duration_since(held.taken) < RENEWED_FOR {
                    held.renew_at = now + RENEW_AGAIN;
                    let Held { message_id, lease, .. } = *held;
                    renewals.push(Settling { message_id, lease, verdict: Verdict::Renew });
                }
            }
            let before = window.held.len();
            window.held.retain(|_, held| held.until > now);
            window.bytes = window.held.values().map(|held| held.bytes).sum();
            before > window.held.len()
        };
        for renewal in renewals {
            self.settle(socket, None, renewal);
        }
        if lapsed {
            self.wake(socket);
        }
    }
}

/// What the hall answers a ping with, in the name of the agent whose socket is up.
fn pong(ping: &Delivered) -> NewMessage {
    let ping = &ping.message;
    let body = json!({ "message_id": ping.message_id });
    let body = Body::from_value(&body).expect("an object with one string is JSON");
    NewMessage {
        kind: kind::ACK.to_owned(),
        priority: ping.priority,
        // Answered once, however often it is taken.
        idempotency_key: Some(format!("pong.{}", ping.message_id)),
        reply_to: Some(ping.message_id),
        correlation_id: Some(ping.correlation_id.clone().unwrap_or_else(|| ping.message_id.to_string())),
        conversation_id: ping.conversation_id.clone(),
        ..NewMessage::new(Recipient::Agent(ping.from.clone()), body)
    }
}

/// What a nack says, within the bounds of the port: it goes there together with others, which it must not take along.
pub(super) fn nack(delay_ms: Option<u64>, reason: Option<String>) -> Result<Verdict> {
    let delay = delay_ms.map(Duration::from_millis);
    if delay.is_some_and(|delay| delay > NACK_DELAY_MAX) {
        return Err(Error::invalid(format!("delay_ms is at most {}", NACK_DELAY_MAX.as_millis())));
    }
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_MAX_BYTES || reason.chars().any(char::is_control)) {
        return Err(Error::invalid(format!("reason is {REASON_MAX_BYTES} bytes at most, without control characters")));
    }
    Ok(Verdict::Nack { delay, reason })
}
