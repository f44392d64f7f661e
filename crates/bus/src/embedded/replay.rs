//! Reading a topic: what is kept, page by page, then what comes.

use std::collections::VecDeque;

use futures::{Stream, stream};
use guildhall_domain::{
    Error, Result, TenantId, Timestamp,
    ports::bus::{Event, ReplayFrom, Topic},
};

use super::{
    log::{File, Log, Row},
    tails::Tail,
};
use crate::wire;

struct Reader {
    file: File,
    tail: Tail,
    tenant: TenantId,
    topic: Topic,
    /// The last sequence read; events after it are still to come.
    after: i64,
    page: VecDeque<Row>,
}

pub(super) async fn replay(
    log: &Log,
    tenant: &TenantId,
    topic: &Topic,
    from: ReplayFrom,
) -> Result<impl Stream<Item = Result<Event>> + Send + 'static + use<>> {
    let file = log.file();
    let after = match from {
        // Sequences are SQLite's, which end there.
        ReplayFrom::After(sequence) => i64::try_from(sequence).unwrap_or(i64::MAX),
        ReplayFrom::Now => file.last_sequence().await?,
        ReplayFrom::Time(time) => {
            // In this order: what is published between the two questions is after the answer to the first.
            let last = file.last_sequence().await?;
            file.first_since(tenant, topic, time).await?.map_or(last, |first| first - 1)
        }
    };
    let tail = file.tails.wait_for(tenant, topic);
    let reader =
        Reader { file: file.clone(), tail, tenant: tenant.clone(), topic: topic.clone(), after, page: VecDeque::new() };
    Ok(stream::try_unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Ok::<_, Error>(Some((event, reader)))
    }))
}

impl Reader {
    async fn next(&mut self) -> Result<Event> {
        loop {
            while let Some(row) = self.page.pop_front() {
                let (sequence, published_at) = (row.sequence(), row.published_at());
                self.after = sequence;
                match event(row, sequence, published_at) {
                    Ok(event) => return Ok(event),
                    // An error here would end every replay at this event, for ever.
                    Err(error) => {
                        tracing::warn!(topic = %self.topic, sequence, %error, "passed over an event of {} that cannot be read", self.topic);
                    }
                }
            }
            self.tail.forget();
            self.page = self.file.page(&self.tenant, &self.topic, self.after).await?.into();
            if self.page.is_empty() {
                self.tail.woken().await;
            }
        }
    }
}

fn event(row: Row, sequence: i64, published_at: Timestamp) -> Result<Event> {
    let sequence = u64::try_from(sequence).map_err(|_| Error::internal("a sequence is below zero"))?;
    Ok(Event { sequence, published_at, envelope: wire::decode(row.into_envelope())? })
}
