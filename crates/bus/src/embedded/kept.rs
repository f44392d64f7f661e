//! A topic as the table keeps it.

use guildhall_domain::{Error, Result, TenantId, Timestamp, ports::bus::Topic};

use super::log::{File, Row};
use crate::{
    live::{Follower, Live},
    replay::{Kept, Page},
    wire,
};

pub(super) struct Table {
    file: File,
    live: Live,
    tenant: TenantId,
    topic: Topic,
}

impl Table {
    pub(super) fn new(file: File, live: Live, tenant: TenantId, topic: Topic) -> Self {
        Self { file, live, tenant, topic }
    }
}

impl Kept for Table {
    async fn newest(&self) -> Result<u64> {
        self.file.newest(&self.tenant, &self.topic).await
    }

    async fn before(&self, time: Timestamp) -> Result<u64> {
        // In this order: what is published between the two questions is after the answer to the first.
        let newest = self.newest().await?;
        Ok(self.file.first_since(&self.tenant, &self.topic, time).await?.map_or(newest, |first| first - 1))
    }

    async fn page(&self, after: u64) -> Result<Page> {
        let rows = self.file.page(&self.tenant, &self.topic, after).await?;
        let until = rows.last().map(Row::sequence);
        let mut page = Page { until, ..Page::default() };
        for row in rows {
            let (sequence, published_at) = (row.sequence(), row.published_at());
            page.events.extend(wire::read(sequence, published_at, row.into_envelope()));
        }
        Ok(page)
    }

    async fn follow(&self) -> Result<Follower> {
        let log = wire::event_subject(&self.tenant, &self.topic);
        self.live
            .follow(&log)
            .ok_or_else(|| Error::unavailable("the writer of the event log has stopped: restart the hall"))
    }
}
