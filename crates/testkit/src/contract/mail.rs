//! What mail and topics must do, on every way to them: the core, its clients in process and over a socket, and behind
//! faults. Always with two replicas over the same engines. Stamped with [`crate::mail_contract`].

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

pub mod dead_letters;
pub mod requests;
pub mod sending;
pub mod taking;
pub mod topics;

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use guildhall_domain::{
    AgentId, Call, Error, ErrorCode, NewAgent, Principal, PrincipalKind, Result, TenantId,
    mail::{
        Body, Delivered, DeliveryState, Message, MessageId, NewMessage, Receipt, Recipient,
        delivery::{LEASE, Settling, TakeMail, Tracked, Unread, Verdict},
    },
    ports::{AgentRegistry, Mail, Topics, agent_registry::RegistrationRight},
    principal::roles,
};
use serde_json::json;

use super::{eventually, insist};
use crate::{
    clock::FixedClock,
    fault::{FaultPlan, Faulty},
};

/// One replica: its ports, and the registry beside them.
#[derive(Clone)]
pub struct Replica {
    pub mail: Arc<dyn Mail>,
    pub topics: Arc<dyn Topics>,
    pub registry: Arc<dyn AgentRegistry>,
}

/// Two replicas under test, and what is around them.
pub struct Stage {
    pub here: Replica,
    pub there: Replica,
    /// The clock of both replicas. Their rounds run in real time and look at it.
    pub clock: Arc<FixedClock>,
    /// How many messages may wait in one mailbox. A multiple of 100.
    pub mailbox_holds: usize,
    /// Calls may be lost or repeated, and reads may be old.
    pub is_faulty: bool,
    /// What must live as long as the test, such as the engines' processes.
    pub engines: Box<dyn Any + Send + Sync>,
}

impl Stage {
    pub fn behind_faults(self, seed: u64) -> Self {
        let faulty = |replica: Replica, seed| Replica {
            mail: Arc::new(Faulty::<dyn Mail>::new(replica.mail, FaultPlan::seeded(seed))),
            topics: Arc::new(Faulty::<dyn Topics>::new(replica.topics, FaultPlan::seeded(seed + 1))),
            ..replica
        };
        Self { here: faulty(self.here, seed), there: faulty(self.there, seed + 2), is_faulty: true, ..self }
    }

    async fn register(&self, new: NewAgent) {
        self.here.registry.register(&admin(), new, RegistrationRight::Caller).await.unwrap();
    }

    /// Agents with nothing but their names.
    async fn agents(&self, names: &[&str]) {
        for name in names {
            self.register(NewAgent::named(id(name), *name)).await;
        }
    }

    /// Mail with a key of its own: its sender may repeat it.
    async fn send(&self, replica: &Replica, from: &str, new: &NewMessage) -> Result<Receipt> {
        self.send_all(replica, from, std::slice::from_ref(new)).await.map(|mut receipts| receipts.remove(0))
    }

    async fn send_all(&self, replica: &Replica, from: &str, new: &[NewMessage]) -> Result<Vec<Receipt>> {
        insist(|| async { replica.mail.send(&agent(from), new.to_vec()).await }).await
    }

    /// One letter, and its id.
    async fn letter(&self, replica: &Replica, from: &str, to: &str) -> MessageId {
        self.send(replica, from, &letter(to)).await.unwrap().message_id
    }

    async fn once(&self, replica: &Replica, who: &str, limit: usize) -> Result<Vec<Delivered>> {
        replica.mail.take(&agent(who), &id(who), taking(who, limit)).await
    }

