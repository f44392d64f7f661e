//! What every database under mail must do. An engine's crate stamps it with [`crate::mail_store_contract`], over the
//! [`Stage`] of the store.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

mod dead;
mod forget;
mod hands;
mod history;
mod lapse;
mod promises;
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

pub use self::{dead::*, forget::*, history::*, lapse::*, promises::*, requests::*, send::*, settle::*, take::*};
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
            a_repeat_under_its_key_gives_the_first_receipt_and_adds_nothing
            what_was_given_under_a_key_is_told_for_a_day_to_who_says_the_same
            a_key_that_was_used_for_another_message_is_refused_and_nothing_is_added
            a_key_is_good_for_a_new_message_after_a_day
            a_list_is_accepted_whole_or_not_at_all
            of_calls_under_one_key_at_once_one_has_an_effect
            a_full_mailbox_takes_no_more_and_says_how_many_wait
            of_a_few_recipients_each_has_it_at_once_and_a_full_one_a_dead_letter
            a_wide_message_reaches_each_mailbox_once_however_many_bring_it
            nothing_is_sent_to_an_agent_that_left_and_its_successor_begins_with_nothing
            a_mailbox_is_one_tenants
            senders_at_once_lose_nothing_and_every_mailbox_counts_right
            large_and_small_messages_of_many_senders_all_arrive
            a_wait_that_would_close_a_circle_is_refused
            of_two_that_begin_to_wait_for_each_other_at_once_one_is_refused
            // take
            what_one_sends_is_handed_out_in_order_and_held_by_one_taker
            critical_goes_first_and_the_rest_eight_to_four_to_two
            low_has_its_share_also_of_those_who_take_one_at_a_time
            takers_at_once_never_hold_the_same
            members_of_a_pool_work_side_by_side
            the_own_mailbox_is_filled_from_first_then_the_pools
            an_answer_holds_bodies_of_three_mebibytes_and_the_next_one_the_rest
            what_waits_behind_many_that_are_held_up_is_found
            nothing_passes_a_wide_message_that_is_underway
            a_mailbox_that_is_not_there_is_empty_and_one_of_another_tenant_another
            // settle
            an_ack_settles_and_the_same_again_is_no_conflict
            a_nack_rests_and_what_its_sender_sent_later_does_not_overtake_it
            after_five_attempts_a_message_is_dead_with_its_reason_and_holds_up_nothing
            what_is_refused_is_dead_at_once_with_its_takers_reason
            a_stale_lease_is_refused_and_does_nothing
            a_lease_past_its_time_settles_while_nobody_else_has_taken_the_message
            what_is_returned_or_given_back_has_lost_no_attempt_and_no_place
            a_renewed_lease_holds_on
            a_nack_in_a_pool_gives_back_nothing_else
            each_settling_of_a_call_is_judged_by_itself
            // lapse
            a_lease_that_runs_out_counts_as_an_attempt_and_keeps_its_place
            with_a_lease_that_runs_out_goes_back_what_was_taken_after_it
            mail_that_expires_dies_with_its_reason_and_not_in_its_takers_hands
            taking_finds_what_is_due_without_waiting_for_the_clock
            clocks_at_once_do_nothing_twice
            // dead
            dead_letters_are_listed_newest_first_page_by_page_and_narrowed
            letters_of_one_message_and_moment_are_on_one_page
            a_redriven_letter_waits_as_if_it_had_been_sent_anew
            the_mailbox_of_an_agent_that_left_keeps_its_dead
            what_is_purged_is_gone_for_good_and_stays_dead_in_the_history
            a_selection_with_nothing_in_it_selects_nothing
            all_letters_are_redriven_however_many
            // history
            a_history_shows_all_newest_last_whatever_became_of_it
            a_message_is_tracked_to_each_of_its_mailboxes
            what_waits_is_counted_and_seen_without_being_taken
            what_an_agent_that_left_was_sent_is_not_for_the_next_of_its_id
            // forget
            a_senders_key_is_remembered_for_a_day
            settled_mail_goes_with_its_age_and_younger_mail_stays
            mail_that_nobody_took_dies_with_its_age_and_goes_when_its_letter_was_kept_as_long
            above_its_size_the_oldest_settled_mail_goes_and_none_that_waits
            a_wide_message_goes_from_all_its_mailboxes_once_none_waits
            a_request_that_has_ended_is_forgotten_with_its_age
            // promises
            whatever_happens_order_holds_and_nothing_is_lost_or_handed_out_twice
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
