//! One topic, followed from where it was brought to last.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use guildhall_domain::{
    AgentId, Error, ErrorCode, Result, Timestamp,
    event::{Subscriber, TopicEvent},
    ports::{
        bus::{Event, ReplayFrom},
        mail_store::Outgoing,
        topic_store::Feed,
    },
};
use guildhall_event_rules::{Facts, Filter};
use guildhall_runtime::Trouble;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::Instrument;

use super::{Feeds, letter::letter};

/// One transaction of the database: more events would make it long, fewer would make it often.
const BATCH: usize = 100;
/// How long the first event of a batch waits for others.
const BATCH_WITHIN: Duration = Duration::from_millis(50);
/// A topic's place in its log moves on with the log, also when nothing is published on it, so that what retention
/// removes is not taken for events that were lost.
const MOVES_ON_AFTER: Duration = Duration::from_secs(10 * 60);
/// The bus's clock may go behind ours: a feed that has brought nothing yet begins this much before its first
/// subscription, and each event is judged by the time at which the hall published it.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);
/// After another replica was here first: at most this long, so that the two do not do so again at once.
const STEPS_BACK: Duration = Duration::from_secs(1);

type Events = BoxStream<'static, Result<Event>>;

impl Feeds {
    /// Returns when the topic stands elsewhere than was thought.
    pub(super) async fn follow(&self, feed: Feed) {
        let span = tracing::info_span!("feed", tenant = %feed.tenant, topic = %feed.topic);
        self.follow_in_span(feed).instrument(span).await;
    }

    async fn follow_in_span(&self, mut feed: Feed) {
        let mut trouble = Trouble::new("events are not brought to a topic's subscribers", self.desk.entropy.clone());
        let mut filters = Filters::default();
        loop {
            let Err(error) = self.bring(&mut feed, &mut filters, &mut trouble).await;
            if error.code == ErrorCode::Conflict {
                tracing::debug!(%error, "another replica feeds this topic");
                return sleep(self.some_of(STEPS_BACK)).await;
            }
            sleep(trouble.is(&error)).await;
        }
    }

    fn some_of(&self, time: Duration) -> Duration {
        let mut byte = [0];
        self.desk.entropy.fill(&mut byte);
        time * u32::from(byte[0]) / 255
    }

    async fn bring(&self, feed: &mut Feed, filters: &mut Filters, trouble: &mut Trouble) -> Result<Infallible> {
        self.notice_what_is_lost(feed).await?;
        let from = match feed.position {
            0 => ReplayFrom::Time(feed.since - CLOCKS_DIFFER),
            position => ReplayFrom::After(position),
        };
        let mut events = self.desk.bus.replay(&feed.tenant, &feed.topic, from).await?;
        trouble.is_over();
        loop {
            let Ok(first) = timeout(MOVES_ON_AFTER, events.next()).await else {
                self.move_on(feed).await?;
                continue;
            };
            let (batch, broken) = gather(first, &mut events).await;
            if let Some(last) = batch.last() {
                let to = last.sequence;
                self.deliver(feed, to, batch, filters).await?;
                trouble.is_over();
            }
            if let Some(error) = broken {
                return Err(error);
            }
        }
    }

    /// Those who are subscribed when the batch is there get it: whoever had its subscription answered before an event
    /// was published is among them.
    async fn deliver(&self, feed: &mut Feed, to: u64, batch: Vec<Event>, filters: &mut Filters) -> Result<()> {
        let desk = &self.desk;
        let subscribers = desk.topics.subscribers(&feed.tenant, &feed.topic).await?;
        filters.keep_to(&subscribers);
        let now = desk.clock.now();
        let trace = batch.first().map(|event| event.envelope.trace.clone()).unwrap_or_default();
        let mut mail = Vec::with_capacity(batch.len());
        for event in batch {
            let (sequence, at, publisher) = (event.sequence, event.envelope.at, event.envelope.principal.clone());
            let made = TopicEvent::of(feed.topic.clone(), event).and_then(|event| {
                let to = filters.readers(&subscribers, &event, at);
                if to.is_empty() { Ok(None) } else { letter(desk, &publisher, &event, to, now).map(Some) }
            });
            match made {
                Ok(made) => mail.extend(made),
                Err(error) => tracing::warn!(sequence, %error, "passed over event {sequence}: {error}"),
            }
            // Filters take time: others of this task go on in between.
            tokio::task::yield_now().await;
        }
        let brought = mail.len() as u64;
        let wake = self.put(feed, to, mail).await?;
        desk.waker.waiting(&feed.tenant, wake, &trace);
        metrics::counter!("guildhall_feed_events_total").increment(brought);
        Ok(())
    }

