//! Reading a topic from its stream.
//!
//! The library has an ordered consumer that mends itself; it is not used, because one that has seen nothing yet mends
//! itself by starting at the very first event, and because whoever replays is to hear of the break. Here a replay ends
//! with an error, and the caller goes on after the last event it has seen. One consumer a replay: a server holds about
//! 1,000 a stream.

use std::time::Duration;

use async_nats::jetstream::{
    self, Context, ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, pull},
    context::GetStreamErrorKind,
    stream::{ConsumerErrorKind, Info, Stream},
};
use futures::{Stream as Events, StreamExt, stream};
use guildhall_domain::{
    Error, Result, Timestamp,
    ports::bus::{Event, ReplayFrom},
};

use super::link::{Address, Life};
use crate::wire;

/// The server says this often that it is still there; two in a row missed end the replay.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A replay that nobody reads any more is forgotten by the server.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
const NANOS_PER_MILLI: i128 = 1_000_000;

/// Why a replay could not begin.
pub(super) enum NotBegun {
    StreamIsMissing,
    Error(Error),
}

struct Reader {
    messages: pull::Stream,
    life: Life,
    address: Address,
    /// Numbers of this consumer's own, without gaps: one that is left out was lost on the way.
    delivered: u64,
}

pub(super) async fn begin(
    context: &Context,
    address: &Address,
    life: Life,
    stream_name: &str,
    subject: String,
    from: ReplayFrom,
) -> Result<impl Events<Item = Result<Event>> + Send + 'static + use<>, NotBegun> {
    let failed =
        |why: &dyn std::fmt::Display| NotBegun::Error(address.unavailable(format_args!("cannot replay: {why}")));
    let stream = context.get_stream(stream_name).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => NotBegun::StreamIsMissing,
        kind => failed(&kind),
    })?;
    let deliver_policy = start(&stream, from).map_err(NotBegun::Error)?;
    let config = pull::Config {
        deliver_policy,
        ack_policy: AckPolicy::None,
        filter_subject: subject,
        inactive_threshold: FORGOTTEN_AFTER,
        memory_storage: true,
        num_replicas: 1,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| match error.kind() {
        ConsumerErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => NotBegun::StreamIsMissing,
        kind => failed(&kind),
    })?;
    let messages = consumer.stream().heartbeat(HEARTBEAT).messages().await.map_err(|error| failed(&error))?;
    let reader = Reader { messages, life, address: address.clone(), delivered: 0 };
    Ok(stream::try_unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Ok(Some((event, reader)))
    }))
}

fn start(stream: &Stream<Info>, from: ReplayFrom) -> Result<DeliverPolicy> {
    let after = match from {
        ReplayFrom::After(seen) => seen,
        // By number, not "what is new": so that nothing is lost between this answer and the consumer's beginning.
        ReplayFrom::Now => stream.cached_info().state.last_sequence,
        ReplayFrom::Time(time) => {
            let start_time = async_nats::datetime::from_nanos(i128::from(time.as_millis()) * NANOS_PER_MILLI)
                .map_err(|_| Error::invalid("the time to replay from is outside the years that are known"))?;
            return Ok(DeliverPolicy::ByStartTime { start_time });
        }
    };
    Ok(DeliverPolicy::ByStartSequence { start_sequence: after.saturating_add(1) })
}

impl Reader {
    async fn next(&mut self) -> Result<Event> {
        loop {
            let message = match self.life.during(self.messages.next()).await {
                Some(Some(Ok(message))) => message,
                Some(Some(Err(error))) => return Err(self.broken(&error)),
                Some(None) => return Err(self.broken(&"the server ended it")),
                None => return Err(self.broken(&"the connection was lost")),
            };
            if let Some(event) = self.event(message)? {
                return Ok(event);
            }
        }
    }

    fn event(&mut self, message: jetstream::Message) -> Result<Option<Event>> {
        let info = message.info().map_err(|error| self.broken(&error))?;
        let (sequence, delivered) = (info.stream_sequence, info.consumer_sequence);
        let published_millis = info.published.unix_timestamp_nanos().div_euclid(NANOS_PER_MILLI);
        if delivered != self.delivered + 1 {
            return Err(self.broken(&"an event was lost on the way"));
        }
        self.delivered = delivered;
        let published_at = Timestamp::from_millis(i64::try_from(published_millis).unwrap_or(i64::MAX));
        match wire::decode(message.message.payload) {
            Ok(envelope) => Ok(Some(Event { sequence, published_at, envelope })),
            // An error here would end every replay at this event, for ever.
            Err(error) => {
                tracing::warn!(sequence, %error, "passed over event {sequence}, which cannot be read: {error}");
                Ok(None)
            }
        }
    }

    fn broken(&self, why: &dyn std::fmt::Display) -> Error {
        self.address.unavailable(format_args!("broke off a replay ({why}): go on after the last event that came"))
    }
}
