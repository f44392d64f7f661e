//! Those who follow a log at its live edge, within this process: one reads, all are told.
//!
//! Whoever follows has a queue of its own with a bound. One that does not keep up is cut off there and reads again what
//! is kept; it never holds up the others.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use guildhall_domain::{Result, ports::bus::Event};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Events that wait for one follower. Their bytes are shared by all who have the same ones waiting.
const QUEUE_MAX: usize = 1_024;
const QUEUE_MAX_BYTES: usize = 4 * 1024 * 1024;
/// What an event takes beside its payload and headers.
const EVENT_OWN_BYTES: usize = 512;

/// Cheap to clone; every clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Live(Arc<Mutex<Followers>>);

#[derive(Default)]
struct Followers {
    by_log: HashMap<String, Vec<Arc<Queue>>>,
    has_ended: bool,
}

/// One who follows a topic. Dropped, it does no longer.
pub(crate) struct Follower {
    live: Live,
    log: String,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    told: Notify,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    bytes: usize,
    /// What comes when the queue is empty: nothing more.
    end: Option<End>,
}

#[derive(Clone)]
enum End {
    FellBehind,
    Broken(guildhall_domain::Error),
}

impl Live {
    /// Whatever is told from here on is heard. `None` when nobody tells any more.
    pub(crate) fn follow(&self, log: &str) -> Option<Follower> {
        let mut followers = self.0.lock();
        if followers.has_ended {
            return None;
        }
        let queue = Arc::new(Queue::default());
        followers.by_log.entry(log.to_owned()).or_default().push(queue.clone());
        Some(Follower { live: self.clone(), log: log.to_owned(), queue })
    }

    pub(crate) fn is_followed(&self, log: &str) -> bool {
        self.0.lock().by_log.contains_key(log)
    }

    pub(crate) fn tell(&self, log: &str, event: &Event) {
        let mut followers = self.0.lock();
        if let Some(queues) = followers.by_log.get_mut(log) {
            queues.retain(|queue| queue.take_in(event));
            if queues.is_empty() {
                followers.by_log.remove(log);
            }
        }
    }

    /// Something came that cannot be told: whoever follows reads again what is kept.
    pub(crate) fn cut_off_all(&self) {
        for queue in self.0.lock().by_log.drain().flat_map(|(_, queues)| queues) {
            queue.end(End::FellBehind);
        }
    }

    /// Ends it when nobody follows anything. True when it has ended.
    pub(crate) fn end_if_idle(&self) -> bool {
        let mut followers = self.0.lock();
        followers.has_ended |= followers.by_log.is_empty();
        followers.has_ended
    }

    /// Nothing will be told any more, for this reason.
    pub(crate) fn break_off(&self, error: &guildhall_domain::Error) {
        let mut followers = self.0.lock();
        followers.has_ended = true;
        for queue in followers.by_log.drain().flat_map(|(_, queues)| queues) {
            queue.end(End::Broken(error.clone()));
        }
    }
}

impl Queue {
    /// False when it is full, and ends there.
    fn take_in(&self, event: &Event) -> bool {
        let mut waiting = self.waiting.lock();
        let bytes = waiting.bytes + size(event);
        let fits = waiting.events.len() < QUEUE_MAX && (bytes <= QUEUE_MAX_BYTES || waiting.events.is_empty());
        if fits {
            waiting.events.push_back(event.clone());
            waiting.bytes = bytes;
        } else {
            waiting.end = Some(End::FellBehind);
        }
        drop(waiting);
        self.told.notify_one();
        fits
    }

    fn end(&self, end: End) {
        self.waiting.lock().end = Some(end);
        self.told.notify_one();
    }
}

fn size(event: &Event) -> usize {
    let headers: usize = event.envelope.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    event.envelope.payload.len() + headers + EVENT_OWN_BYTES
}

impl Follower {
    /// The next event, in order. `None` when it has fallen behind.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            {
                let mut waiting = self.queue.waiting.lock();
                if let Some(event) = waiting.events.pop_front() {
                    waiting.bytes -= size(&event);
                    return Ok(Some(event));
                }
                match waiting.end.clone() {
                    Some(End::FellBehind) => return Ok(None),
                    Some(End::Broken(error)) => return Err(error),
                    None => {}
                }
            }
            self.queue.told.notified().await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followers = self.live.0.lock();
        if let Some(queues) = followers.by_log.get_mut(&self.log) {
            queues.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
            if queues.is_empty() {
                followers.by_log.remove(&self.log);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use guildhall_domain::{Error, Principal, TenantId, Timestamp, TraceContext, ports::bus::Envelope};

    use super::*;

    fn event(sequence: u64, bytes: usize) -> Event {
        let envelope = Envelope {
            principal: Principal::hall(TenantId::default(), "test"),
            trace: TraceContext::default(),
            at: Timestamp::default(),
            headers: Vec::new(),
            payload: vec![0; bytes].into(),
        };
        Event { sequence, published_at: Timestamp::default(), envelope }
    }

    fn heard(follower: &mut Follower) -> Option<Result<Option<u64>>> {
        follower.next().now_or_never().map(|heard| heard.map(|event| event.map(|event| event.sequence)))
    }

    #[test]
    fn one_who_falls_behind_is_cut_off_and_the_others_hear_on() {
        for (bytes, kept) in [(0, QUEUE_MAX as u64), (QUEUE_MAX_BYTES / 4, 3)] {
            let live = Live::default();
            let (mut slow, mut quick) = (live.follow("a").unwrap(), live.follow("a").unwrap());
            let _elsewhere = live.follow("b").unwrap();
            for i in 1..=2_000 {
                live.tell("a", &event(i, bytes));
                assert_eq!(heard(&mut quick), Some(Ok(Some(i))));
            }
            for i in 1..=kept {
                assert_eq!(heard(&mut slow), Some(Ok(Some(i))));
            }
            assert_eq!(heard(&mut slow), Some(Ok(None)), "more than {kept} of {bytes} bytes were kept for a slow one");
        }
    }

    #[test]
    fn it_ends_only_when_nobody_follows_and_then_for_good() {
        let live = Live::default();
        let (one, two) = (live.follow("a").unwrap(), live.follow("a").unwrap());
        drop(one);
        assert!(!live.end_if_idle() && live.is_followed("a"));
        drop(two);
        assert!(!live.is_followed("a") && live.end_if_idle());
        assert!(live.follow("a").is_none());
    }

    #[test]
    fn a_break_is_heard_after_all_that_came_before_it() {
        let live = Live::default();
        let mut follower = live.follow("a").unwrap();
        live.tell("a", &event(1, 0));
        live.break_off(&Error::unavailable("away"));
        assert_eq!(heard(&mut follower), Some(Ok(Some(1))));
        assert_eq!(heard(&mut follower), Some(Err(Error::unavailable("away"))));
        assert!(live.follow("a").is_none());
    }
}