    /// Takes what there is to take, just these numbers of messages. Where answers are lost, what was taken with them is
    /// given back and taken again.
    async fn take(&self, replica: &Replica, who: &str, wanted: usize) -> Vec<Delivered> {
        if !self.is_faulty {
            let taken = self.once(replica, who, 100).await.unwrap();
            assert_eq!(taken.len(), wanted, "{who} took {taken:?}");
            return taken;
        }
        let again = || async {
            let taken = self.once(replica, who, 100).await;
            if taken.as_ref().is_ok_and(|taken| taken.len() == wanted) {
                return taken.map(Some);
            }
            insist(|| async { replica.mail.give_back(&agent(who), &id(who), who).await }).await?;
            Ok(None)
        };
        eventually(&format!("{who} takes {wanted}"), again).await
    }

    /// The same for what comes only when a round has seen to it.
    async fn comes_to_take(&self, replica: &Replica, who: &str, wanted: usize) -> Vec<Delivered> {
        let again = || async {
            let taken = self.once(replica, who, 100).await?;
            if taken.len() == wanted {
                return Ok(Some(taken));
            }
            insist(|| async { replica.mail.give_back(&agent(who), &id(who), who).await }).await?;
            Ok(None)
        };
        eventually(&format!("{who} comes to take {wanted}"), again).await
    }

    /// One settling. A repeat of one whose answer was lost may find its lease used up; then its effect is what counts.
    async fn settle(&self, replica: &Replica, who: &str, taken: &Delivered, verdict: Verdict) -> Result<()> {
        let settlings = vec![Settling { message_id: taken.message.message_id, lease: taken.lease, verdict }];
        let settle = || async { replica.mail.settle(&agent(who), &id(who), settlings.clone()).await };
        let mut settled = insist(settle).await?;
        assert_eq!(settled.len(), 1);
        settled.remove(0)
    }

    async fn ack(&self, replica: &Replica, who: &str, taken: &Delivered) {
        match self.settle(replica, who, taken, Verdict::Ack).await {
            Err(error) if self.is_faulty && error.code == ErrorCode::Conflict => {
                let (message, done) = (taken.message.message_id, DeliveryState::Acknowledged);
                self.comes_to_be(replica, message, "acknowledged", |tracked| tracked.deliveries[0].state == done).await;
            }
            settled => settled.unwrap(),
        }
    }

    async fn ack_all(&self, replica: &Replica, who: &str, taken: &[Delivered]) {
        for one in taken {
            self.ack(replica, who, one).await;
        }
    }

    /// What an operator sees of a message, once it is so.
    async fn comes_to_be(
        &self,
        replica: &Replica,
        message: MessageId,
        what: &str,
        is: impl Fn(&Tracked) -> bool,
    ) -> Tracked {
        let look = || async { Ok(Some(replica.mail.message(&admin(), message).await?).filter(|seen| is(seen))) };
        eventually(&format!("{message} is {what}"), look).await
    }

    /// What waits for an agent, once it is so many.
    async fn has_waiting(&self, replica: &Replica, who: &str, wanted: Unread) {
        let look = || async {
            let unread = replica.mail.unread(&agent(who), vec![id(who)]).await?;
            assert_eq!(unread.len(), 1);
            assert!(self.is_faulty || unread[0] == wanted, "{who} has {unread:?}, not {wanted:?}");
            Ok((unread[0] == wanted).then_some(()))
        };
        eventually(&format!("{who} has {wanted:?}"), look).await;
    }

    /// Lets time pass, and both replicas go a round or two.
    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    }
}

