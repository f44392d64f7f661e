//! What every bus must do. An engine's crate stamps it with [`crate::bus_contract`].

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

mod hints;
mod log;
mod replays;

use std::{any::Any, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use guildhall_domain::{
    Principal, PrincipalKind, Result, TenantId, Timestamp, TraceContext,
    ports::{
        Bus,
        bus::{Durability, Envelope, Event, Hint, Published, ReplayFrom, Subject, Topic},
    },
};

pub use self::{hints::*, log::*, replays::*};
use super::{Time, insist};
use crate::fault::{FaultPlan, Faulty};

/// For what must come and nothing has been seen to hold up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A bus under test.
pub struct Stage {
    pub bus: Arc<dyn Bus>,
    pub time: Time,
    /// How safe this engine says that an event is.
    pub durability: Durability,
    /// What must live as long as the test, such as the engine's process.
    pub engine: Box<dyn Any + Send + Sync>,
}

impl Stage {
    /// The same bus, with faults between it and whoever calls.
    pub fn behind_faults(self, seed: u64) -> Self {
        Self { bus: Arc::new(Faulty::new(self.bus, FaultPlan::seeded(seed))), ..self }
    }
}

/// Stamps the whole suite for one engine, bare and behind faults. `$stage` names an async function that gives
/// `Option<Stage>`, `None` when the run goes without that engine.
#[macro_export]
macro_rules! bus_contract {
    ($engine:ident, $stage:path) => {
        $crate::bus_contract! {
            @stamp $engine, $stage,
            a_hint_reaches_everyone_who_listens_with_all_it_carried
            a_hint_sent_as_soon_as_someone_listens_is_heard
            a_hint_is_heard_by_its_own_subject_only
            a_listener_who_falls_behind_misses_the_oldest_and_hears_the_newest
            what_a_node_is_told_arrives_in_order_and_at_that_node_alone
            a_node_that_falls_behind_misses_the_oldest_and_hears_the_newest
            events_are_replayed_in_order_with_all_they_carried
            a_replay_goes_on_after_the_last_one_seen
            a_replay_after_what_is_still_to_come_begins_behind_it
            a_replay_from_a_time_begins_with_the_first_of_that_time
            a_replay_from_now_gives_nothing_that_was_before
            a_replay_goes_on_with_what_comes_and_neither_misses_nor_repeats
            readers_who_come_and_go_while_events_come_neither_miss_nor_see_one_twice
            a_reader_who_stands_still_holds_up_nobody_and_misses_nothing
            many_who_follow_one_topic_all_see_all_of_it
            what_is_past_ends_with_what_was_there_when_it_was_asked_for
            what_is_past_has_nothing_that_came_after_it_was_asked_for
            what_is_past_of_a_topic_where_nothing_comes_is_given_at_once
            large_events_are_replayed_however_many_they_are
            a_reader_can_ask_how_the_log_stands
            a_key_published_again_adds_nothing_and_says_so
            a_key_is_its_publishers_and_its_topics_own
            nothing_crosses_a_tenant_or_a_topic
            an_answer_says_how_safe_the_event_is
            a_topic_that_an_engine_could_misread_is_refused
            what_is_too_large_is_refused_and_what_is_just_small_enough_is_not
            ping_says_that_the_engine_answers
        }
    };
    (@stamp $engine:ident, $stage:path, $($test:ident)*) => {
        mod $engine {
            mod bare {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::bus::$test(&stage).await;
                })*
            }

            mod behind_faults {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::bus::$test(&stage.behind_faults(2)).await;
                })*
            }
        }
    };
}

const SUBJECT: Subject = Subject("test.happened");
const OTHER: Subject = Subject("test.happened.elsewhere");

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// From the agent `who`, with something in every field.
fn envelope(who: &str, payload: impl Into<Bytes>) -> Envelope {
    let mut principal = Principal::new(TenantId::default(), PrincipalKind::Agent, who, ["agent", "builder"]);
    principal.toolsets = Some(Arc::new(["mail".to_owned()].into()));
    Envelope {
        principal,
        trace: TraceContext {
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
            tracestate: "vendor=value".into(),
        },
        at: Timestamp::from_millis(1_763_632_800_123),
        headers: vec![("Kind".into(), "ä\r\n\0".into()), ("Kind".into(), String::new())],
        payload: payload.into(),
    }
}

fn number(envelope: &Envelope) -> usize {
    std::str::from_utf8(&envelope.payload).unwrap().parse().unwrap()
}

async fn hint(bus: &Arc<dyn Bus>, subject: Subject, envelope: Envelope) {
    insist(|| bus.hint(subject, envelope.clone())).await.unwrap();
}

async fn listen(bus: &Arc<dyn Bus>, subject: Subject) -> BoxStream<'static, Hint> {
    insist(|| bus.hints(subject)).await.unwrap()
}

async fn heard(hints: &mut BoxStream<'static, Hint>) -> Hint {
    let heard = tokio::time::timeout(PATIENCE, hints.next()).await;
    heard.expect("a hint was not heard").expect("the hints ended")
}

async fn publish(bus: &Arc<dyn Bus>, topic: &Topic, key: &str, envelope: Envelope) -> Published {
    insist(|| bus.publish(&envelope.principal.tenant, topic, Some(key), envelope.clone())).await.unwrap()
}

/// Reads a topic as a right caller does: when a replay breaks off, it goes on after the last one seen.
struct Follower {
    bus: Arc<dyn Bus>,
    tenant: TenantId,
    topic: Topic,
    from: ReplayFrom,
    events: Option<BoxStream<'static, Result<Event>>>,
}

impl Follower {
    fn of(bus: &Arc<dyn Bus>, tenant: &TenantId, topic: &Topic, from: ReplayFrom) -> Self {
        Self { bus: bus.clone(), tenant: tenant.clone(), topic: topic.clone(), from, events: None }
    }

    async fn begin(&mut self) -> &mut BoxStream<'static, Result<Event>> {
        if self.events.is_none() {
            self.events = Some(insist(|| self.bus.replay(&self.tenant, &self.topic, self.from)).await.unwrap());
        }
        self.events.as_mut().unwrap()
    }

    async fn next(&mut self) -> Event {
        loop {
            let events = self.begin().await;
            let next = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event did not come");
            match next.expect("a replay ended without an error") {
                Ok(event) => {
                    self.from = ReplayFrom::After(event.sequence);
                    return event;
                }
                Err(error) => {
                    assert!(error.retryable, "{error}");
                    self.events = None;
                }
            }
        }
    }

    async fn numbers_up_to(&mut self, last: usize) -> Vec<usize> {
        let mut numbers = Vec::new();
        while numbers.last() != Some(&last) {
            numbers.push(number(&self.next().await.envelope));
        }
        numbers
    }
}
