//! What every database under mail must do. An engine's crate stamps it with [`crate::mail_store_contract`], over the
//! [`Stage`] of the store.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

mod hands;
mod requests;
mod send;
mod settle;
mod take;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use guildhall_domain::{
    AgentId, Result,
    mail::{Body, Mailbox, Message, MessageId, Priority, Recipient, kind},
    ports::mail_store::{Accepted, Addressees, MailboxBound, Outgoing, ReceiptKey, RequestTerms},
};
use serde_json::json;

pub use self::{requests::*, send::*, settle::*, take::*};
use super::{
    insist,
    store::{NOW, Replica, Stage, act, hall, id},
};

/// Stamps the whole suite for one engine, bare and behind faults. `$stage` names an async function that gives
/// `Option<Stage>`, `None` when the run goes without that engine.
#[macro_export]
macro_rules! mail_store_contract {
    ($engine:ident, $stage:path) => {
        $crate::mail_store_contract! {
            @stamp $engine, $stage,
            // send
            a_message_is_kept_letter_for_letter
            // take
            what_one_sends_is_handed_out_in_order_and_held_by_one_taker
            critical_goes_first_and_the_rest_eight_to_four_to_two
            low_has_its_share_also_of_those_who_take_one_at_a_time
            takers_at_once_never_hold_the_same
            members_of_a_pool_work_side_by_side
            the_own_mailbox_is_filled_from_first_then_the_pools
            an_answer_holds_bodies_of_three_mebibytes_and_the_next_one_the_rest
            nothing_passes_a_wide_message_that_is_underway
            a_mailbox_that_is_not_there_is_empty_and_one_of_another_tenant_another
            // settle
            an_ack_settles_and_the_same_again_is_no_conflict
            a_nack_rests_and_what_its_sender_sent_later_does_not_overtake_it
            after_five_attempts_a_message_is_dead_with_its_reason_and_holds_up_nothing
            a_stale_lease_is_refused_and_does_nothing
            a_lease_past_its_time_settles_while_nobody_else_has_taken_the_message
            what_is_returned_or_given_back_has_lost_no_attempt_and_no_place
            a_renewed_lease_holds_on
            a_nack_in_a_pool_gives_back_nothing_else
            each_settling_of_a_call_is_judged_by_itself
            // requests
            a_request_reads_back_as_it_was_asked
            an_answer_ends_a_request_and_the_same_again_is_no_conflict
            an_answer_to_who_does_not_wait_comes_as_mail_once
            an_answer_to_who_has_left_is_kept_all_the_same
            a_failed_answer_says_why
            progress_only_rises_and_ends_with_the_request
            a_request_that_nobody_took_is_withdrawn_when_it_is_cancelled
            a_request_that_someone_holds_is_cancelled_with_a_notice
            what_has_ended_is_not_cancelled_any_more
            an_answer_after_the_time_is_over_is_refused
            each_request_times_out_once_whoever_looks
            of_answer_cancel_and_clock_one_ends_it
            requests_of_one_tenant_are_nothing_to_another
            five_failures_in_a_row_open_the_breaker_and_one_trial_goes_through
            time_outs_open_the_breaker_as_failures_do
        }
    };
    (@stamp $engine:ident, $stage:path, $($test:ident)*) => {
        mod $engine {
            mod bare {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::mail_store::$test(&stage).await;
                })*
            }

            mod behind_faults {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::mail_store::$test(&stage.behind_faults(1)).await;
                })*
            }
        }
    };
}

const BOUND: MailboxBound = MailboxBound { messages: 10_000 };

fn mailbox(agent: &str) -> Mailbox {
    Mailbox::Agent(id(agent))
}

/// Ids in the order of this process.
fn next_id() -> MessageId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    MessageId::from_bytes(u128::from(LAST.fetch_add(1, Ordering::Relaxed) + 1).to_be_bytes())
}

/// Both halves of a receipt's key, from words.
fn key(key: &str, said: &str) -> ReceiptKey {
    let word = |word: &str| {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(word.bytes()).for_each(|(byte, letter)| *byte = letter);
        bytes
    };
    ReceiptKey { key: word(key), fingerprint: word(said) }
}

/// A message that an agent sends to another, with a key of its own so that its sender may repeat it.
pub(super) fn letter(from: &str, to: &str) -> Outgoing {
    let message_id = next_id();
    let message = Message {
        message_id,
        from: id(from),
        to: Recipient::Agent(id(to)),
        kind: kind::MESSAGE.to_owned(),
        priority: Priority::Normal,
        body: Body::from_value(&json!({ "from": from })).unwrap(),
        sent_at: NOW,
        expires_at: None,
        reply_to: None,
        correlation_id: None,
        conversation_id: None,
        requires_response: false,
    };
    let receipt = ReceiptKey { key: message_id.bytes(), fingerprint: message_id.bytes() };
    Outgoing {
        to: Addressees::One(mailbox(to)),
        receipt: Some(receipt),
        request: None,
        audit: act("message.send", &message_id.to_string()),
        message,
    }
}

/// As [`letter`], to many.
fn circular(from: &str, to: &[AgentId]) -> Outgoing {
    let letter = letter(from, "unused");
    let message = Message { to: Recipient::Everyone, ..letter.message };
    Outgoing { to: Addressees::Many(to.to_vec()), message, ..letter }
}

/// As [`letter`], a request that is to be answered within a minute.
fn request(from: &str, to: &str, waits: bool) -> Outgoing {
    let letter = letter(from, to);
    let message = Message { kind: kind::REQUEST.to_owned(), requires_response: true, ..letter.message };
    let terms = RequestTerms { deadline: NOW + Duration::from_secs(60), waits };
    Outgoing { request: Some(terms), message, ..letter }
}

async fn try_send(replica: &Replica, outgoing: &[Outgoing]) -> Result<Accepted> {
    insist(async || replica.mail.send(&hall(), outgoing.to_vec(), BOUND).await).await
}

async fn send(replica: &Replica, outgoing: &Outgoing) -> MessageId {
    try_send(replica, std::slice::from_ref(outgoing)).await.unwrap().receipts[0].message_id
}
