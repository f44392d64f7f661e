//! Takers, as right callers are: who cannot know what it holds gives it back and takes again.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use guildhall_domain::{
    ErrorCode, Result, Timestamp,
    mail::{
        Delivered, DeliveryState, Mailbox, MessageId, Priority,
        delivery::{LEASE, Settling, TrackedDelivery, Verdict},
    },
    ports::mail_store::{Outgoing, Taking},
};

use super::{NOW, Replica, Stage, hall, insist, letter, mailbox, send};
use crate::contract::eventually;

/// Takings that a hand makes before it gives up what it was to find.
const ATTEMPTS: usize = 50;

pub(super) fn at(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

pub(super) const LEASE_SECONDS: u64 = LEASE.as_secs();

pub(super) fn nack(delay: Option<u64>, reason: Option<&str>) -> Verdict {
    Verdict::Nack { delay: delay.map(Duration::from_secs), reason: reason.map(str::to_owned) }
}

pub(super) fn ids(delivered: &[Delivered]) -> Vec<MessageId> {
    delivered.iter().map(|delivered| delivered.message.message_id).collect()
}

pub(super) fn prior(outgoing: Outgoing, priority: Priority) -> Outgoing {
    let message = guildhall_domain::mail::Message { priority, ..outgoing.message };
    Outgoing { message, ..outgoing }
}

/// So many from one to another, in this order.
pub(super) async fn send_some(replica: &Replica, from: &str, to: &str, how_many: usize) -> Vec<MessageId> {
    let mut sent = Vec::new();
    for _ in 0..how_many {
        sent.push(send(replica, &letter(from, to)).await);
    }
    sent
}

pub(super) struct Hand<'a> {
    stage: &'a Stage,
    replica: &'a Replica,
    name: String,
    pub(super) mailboxes: Vec<Mailbox>,
}

impl<'a> Hand<'a> {
    pub(super) fn of(stage: &'a Stage, replica: &'a Replica, agent: &str) -> Self {
        Self { stage, replica, name: agent.to_owned(), mailboxes: vec![mailbox(agent)] }
    }

    pub(super) fn and_pool(mut self, pool: &str) -> Self {
        self.mailboxes.push(Mailbox::Pool(pool.to_owned()));
        self
    }

    /// One attempt, under a name of its own.
    pub(super) async fn try_take(&self, limit: usize, now: Timestamp) -> (String, Result<Vec<Delivered>>) {
        static TAKINGS: AtomicU64 = AtomicU64::new(0);
        let taker = format!("{}/{}/", self.name, TAKINGS.fetch_add(1, Ordering::Relaxed));
        let (tenant, mailboxes) = (hall(), self.mailboxes.clone());
        let taking =
            Taking { tenant, mailboxes, taker: taker.clone(), limit, lease: LEASE, told: limit.is_multiple_of(2), now };
        let taken = self.replica.mail.take(taking).await;
        (taker, taken)
    }

    pub(super) async fn give_back(&self, taker: &str) -> u64 {
        insist(async || self.replica.mail.give_back(&hall(), &self.mailboxes, taker).await).await.unwrap()
    }

    /// Takes what fits. Behind faults it may hold more than it knows: then that is given back, and taken anew.
    pub(super) async fn takes_what(
        &self,
        limit: usize,
        now: Timestamp,
        fits: impl Fn(&[Delivered]) -> bool,
    ) -> Vec<Delivered> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let (taker, taken) = self.try_take(limit, now).await;
            match taken {
                Ok(taken) if fits(&taken) => return taken,
                taken if self.stage.answers_once() => panic!("{} took {taken:?}", self.name),
                taken => last = Some(taken),
            }
            self.give_back(&taker).await;
        }
        panic!("{} took {last:?} in the end", self.name)
    }

    pub(super) async fn takes(&self, limit: usize, now: Timestamp, wanted: &[MessageId]) -> Vec<Delivered> {
        self.takes_what(limit, now, |taken| ids(taken) == wanted).await
    }

    pub(super) async fn finds_nothing(&self, now: Timestamp) {
        let taken = insist(async || self.try_take(100, now).await.1).await.unwrap();
        assert_eq!(ids(&taken), []);
    }

    pub(super) async fn settle(&self, of: &Delivered, verdict: Verdict, now: Timestamp) -> Result<()> {
        let settling = Settling { message_id: of.message.message_id, lease: of.lease, verdict };
        let settle = async || self.replica.mail.settle(&hall(), &self.mailboxes, vec![settling.clone()], now).await;
        insist(settle).await.unwrap().pop().expect("one is answered")
    }

    /// What was nacked when the answer was lost is not held any more.
    pub(super) async fn settles(&self, of: &Delivered, verdict: Verdict, now: Timestamp) {
        let nacks = matches!(verdict, Verdict::Nack { .. });
        match self.settle(of, verdict, now).await {
            Err(error) if nacks && error.code == ErrorCode::Conflict && !self.stage.answers_once() => {}
            settled => assert_eq!(settled, Ok(())),
        }
    }

    pub(super) async fn ack(&self, of: &[Delivered], now: Timestamp) {
        for of in of {
            self.settles(of, Verdict::Ack, now).await;
        }
    }

    pub(super) async fn is_refused(&self, of: &Delivered, verdict: Verdict, now: Timestamp) {
        let refused = self.settle(of, verdict, now).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Conflict);
        assert!(refused.message.starts_with("stale lease"), "{refused}");
    }
}

/// What of a message is in one mailbox, once it fits.
pub(super) async fn delivery_becomes(
    replica: &Replica,
    message: MessageId,
    in_mailbox: &Mailbox,
    state: DeliveryState,
    attempts: u32,
) -> TrackedDelivery {
    let only = [in_mailbox.clone()];
    let look = async || {
        let tracked = replica.mail.message(&hall(), message, Some(&only)).await?;
        let delivery = tracked.and_then(|tracked| tracked.deliveries.into_iter().next());
        Ok(delivery.filter(|delivery| (delivery.state, delivery.attempts) == (state, attempts)))
    };
    eventually(&format!("{message} is {} after {attempts}", state.as_str()), look).await
}

pub(super) async fn waiting_become(replica: &Replica, in_mailbox: &Mailbox, wanted: u64) {
    let look = async || {
        let unread = replica.mail.unread(&hall(), std::slice::from_ref(in_mailbox)).await?;
        Ok((unread[0].waiting == wanted).then_some(()))
    };
    eventually(&format!("{wanted} wait in {in_mailbox}"), look).await;
}