    async fn put(&self, feed: &mut Feed, to: u64, mail: Vec<Outgoing>) -> Result<Vec<guildhall_domain::mail::Mailbox>> {
        let _turn = self.deliveries.acquire().await.map_err(|_| Error::internal("deliveries are closed"))?;
        let wake = self.desk.topics.feed(feed, to, mail, self.desk.bound).await?;
        feed.position = to;
        Ok(wake)
    }

    async fn move_on(&self, feed: &mut Feed) -> Result<()> {
        let standing = self.desk.bus.standing(&feed.tenant, &feed.topic, feed.position).await?;
        if let Some(clear_until) = standing.clear_until
            && clear_until > feed.position
        {
            self.put(feed, clear_until, Vec::new()).await?;
        }
        Ok(())
    }

    /// Says so when what stood right after the feed's place is kept no longer. It counts places of the log, which
    /// other topics share: none lost is certain, otherwise it is the most that can have been lost. A feed that has
    /// brought nothing yet has no place to count from.
    async fn notice_what_is_lost(&self, feed: &mut Feed) -> Result<()> {
        if feed.position == 0 {
            return Ok(());
        }
        let standing = self.desk.bus.standing(&feed.tenant, &feed.topic, feed.position).await?;
        let lost = standing.first_kept.saturating_sub(feed.position + 1);
        if lost == 0 {
            return Ok(());
        }
        tracing::warn!(
            from = feed.position + 1,
            until = standing.first_kept - 1,
            "events of topic {} may have been lost, at most {lost}: so many places of the log that it shares with other \
             topics were removed before they were looked at for its subscribers; keep events for longer, or see why \
             they were not brought",
            feed.topic
        );
        metrics::counter!("guildhall_feed_lost_places_total").increment(lost);
        self.put(feed, standing.first_kept - 1, Vec::new()).await.map(drop)
    }
}

/// The first event and those that follow it soon; and why there will be no more, if so.
async fn gather(first: Option<Result<Event>>, events: &mut Events) -> (Vec<Event>, Option<Error>) {
    let until = Instant::now() + BATCH_WITHIN;
    let mut batch = Vec::new();
    let mut next = first;
    loop {
        match next {
            Some(Ok(event)) => batch.push(event),
            Some(Err(error)) => return (batch, Some(error)),
            None => return (batch, Some(Error::unavailable("the replay ended"))),
        }
        if batch.len() == BATCH {
            return (batch, None);
        }
        match timeout_at(until, events.next()).await {
            Ok(event) => next = event,
            Err(_) => return (batch, None),
        }
    }
}

/// The filters of a topic's subscribers, each understood once, however many use it.
#[derive(Default)]
struct Filters {
    by_text: HashMap<String, Option<Filter>>,
}

impl Filters {
    fn keep_to(&mut self, subscribers: &[Subscriber]) {
        let texts: HashSet<&str> = subscribers.iter().filter_map(|subscriber| subscriber.filter.as_deref()).collect();
        self.by_text.retain(|text, _| texts.contains(&**text));
        for text in texts {
            if self.by_text.contains_key(text) {
                continue;
            }
            let filter = Filter::parse(text).inspect_err(|error| {
                // It was understood when it was set: another version of the program set it.
                tracing::warn!(%error, "a filter is not understood, and matches nothing: {error}");
            });
            self.by_text.insert(text.to_owned(), filter.ok());
        }
    }

    /// Those who want the event, which the hall published `at`.
    fn readers(&self, subscribers: &[Subscriber], event: &TopicEvent, at: Timestamp) -> Vec<AgentId> {
        let matched: HashSet<&str> = if self.by_text.is_empty() {
            HashSet::new()
        } else {
            let facts = Facts::of(event).ok();
            let matches = |filter: &Option<Filter>| {
                facts.as_ref().zip(filter.as_ref()).is_some_and(|(facts, filter)| filter.matches_facts(facts))
            };
            self.by_text.iter().filter(|(_, filter)| matches(filter)).map(|(text, _)| &**text).collect()
        };
        let wants = |subscriber: &&Subscriber| {
            subscriber.since <= at && subscriber.filter.as_deref().is_none_or(|filter| matched.contains(filter))
        };
        subscribers.iter().filter(wants).map(|subscriber| subscriber.agent_id.clone()).collect()
    }
}
