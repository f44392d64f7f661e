//! Reading a topic, the same way on both engines: what is kept, page by page, then what comes, from the one who follows
//! the log's live edge for all in this process.
//!
//! From one to the other nothing is missed: the reader begins to follow first, asks then for the topic's newest event,
//! and reads pages up to that. Whatever came after the answer is told to it. Nothing is repeated either, as it passes
//! over what is told again. When it cannot keep up with what is told, it goes back to reading pages, at its own pace.
//! Who wants only what is kept reads pages up to what was the newest event at first, and follows nothing.

use std::{collections::VecDeque, future::ready, time::Duration};

use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use guildhall_domain::{
    Error, Result, Timestamp,
    ports::bus::{Event, ReplayFrom},
};

use crate::live::Follower;

/// Events of a page, and their bytes: what whoever replays holds in memory.
pub(crate) const PAGE: usize = 256;
pub(crate) const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Between two looks for an event that is known to be there, and that the server that was asked does not have yet.
pub(crate) const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// One topic, as an engine keeps it.
pub(crate) trait Kept: Send + Sync + 'static {
    /// The sequence of the topic's newest event, 0 when there is none. Never older than what was answered to anyone.
    fn newest(&self) -> impl Future<Output = Result<u64>> + Send;
    /// The sequence before the topic's first event of that time or later; that of its newest when there is none.
    fn before(&self, time: Timestamp) -> impl Future<Output = Result<u64>> + Send;
    /// The next events. Those that cannot be read are left out.
    fn page(&self, after: u64) -> impl Future<Output = Result<Page>> + Send;
    /// Whatever comes from here on is heard.
    fn follow(&self) -> impl Future<Output = Result<Follower>> + Send;
}

#[derive(Default)]
pub(crate) struct Page {
    pub(crate) events: VecDeque<Event>,
    /// The sequence up to which was looked; `None` when there was nothing.
    pub(crate) until: Option<u64>,
}

/// Reads what is kept, page by page.
struct Pages<K> {
    kept: K,
    /// Everything up to here was given, or was not asked for.
    seen: u64,
    /// Everything up to here is there to be read.
    newest: u64,
    page: Page,
}

/// Reads what is kept, and then what comes.
struct Reader<K> {
    pages: Pages<K>,
    follower: Option<Follower>,
}

/// What is kept, then what comes.
pub(crate) async fn replay<K: Kept>(kept: K, from: ReplayFrom) -> Result<BoxStream<'static, Result<Event>>> {
    let reader = Reader::begin(kept, from).await?;
    let events = stream::try_unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Ok::<_, Error>(Some((event, reader)))
    });
    Ok(events.boxed())
}

/// What is kept now, and no more: it ends with the event that is the newest now, or before it when that is removed.
pub(crate) async fn past<K: Kept>(kept: K, from: ReplayFrom) -> Result<BoxStream<'static, Result<Event>>> {
    let seen = match from {
        ReplayFrom::Now => return Ok(stream::empty().boxed()),
        ReplayFrom::After(seen) => seen,
        ReplayFrom::Time(time) => kept.before(time).await?,
    };
    let pages = Pages::begin(kept, seen).await?;
    let last = pages.newest;
    let events = stream::try_unfold(pages, |mut pages| async move {
        let event = pages.next().await?;
        Ok::<_, Error>(event.map(|event| (event, pages)))
    });
    Ok(events.try_take_while(move |event| ready(Ok(event.sequence <= last))).boxed())
}

impl<K: Kept> Pages<K> {
    async fn begin(kept: K, seen: u64) -> Result<Self> {
        let newest = kept.newest().await?;
        Ok(Self { kept, seen, newest, page: Page::default() })
    }

    /// The next event; `None` when all that is known to be there was given.
    async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.page.events.pop_front() {
                self.seen = event.sequence;
                return Ok(Some(event));
            }
            self.seen = self.seen.max(self.page.until.take().unwrap_or(0));
            if self.seen >= self.newest {
                return Ok(None);
            }
            self.page = self.kept.page(self.seen).await?;
            if self.page.until.is_none() {
                // It was removed just now, or the server that was asked is a little behind.
                tokio::time::sleep(LOOK_AGAIN_AFTER).await;
                self.newest = self.kept.newest().await?;
            }
        }
    }
}

impl<K: Kept> Reader<K> {
    async fn begin(kept: K, from: ReplayFrom) -> Result<Self> {
        let seen = match from {
            ReplayFrom::Now => {
                // In this order: what comes after the answer is heard.
                let follower = Some(kept.follow().await?);
                let mut pages = Pages::begin(kept, 0).await?;
                pages.seen = pages.newest;
                return Ok(Self { pages, follower });
            }
            ReplayFrom::After(seen) => seen,
            ReplayFrom::Time(time) => kept.before(time).await?,
        };
        let mut reader = Self { pages: Pages::begin(kept, seen).await?, follower: None };
        if reader.pages.seen >= reader.pages.newest {
            reader.follow().await?;
        }
        Ok(reader)
    }