/// Stamps the whole suite. `$stage` names an async function that gives `Option<Stage>`, `None` when the run goes
/// without its engines.
#[macro_export]
macro_rules! mail_contract {
    ($way:ident, $stage:path) => {
        mod $way {
            $crate::mail_contract! {
                @stamp $stage, sending,
                what_was_said_arrives_as_it_was_and_is_acknowledged_once
                the_same_key_is_the_same_message_and_never_another
                a_list_is_accepted_whole_or_not_at_all
                whoever_is_meant_gets_it_and_the_sender_does_not
                a_full_mailbox_is_an_error_and_has_room_again
                nobody_touches_what_is_not_theirs
            }
            $crate::mail_contract! {
                @stamp $stage, taking,
                a_wait_ends_with_the_mail_it_waits_for_and_before_its_calls_deadline
                two_takers_never_hold_the_same_mail
                what_one_sent_stays_in_order_and_critical_goes_first
                what_was_not_settled_in_time_comes_again_and_its_old_lease_is_stale
                what_a_hand_gives_back_counts_no_attempt
            }
            $crate::mail_contract! {
                @stamp $stage, dead_letters,
                a_message_dies_after_its_attempts_and_says_why_and_comes_back_when_redriven
                what_expires_dies_untaken
                dead_letters_are_for_their_mailbox_and_those_who_may_see_all
            }
            $crate::mail_contract! {
                @stamp $stage, requests,
                an_answer_reaches_who_waits_for_it_and_is_given_once
                progress_moves_whoever_watches_on_and_only_rises
                who_does_not_wait_gets_the_answer_as_mail
                a_cancelled_request_is_taken_back_or_its_taker_is_told
                a_request_that_nobody_answers_ends_and_too_many_open_the_breaker
                a_wait_that_would_close_a_circle_is_refused
                only_its_two_sides_know_of_a_request
            }
            $crate::mail_contract! {
                @stamp $stage, topics,
                a_schema_is_kept_in_versions_and_checked_and_does_not_break_who_published_before
                events_reach_subscribers_as_mail_by_their_filters
                what_is_not_well_formed_is_refused
            }
        }
    };
    (@stamp $stage:path, $chapter:ident, $($test:ident)*) => {
        mod $chapter {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let Some(stage) = $stage().await else { return };
                $crate::contract::mail::$chapter::$test(&stage).await;
            })*
        }
    };
}

fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn admin() -> Call {
    Call::new(Principal::new(TenantId::default(), PrincipalKind::Person, "operator", [roles::ADMIN]))
}

fn agent(name: &str) -> Call {
    agent_of("default", name)
}

fn agent_of(tenant: &str, name: &str) -> Call {
    Call::new(Principal::new(TenantId::new(tenant).unwrap(), PrincipalKind::Agent, name, [roles::AGENT]))
}

/// Never the same twice in a process.
fn next_key() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("key-{}", LAST.fetch_add(1, Ordering::Relaxed))
}

fn message(to: &str, body: impl Into<String>) -> NewMessage {
    let to: Recipient = to.parse().unwrap();
    NewMessage { idempotency_key: Some(next_key()), ..NewMessage::new(to, Body::from_text(body).unwrap()) }
}

fn letter(to: &str) -> NewMessage {
    message(to, json!({ "hello": to }).to_string())
}

fn taking(hand: &str, limit: usize) -> TakeMail {
    TakeMail { limit, wait: Duration::ZERO, taker: hand.to_owned(), lease: LEASE, told: false }
}

fn bodies(taken: &[Delivered]) -> Vec<&str> {
    taken.iter().map(|one| one.message.body.as_text()).collect()
}

fn ids(taken: &[Delivered]) -> Vec<MessageId> {
    taken.iter().map(|one| one.message.message_id).collect()
}

fn nothing() -> Unread {
    Unread::default()
}

#[track_caller]
fn refused<T>(answer: Result<T>, code: ErrorCode) -> Error {
    match answer {
        Ok(_) => panic!("it was allowed; {code} was expected"),
        Err(error) => {
            assert_eq!(error.code, code, "{error}");
            error
        }
    }
}

/// The message that these words become.
fn as_accepted(new: &NewMessage, receipt: &Receipt, from: &str, seen: &Message) -> Message {
    Message {
        message_id: receipt.message_id,
        from: id(from),
        to: new.to.clone(),
        kind: new.kind.clone(),
        priority: new.priority,
        body: new.body.clone(),
        sent_at: seen.sent_at,
        expires_at: new.expires_in.map(|time| seen.sent_at + time),
        reply_to: new.reply_to,
        correlation_id: new.correlation_id.clone(),
        conversation_id: new.conversation_id.clone(),
        requires_response: new.requires_response,
    }
}
