//! The live edge of each stream, as this process follows it: one consumer a stream, whoever and how many follow its
//! topics, and none when nobody does.
//!
//! The library has an ordered consumer that mends itself; it is not used, because one that has seen nothing yet mends
//! itself by starting at the very first event. Here a break ends all that follow with an error, and their callers go on
//! after the last event they have seen.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::ConsumerErrorKind,
};
use futures::StreamExt;
use guildhall_domain::{Error, Result};
use tokio::{sync::Mutex, time::interval};

use super::{
    Inner, Lost,
    kept::place,
    link::{Address, Life},
};
use crate::{
    live::{Follower, Live},
    wire::{self, PARTITIONS, stream_name},
};

/// The server says this often that it is still there; two in a row missed end it.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A consumer that nobody reads any more is forgotten by the server.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// How long one without followers is kept for the next.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(5);

/// One a stream; `None` until somebody follows it, and again when it has ended.
#[derive(Default)]
pub(super) struct Edges([Mutex<Option<Live>>; PARTITIONS as usize]);

/// The consumer of one stream.
struct Edge {
    messages: pull::Stream,
    life: Life,
    address: Address,
    live: Live,
    /// Numbers of this consumer's own, without gaps: one that is left out was lost on the way.
    delivered: u64,
}

impl Inner {
    /// Whatever is published from here on is heard.
    pub(super) async fn follow(self: &Arc<Self>, partition: u8, subject: &str) -> Result<Follower> {
        let mut edge = self.edges.0[usize::from(partition)].lock().await;
        if let Some(follower) = edge.as_ref().and_then(|live| live.follow(subject)) {
            return Ok(follower);
        }
        let live = self.begin(partition).await?;
        let follower =
            live.follow(subject).ok_or_else(|| self.address.unavailable("broke off a replay as it began"))?;
        *edge = Some(live);
        Ok(follower)
    }

    async fn begin(&self, partition: u8) -> Result<Live> {
        let (messages, life) = self
            .on_stream(partition, |connection| async move {
                let stream =
                    connection.streams.get_stream(stream_name(partition)).await.map_err(|error| Lost::of(&error))?;
                let config = pull::Config {
                    // By number, not "what is new": so that nothing is lost between this and the consumer's beginning.
                    deliver_policy: DeliverPolicy::ByStartSequence {
                        start_sequence: stream.cached_info().state.last_sequence + 1,
                    },
                    ack_policy: AckPolicy::None,
                    inactive_threshold: FORGOTTEN_AFTER,
                    memory_storage: true,
                    num_replicas: 1,
                    ..Default::default()
                };
                let consumer = stream.create_consumer(config).await.map_err(|error| match error.kind() {
                    ConsumerErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => Lost::Stream,
                    kind => Lost::Other(kind.to_string()),
                })?;
                let messages = consumer.stream().heartbeat(HEARTBEAT).messages().await;
                let life = connection.link.ready().await.map_err(|error| Lost::Other(error.to_string()))?;
                Ok((messages.map_err(|error| Lost::Other(error.to_string()))?, life))
            })
            .await?;
        let live = Live::default();
        let edge = Edge { messages, life, address: self.address.clone(), live: live.clone(), delivered: 0 };
        tokio::spawn(edge.run(stream_name(partition)));
        Ok(live)
    }
}

impl Edge {
    async fn run(mut self, stream: String) {
        let mut idle = interval(IDLE_LOOK_EVERY);
        idle.tick().await;
        loop {
            let told = tokio::select! {
                told = self.tell_next() => told,
                _ = idle.tick() => {
                    if self.live.end_if_idle() {
                        return;
                    }
                    continue;
                }
            };
            if let Err(error) = told {
                tracing::debug!(%error, "the live edge of {stream} is followed no longer: {error}");
                return self.live.break_off(&error);
            }
        }
    }

    async fn tell_next(&mut self) -> Result<()> {
        let message = match self.life.during(self.messages.next()).await {
            Some(Some(Ok(message))) => message,
            Some(Some(Err(error))) => return Err(self.broken(&error)),
            Some(None) => return Err(self.broken(&"the server ended it")),
            None => return Err(self.broken(&"the connection was lost")),
        };
        let delivered = message.info().map_err(|error| self.broken(&error))?.consumer_sequence;
        if delivered != self.delivered + 1 {
            return Err(self.broken(&"an event was lost on the way"));
        }
        self.delivered = delivered;
        let log = message.message.subject.as_str();
        if self.live.is_followed(log) {
            let (sequence, published_at) = place(&message)?;
            if let Some(event) = wire::read(sequence, published_at, message.message.payload.clone()) {
                self.live.tell(log, &event);
            }
        }
        Ok(())
    }

    fn broken(&self, why: &dyn std::fmt::Display) -> Error {
        self.address.unavailable(format_args!("broke off a replay ({why}): go on after the last event that came"))
    }
}
