//! A topic as its stream keeps it.
//!
//! Pages are read through consumers that live for one page, a few at a time: a server holds about 1,000 a stream, and
//! those who read may be many more. What the newest event is, the stream's leader is asked; a consumer may stand on a
//! server that is a little behind.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, pull},
    message::StreamMessage,
    stream::{ConsumerErrorKind, LastRawMessageErrorKind, Stream},
};
use futures::StreamExt;
use guildhall_domain::{Error, Result, Timestamp, ports::bus::Standing};

use super::{Connection, Inner, Lost};
use crate::{
    live::Follower,
    replay::{Kept, LOOK_AGAIN_AFTER, PAGE, PAGE_BYTES, Page},
    wire,
};

/// A consumer whose reader went away in the middle of a page.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);
/// For a page that is known to hold something. Where the consumer's server is behind, it is asked again.
const PAGE_WITHIN: Duration = Duration::from_secs(1);
const NANOS_PER_MILLI: i128 = 1_000_000;

pub(super) struct Topic {
    pub(super) engine: Arc<Inner>,
    pub(super) partition: u8,
    pub(super) subject: String,
}

impl Kept for Topic {
    async fn newest(&self) -> Result<u64> {
        Ok(self.newest_event().await?.map_or(0, |event| event.sequence))
    }

    async fn before(&self, time: Timestamp) -> Result<u64> {
        let start_time = async_nats::datetime::from_nanos(i128::from(time.as_millis()) * NANOS_PER_MILLI)
            .map_err(|_| Error::invalid("the time to replay from is outside the years that are known"))?;
        loop {
            let newest = self.newest_event().await?;
            match newest {
                Some(newest) if newest.time >= start_time => {}
                newest => return Ok(newest.map_or(0, |newest| newest.sequence)),
            }
            // There is one: it is found, unless it is removed just now or the consumer's server is a little behind.
            let first = self.read(DeliverPolicy::ByStartTime { start_time }, 1).await?;
            if let Some(first) = first.first() {
                return Ok(place(first)?.0 - 1);
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    async fn page(&self, after: u64) -> Result<Page> {
        let start_sequence = after.saturating_add(1);
        let messages = self.read(DeliverPolicy::ByStartSequence { start_sequence }, PAGE).await?;
        let mut page = Page::default();
        for message in messages {
            let (sequence, published_at) = place(&message)?;
            page.until = Some(sequence);
            page.events.extend(wire::read(sequence, published_at, message.message.payload));
        }
        Ok(page)
    }

    async fn follow(&self) -> Result<Follower> {
        self.engine.follow(self.partition, &self.subject).await
    }
}

impl Topic {
    pub(super) async fn standing(&self, after: u64) -> Result<Standing> {
        // In this order: what comes between the two answers is after the first.
        let (first, last) = self
            .engine
            .on_stream(self.partition, |connection| async move {
                let name = wire::stream_name(self.partition);
                let stream = connection.streams.get_stream(name).await.map_err(|error| Lost::of(&error))?;
                let state = &stream.cached_info().state;
                Ok((state.first_sequence, state.last_sequence))
            })
            .await?;
        let newest = self.newest().await?;
        Ok(Standing { first_kept: first, clear_until: (newest <= after).then_some(last) })
    }

    /// Asks nothing of the server.
    async fn stream(&self, connection: &Connection) -> Result<Stream<()>, Lost> {
        let stream = connection.streams.get_stream_no_info(wire::stream_name(self.partition)).await;
        stream.map_err(|error| Lost::Other(error.to_string()))
    }

    async fn newest_event(&self) -> Result<Option<StreamMessage>> {
        self.engine
            .on_stream(self.partition, |connection| async move {
                let stream = self.stream(connection).await?;
                match stream.get_last_raw_message_by_subject(&self.subject).await {
                    Ok(newest) => Ok(Some(newest)),
                    Err(error) => match error.kind() {
                        LastRawMessageErrorKind::NoMessageFound => Ok(None),
                        LastRawMessageErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                            Err(Lost::Stream)
                        }
                        _ => Err(Lost::Other(error.to_string())),
                    },
                }
            })
            .await
    }

    /// At most so many of the topic's events, in order. Empty when the consumer's server knows of none.
    async fn read(&self, deliver_policy: DeliverPolicy, at_most: usize) -> Result<Vec<jetstream::Message>> {
        let _permit = self.engine.pages.acquire().await.map_err(|_| Error::internal("the bus is closed"))?;
        let config = &pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject: self.subject.clone(),
            inactive_threshold: FORGOTTEN_AFTER,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        self.engine
            .on_stream(self.partition, |connection| async move {
                let stream = self.stream(connection).await?;
                let consumer = stream.create_consumer(config.clone()).await.map_err(|error| match error.kind() {
                    ConsumerErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => Lost::Stream,
                    kind => Lost::Other(kind.to_string()),
                })?;
                let pending = usize::try_from(consumer.cached_info().num_pending).unwrap_or(usize::MAX);
                let mut messages = Vec::new();
                if pending > 0 {
                    let page =
                        consumer.fetch().max_messages(at_most.min(pending)).max_bytes(PAGE_BYTES).expires(PAGE_WITHIN);
                    let mut page = page.messages().await.map_err(|error| Lost::Other(error.to_string()))?;
                    while let Some(message) = page.next().await {
                        match message {
                            Ok(message) => messages.push(message),
                            // Full by its bytes, or broken off: either way what came is in order, and the next page
                            // goes on after it.
                            Err(_) if !messages.is_empty() => break,
                            Err(error) => return Err(Lost::Other(error.to_string())),
                        }
                    }
                }
                // One that stays behind is forgotten by the server.
                let _ = stream.delete_consumer(&consumer.cached_info().name).await;
                Ok(messages)
            })
            .await
    }
}

pub(super) fn place(message: &jetstream::Message) -> Result<(u64, Timestamp)> {
    let info = message.info().map_err(|error| Error::internal(format!("an event came without its place: {error}")))?;
    let millis = info.published.unix_timestamp_nanos().div_euclid(NANOS_PER_MILLI);
    Ok((info.stream_sequence, Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))))
}