    /// In this order: what comes after the answer is heard.
    async fn follow(&mut self) -> Result<()> {
        self.follower = Some(self.pages.kept.follow().await?);
        self.pages.newest = self.pages.kept.newest().await?;
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.pages.next().await? {
                return Ok(event);
            }
            let Some(follower) = &mut self.follower else {
                self.follow().await?;
                continue;
            };
            match follower.next().await? {
                Some(event) if event.sequence > self.pages.seen => {
                    self.pages.seen = event.sequence;
                    return Ok(event);
                }
                Some(_) => {}
                None => {
                    self.follower = None;
                    self.pages.newest = self.pages.kept.newest().await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use guildhall_domain::{Principal, TenantId, TraceContext, ports::bus::Envelope};
    use parking_lot::Mutex;

    use super::*;
    use crate::live::Live;

    /// A log on which something is published around every question that a reader asks.
    #[derive(Clone, Default)]
    struct Busy {
        events: Arc<Mutex<Vec<Event>>>,
        live: Live,
    }

    impl Busy {
        fn publish(&self) {
            let mut events = self.events.lock();
            let envelope = Envelope {
                principal: Principal::hall(TenantId::default(), "test"),
                trace: TraceContext::default(),
                at: Timestamp::default(),
                headers: Vec::new(),
                payload: "1".into(),
            };
            let event = Event { sequence: events.len() as u64 + 1, published_at: Timestamp::default(), envelope };
            events.push(event.clone());
            drop(events);
            self.live.tell("log", &event);
        }

        fn between<T>(&self, ask: impl FnOnce() -> T) -> T {
            self.publish();
            let answer = ask();
            self.publish();
            answer
        }
    }

    impl Kept for Busy {
        async fn newest(&self) -> Result<u64> {
            Ok(self.between(|| self.events.lock().len() as u64))
        }

        async fn before(&self, _: Timestamp) -> Result<u64> {
            Ok(0)
        }

        async fn page(&self, after: u64) -> Result<Page> {
            let events: VecDeque<Event> = self.between(|| {
                self.events.lock().iter().filter(|event| event.sequence > after).take(3).cloned().collect()
            });
            Ok(Page { until: events.back().map(|event| event.sequence), events })
        }

        async fn follow(&self) -> Result<Follower> {
            Ok(self.between(|| self.live.follow("log")).expect("it has not ended"))
        }
    }

    /// Its only event is removed between the question for the newest and the reading.
    struct Removed(Mutex<Vec<u64>>);

    impl Kept for Removed {
        async fn newest(&self) -> Result<u64> {
            Ok(self.0.lock().pop().unwrap_or(0))
        }

        async fn before(&self, _: Timestamp) -> Result<u64> {
            Ok(0)
        }

        async fn page(&self, _: u64) -> Result<Page> {
            Ok(Page::default())
        }

        async fn follow(&self) -> Result<Follower> {
            unreachable!("what is past is not followed")
        }
    }

    #[tokio::test]
    async fn what_is_past_ends_also_when_its_last_event_is_removed_while_it_is_read() {
        let mut events = past(Removed(Mutex::new(vec![7])), ReplayFrom::After(0)).await.unwrap();
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn what_is_past_ends_with_what_was_the_newest_when_it_was_asked_for() {
        let log = Busy::default();
        (0..5).for_each(|_| log.publish());
        // One more came with the question for the newest.
        let events: Vec<_> = past(log, ReplayFrom::After(1)).await.unwrap().try_collect().await.unwrap();
        assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    }

    #[tokio::test]
    async fn nothing_is_missed_or_repeated_whenever_it_is_published() {
        for from in
            [ReplayFrom::After(0), ReplayFrom::After(2), ReplayFrom::Time(Timestamp::default()), ReplayFrom::Now]
        {
            let log = Busy::default();
            let mut events = replay(log.clone(), from).await.unwrap();
            let mut last = match from {
                ReplayFrom::After(seen) => seen,
                ReplayFrom::Time(_) => 0,
                // Whatever was there when the reader was ready is not asked for; after that all of it is.
                ReplayFrom::Now => events.next().await.unwrap().unwrap().sequence,
            };
            for round in 0..3_000 {
                // In the middle it stands still until it is cut off.
                if round == 500 {
                    (0..2_000).for_each(|_| log.publish());
                }
                log.publish();
                let event = events.next().await.unwrap().unwrap();
                assert_eq!(event.sequence, last + 1, "in round {round} from {from:?}");
                last = event.sequence;
            }
        }
    }
}
