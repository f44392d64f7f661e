//! Topics that a socket follows. Events are fetched only while there is room to write them, so that a slow reader
//! holds up itself and nothing else; where a subscription ends, its client is told why and after which event to go on.

use std::task::{Context, Poll};

use futures::{StreamExt as _, stream::BoxStream};
use guildhall_domain::{
    Error, Result,
    event::TopicEvent,
    ports::bus::{Event, ReplayFrom, Topic},
};
use guildhall_event_rules::Filter;
use guildhall_guard::{Operation, Target};
use serde_json::{Value, json};

use super::{Door, frame::Subscribe, outbox::Outbox, sockets::Socket, tell};
use crate::events;

/// Topics that one socket follows.
const BOUND: usize = 64;
/// Events looked at before others of the process get their turn: a filter may pass over very many.
const AT_A_TIME: usize = 64;

struct Subscription {
    topic: Topic,
    filter: Option<Filter>,
    events: BoxStream<'static, Result<Event>>,
    /// The last event that was looked at.
    last: Option<u64>,
}

#[derive(Default)]
pub(super) struct Subscriptions(Vec<Subscription>);

impl Subscriptions {
    fn check_room(&self, topic: &Topic) -> Result<()> {
        if self.0.len() >= BOUND && !self.0.iter().any(|own| own.topic == *topic) {
            return Err(Error::invalid(format!("a socket follows at most {BOUND} topics; unsubscribe from some")));
        }
        Ok(())
    }

    /// Following a topic again takes the place of what was before.
    fn put(&mut self, subscription: Subscription) {
        self.remove(&subscription.topic);
        self.0.push(subscription);
    }

    /// False when it was not followed.
    pub(super) fn remove(&mut self, topic: &Topic) -> bool {
        let before = self.0.len();
        self.0.retain(|own| own.topic != *topic);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        self.0.len() < before
    }

    /// Pending when nothing is to be written, or there is no room for it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<()> {
        let mut looked_at = 0;
        let mut ended = None;
        'all: for subscription in &mut self.0 {
            while outbox.has_room() {
                if looked_at == AT_A_TIME {
                    cx.waker().wake_by_ref();
                    break 'all;
                }
                match subscription.events.poll_next_unpin(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(event))) => {
                        looked_at += 1;
                        subscription.pass_on(event, outbox);
                    }
                    Poll::Ready(Some(Err(error))) => {
                        ended = Some((subscription.topic.clone(), subscription.last, error));
                        break 'all;
                    }
                    Poll::Ready(None) => {
                        let gone = Error::unavailable("the bus has ended the subscription; subscribe again");
                        ended = Some((subscription.topic.clone(), subscription.last, gone));
                        break 'all;
                    }
                }
            }
        }
        // Another goes first the next time.
        if self.0.len() > 1 {
            self.0.rotate_left(1);
        }
        match ended {
            Some((topic, last, reason)) => {
                self.remove(&topic);
                outbox.push(tell::topic_ended(&topic, &reason, last));
                Poll::Ready(())
            }
            None if looked_at > 0 => Poll::Ready(()),
            None => Poll::Pending,
        }
    }
}

impl Subscription {
    fn pass_on(&mut self, event: Event, outbox: &Outbox) {
        self.last = Some(event.sequence);
        match TopicEvent::of(self.topic.clone(), event) {
            Ok(event) if self.filter.as_ref().is_none_or(|filter| filter.matches(&event)) => {
                outbox.push(tell::event(&event));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, topic = %self.topic, "an event cannot be passed on"),
        }
    }
}

impl Door {
    pub(super) async fn subscribe(&self, socket: &Socket, asked: Subscribe) -> Result<Value> {
        let Subscribe { topic, filter, after, from, .. } = asked;
        let principal = &socket.caller.principal;
        let tenant = Target::Tenant(&principal.tenant);
        self.hall.policy.authorize_on_topic(principal, Operation::ReadTopic, tenant, &topic)?;
        let filter = events::filter(filter).await?;
        let from = match (after, from) {
            (None, None) => ReplayFrom::Now,
            (Some(sequence), None) => ReplayFrom::After(sequence),
            (None, Some(time)) => ReplayFrom::Time(time),
            (Some(_), Some(_)) => {
                return Err(Error::invalid("give after (a sequence) or from (a time), not both"));
            }
        };
        socket.subscriptions.lock().check_room(&topic)?;
        let events = self.hall.bus.replay(&socket.tenant, &topic, from).await?;
        let mut subscriptions = socket.subscriptions.lock();
        subscriptions.check_room(&topic)?;
        subscriptions.put(Subscription { topic: topic.clone(), filter, events, last: after });
        Ok(json!({ "topic": topic }))
    }
}
