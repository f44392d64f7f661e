//! Mail on its way through one socket: taken as far as the socket's window is free, pushed, and settled as its client
//! says.
//!
//! Nothing polls on this way: a hint wakes the socket's taking, one at a time; what its client acknowledges while one
//! settling is under way goes into the next. Whatever a socket holds when it ends is given back at once. What an older
//! socket held, even of a gateway that died, is given back by the first taking of the next one, before anything else,
//! so that it comes again in its order.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_domain::{
    Call, ErrorCode, Principal, Result,
    mail::{
        Body, Delivered, NewMessage, Recipient,
        delivery::{Settling, TAKE_MAX_BYTES, TakeMail, Verdict},
        kind,
    },
};
use serde_json::json;

use super::{Door, frame::Reference, sockets::Socket, tell, window::Step};
use crate::handover::Once;

/// What begins the name of every hand that takes for a socket.
const HANDS: &str = "ws/";

impl Door {
    /// The name of the hand that takes for this socket. The slash at the end: 1 also begins 10.
    fn hand(&self, socket: &Socket) -> String {
        format!("{HANDS}{}/{}/", self.hall.node.as_str(), socket.id.0)
    }

    /// There may be mail for it.
    pub(super) fn wake(self: &Arc<Self>, socket: &Arc<Socket>) {
        self.begin(socket, false);
    }

    /// It was heard that there is mail for it.
    pub(super) fn tell_of_mail(self: &Arc<Self>, socket: &Arc<Socket>) {
        self.begin(socket, true);
    }

    fn begin(self: &Arc<Self>, socket: &Arc<Socket>, told: bool) {
        if socket.window.lock().want(told) {
            self.running.spawn(self.clone().take(socket.clone()));
        }
    }

    async fn take(self: Arc<Self>, socket: Arc<Socket>) {
        if let Err(error) = self.take_all(&socket).await {
            // The sweep begins another taking.
            tracing::debug!(%error, agent = %socket.agent, "mail was not taken for a socket");
            socket.window.lock().broke_off();
        }
        self.leave_if_over(&socket).await;
    }

    async fn take_all(self: &Arc<Self>, socket: &Arc<Socket>) -> Result<()> {
        loop {
            let Some(step) = socket.window.lock().next_step() else { return Ok(()) };
            if !self.sockets.has_mail(socket) || !socket.outbox.has_room() {
                // What its client settles, or the sweep, begins another taking.
                socket.window.lock().broke_off();
                return Ok(());
            }
            let call = socket.caller.call();
            let (limit, told) = match step {
                Step::Take(limit, told) => (limit, told),
                Step::Reclaim => {
                    self.hall.mail.give_back(&call, &socket.agent, HANDS).await?;
                    socket.window.lock().reclaimed();
                    continue;
                }
            };
            let lease = self.hall.pace.lease;
            let take = TakeMail { limit, wait: Duration::ZERO, taker: self.hand(socket), lease, told };
            let taken = self.hall.mail.take(&call, &socket.agent, take).await?;
            if !self.sockets.has_mail(socket) {
                // A newer socket was opened meanwhile: it is the one to push to.
                socket.window.lock().broke_off();
                self.give_back(socket).await;
                return Ok(());
            }
            let bytes: usize = taken.iter().map(|mail| mail.message.body.as_text().len()).sum();
            let more = taken.len() == limit || bytes > TAKE_MAX_BYTES / 2;
            let pings = self.push(socket, taken);
            socket.window.lock().want_more(more);
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
        let again = mail.iter().filter(|mail| mail.lease.hand_out > 1).count();
        let mut window = socket.window.lock();
        if !window.hold(&mail, Instant::now(), self.hall.pace.lease) {
            return Vec::new();
        }
        mail.iter().for_each(|delivered| socket.outbox.push(tell::message(delivered)));
        drop(window);
        self.hall.unread.took(&socket.tenant, &socket.agent, &mail, Once::Kept);
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
        if socket.window.lock().add_settling(reference, settling) {
            self.running.spawn(self.clone().settle_all(socket.clone()));
        }
    }

    async fn settle_all(self: Arc<Self>, socket: Arc<Socket>) {
        loop {
            let batch = socket.window.lock().next_settlings();
            if batch.is_empty() {
                break;
            }
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
                if outcome.is_ok() {
                    self.hall.unread.settled(&socket.tenant, &socket.agent, settling);
                }
                match (reference, outcome) {
                    (Some(reference), Ok(())) => socket.outbox.push(tell::done(reference)),
                    (Some(reference), Err(error)) => socket.outbox.push(tell::error(reference, error)),
                    (None, Ok(())) => {}
                    (None, Err(error)) => tracing::debug!(%error, agent = %socket.agent, "the hall could not settle"),
                }
            }
            let more = window.may_go_on();
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
        self.let_go(socket);
        socket.outbox.push(tell::mail_here(false));
        let (door, socket) = (self.clone(), socket.clone());
        self.running.spawn(async move { door.give_back(&socket).await });
    }

    /// The newer socket of the agent is gone: this one gets the mail again.
    pub(super) fn take_over(self: &Arc<Self>, socket: &Arc<Socket>) {
        socket.outbox.push(tell::mail_here(true));
        socket.window.lock().reclaim_again();
        self.wake(socket);
    }

    /// The socket has ended. What is under way for it comes to its end first.
    pub(super) async fn leave_mail(&self, socket: &Socket) {
        socket.window.lock().end();
        self.leave_if_over(socket).await;
    }

    /// Whoever is the last at work for a socket that has ended gives back what it held.
    async fn leave_if_over(&self, socket: &Socket) {
        let is_left = socket.window.lock().is_left();
        if is_left {
            self.give_back(socket).await;
        }
    }

    /// What the socket's client holds is in its hands no more.
    fn let_go(&self, socket: &Socket) {
        let held = socket.window.lock().drop_all();
        self.hall.unread.gave_back(&socket.tenant, &socket.agent, &held);
    }

    async fn give_back(&self, socket: &Socket) {
        self.let_go(socket);
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
        let (renewals, lapsed) = {
            let mut window = socket.window.lock();
            (window.renewals(now), window.forget_lapsed(now))
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
