//! Reading topics: a page of what was, or everything from somewhere on. What may be published, and who gets it as mail,
//! is the business of the port of topics.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream::BoxStream};
use guildhall_domain::{
    Call, Error, Result, TenantId, Timestamp,
    event::TopicEvent,
    ports::bus::{ReplayFrom, Topic},
};
use guildhall_event_rules::Filter;
use tokio::time::timeout;

use crate::hall::Hall;

pub(crate) const PAGE_DEFAULT: usize = 100;
pub(crate) const PAGE_MAX: usize = 1_000;
/// Events in one page, as text, so that an answer stays within what clients read at once.
const PAGE_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Events that a page looks at for the few that its filter wants.
const LOOKED_AT_MAX: usize = 10_000;
/// And how long, where its filter costs much: the next page goes on from there.
const LOOKED_WITHIN: Duration = Duration::from_secs(2);

/// What a page is asked to hold.
pub(crate) struct Replay {
    pub(crate) from: Option<Timestamp>,
    pub(crate) to: Option<Timestamp>,
    pub(crate) filter: Option<Filter>,
    pub(crate) limit: usize,
    pub(crate) after: Option<u64>,
}

pub(crate) struct Page {
    pub(crate) events: Vec<TopicEvent>,
    /// Where the next page begins; `None` when this one came to the end of what was published.
    pub(crate) next: Option<u64>,
}

impl Replay {
    pub(crate) fn check(&self) -> Result<()> {
        if !(1..=PAGE_MAX).contains(&self.limit) {
            return Err(Error::invalid(format!("limit is 1 to {PAGE_MAX}")));
        }
        if let (Some(from), Some(to)) = (self.from, self.to)
            && to < from
        {
            return Err(Error::invalid("to is before from"));
        }
        Ok(())
    }
}

/// Parsing a filter takes a thread of its own for a moment.
pub(crate) async fn filter(text: Option<String>) -> Result<Option<Filter>> {
    let Some(text) = text else { return Ok(None) };
    let parsed = tokio::task::spawn_blocking(move || Filter::parse(&text)).await;
    parsed.unwrap_or_else(|_| Err(Error::internal("reading the filter broke off; report it"))).map(Some)
}

impl Hall {
    pub(crate) async fn replay(&self, call: &Call, topic: &Topic, asked: Replay) -> Result<Page> {
        asked.check()?;
        let page = timeout(call.remaining()?, self.page(&call.principal.tenant, topic, asked)).await;
        page.unwrap_or_else(|_| Err(Error::timeout("the bus did not hand the page out in time: ask again")))
    }

    /// What is published while the page is read is left to the next one.
    async fn page(&self, tenant: &TenantId, topic: &Topic, asked: Replay) -> Result<Page> {
        let begin = match (asked.after, asked.from) {
            (Some(seen), _) => ReplayFrom::After(seen),
            (None, Some(from)) => ReplayFrom::Time(from),
            (None, None) => ReplayFrom::After(0),
        };
        let mut past = self.bus.past(tenant, topic, begin).await?;
        let mut page = Page { events: Vec::new(), next: None };
        let (mut looked_at, mut bytes, mut last) = (0, 0, 0);
        let until = Instant::now() + LOOKED_WITHIN;
        while let Some(event) = past.next().await {
            let event = event?;
            if asked.to.is_some_and(|to| event.published_at > to) {
                break;
            }
            let is_looked_out = looked_at == LOOKED_AT_MAX || looked_at > 0 && Instant::now() >= until;
            if page.events.len() == asked.limit || bytes >= PAGE_MAX_BYTES || is_looked_out {
                // There is more.
                page.next = Some(last);
                break;
            }
            (looked_at, last) = (looked_at + 1, event.sequence);
            let event = TopicEvent::of(topic.clone(), event)?;
            if asked.from.is_none_or(|from| event.published_at >= from) && wants(asked.filter.as_ref(), &event).await {
                bytes += event.event.as_text().len();
                page.events.push(event);
            }
        }
        Ok(page)
    }

    /// Everything from there on. Ends when the bus goes away; its reader goes on after the last event it has seen.
    pub(crate) async fn follow(
        &self,
        tenant: &TenantId,
        topic: Topic,
        from: ReplayFrom,
        filter: Option<Filter>,
    ) -> Result<BoxStream<'static, TopicEvent>> {
        let events = self.bus.replay(tenant, &topic, from).await?;
        Ok(events
            .take_while(|event| std::future::ready(event.is_ok()))
            .filter_map(move |event| {
                let event = event.and_then(|event| TopicEvent::of(topic.clone(), event));
                let filter = filter.clone();
                async move {
                    let event = event.ok()?;
                    wants(filter.as_ref(), &event).await.then_some(event)
                }
            })
            .boxed())
    }
}

/// A filter takes time: others of its thread go on after each.
async fn wants(filter: Option<&Filter>, event: &TopicEvent) -> bool {
    let Some(filter) = filter else { return true };
    let wants = filter.matches(event);
    tokio::task::yield_now().await;
    wants
}
