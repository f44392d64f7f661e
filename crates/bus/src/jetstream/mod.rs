//! The bus of a hall of many processes: hints on core NATS, topics in JetStream.
//!
//! An event's way: its topic decides one of eight streams; the key becomes the message id by which the server knows a
//! repeat; the server's answer, once its stream has the event, is ours. The connection is made by the first call and
//! mended by the client; a call that finds none waits a moment and then says so, instead of queueing what would be
//! sent when nobody waits for it any more.

mod follow;
mod kept;
mod link;
mod streams;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    self, ErrorCode,
    context::{AccountErrorKind, ContextBuilder, GetStreamError, GetStreamErrorKind, PublishError, PublishErrorKind},
    message::PublishMessage,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use guildhall_domain::{
    Error, Result, TenantId,
    ports::{
        Bus,
        bus::{Durability, Envelope, Event, Hint, NodeName, Published, ReplayFrom, Standing, Subject, Topic},
    },
};
use tokio::sync::{OnceCell, Semaphore};

use self::{
    follow::Edges,
    link::{Address, Life, Link},
    streams::Streams,
};
use crate::{BusOptions, hints, replay, wire};

/// For the stream's word that it has an event. One with replicas gives it in milliseconds, unless it is choosing a
/// leader; whoever gives up sooner does not know whether the event is kept.
const KEPT_TIMEOUT: Duration = Duration::from_secs(5);
/// For an answer about streams and consumers. Servers that are choosing a leader give none at all, not even later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// For handing a hint to the client, which takes it at once unless the connection is stuck.
const HINT_TIMEOUT: Duration = Duration::from_secs(1);
/// For a message to oneself to come back, which shows that a subscription made before it is live.
const ECHO_TIMEOUT: Duration = Duration::from_millis(250);
const ECHO_ATTEMPTS: u32 = 8;

/// Pages that are read at once: each is a consumer on the server for as long.
const PAGES_AT_ONCE: usize = 4;

pub(crate) struct JetStream(Arc<Inner>);

struct Inner {
    address: Address,
    syncs_always: bool,
    streams: Streams,
    connection: OnceCell<Connection>,
    edges: Edges,
    pages: Semaphore,
}

struct Connection {
    link: Link,
    /// For events.
    events: jetstream::Context,
    /// For streams and consumers.
    streams: jetstream::Context,
}

/// Why a stream could not be asked.
enum Lost {
    /// It is not there: the engine lost it, or somebody removed it.
    Stream,
    Other(String),
}

impl Lost {
    fn of(error: &GetStreamError) -> Self {
        match error.kind() {
            GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => Self::Stream,
            kind => Self::Other(kind.to_string()),
        }
    }
}

impl JetStream {
    pub(crate) fn new(urls: &str, options: BusOptions) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            address: Address::parse(urls)?,
            syncs_always: options.nats_syncs_always,
            streams: Streams::new(options.retention),
            connection: OnceCell::new(),
            edges: Edges::default(),
            pages: Semaphore::new(PAGES_AT_ONCE),
        })))
    }

    fn topic(&self, tenant: &TenantId, topic: &Topic) -> kept::Topic {
        let (partition, subject) = wire::place(tenant, topic);
        kept::Topic { engine: self.0.clone(), partition, subject }
    }
}

impl Inner {
    /// Asks something of a partition's stream, which is made if it is not there.
    async fn on_stream<'a, T, F>(&'a self, partition: u8, ask: impl Fn(&'a Connection) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Lost>>,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (connection, mut life) = self.connection().await?;
            let asked = async {
                self.streams.ensure(&connection.streams, &self.address, partition).await?;
                Ok(ask(connection).await)
            };
            match life.during(asked).await {
                Some(Ok(Ok(answer))) => return Ok(answer),
                Some(Ok(Err(Lost::Stream))) if attempts == 1 => self.streams.forget(partition),
                Some(Ok(Err(Lost::Stream))) => {
                    return Err(self.address.unavailable("has no stream: it was removed as soon as it was made"));
                }
                Some(Ok(Err(Lost::Other(why)))) => {
                    return Err(self.address.unavailable(format_args!("cannot replay: {why}")));
                }
                Some(Err(error)) => return Err(error),
                None => return Err(self.address.unavailable("went away")),
            }
        }
    }

    /// A connection that is up.
    async fn connection(&self) -> Result<(&Connection, Life)> {
        let open = || {
            // In a place of its own: every call would carry the room for it otherwise.
            Box::pin(async {
                let link = Link::open(self.address.clone()).await?;
                let within = |timeout| ContextBuilder::new().timeout(timeout).build(link.client().clone());
                Ok(Connection { events: within(KEPT_TIMEOUT), streams: within(ANSWER_TIMEOUT), link })
            })
        };
        let connection = self.connection.get_or_try_init(open).await?;
        let life = connection.link.ready().await?;
        Ok((connection, life))
    }

    /// Makes the stream if need be, and publishes.
    async fn publish_in(
        &self,
        connection: &Connection,
        partition: u8,
        subject: &str,
        message: impl Fn() -> PublishMessage,
    ) -> Result<Published> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let replicas = self.streams.ensure(&connection.streams, &self.address, partition).await?;
            let published = async { connection.events.send_publish(subject.to_owned(), message()).await?.await };
            match published.await {
                Ok(answer) => {
                    let durability = self.durability(replicas);
                    return Ok(Published { sequence: answer.sequence, durability, duplicate: answer.duplicate });
                }
                // Nobody took it, so that a repeat is safe: the engine lost the stream, or somebody removed it.
                Err(error) if error.kind() == PublishErrorKind::StreamNotFound && attempts == 1 => {
                    self.streams.forget(partition);
                }
                Err(error) => return Err(self.publish_failed(&error)),
            }
        }
    }

    fn durability(&self, replicas: usize) -> Durability {
        match replicas {
            2.. => Durability::Replicated,
            _ if self.syncs_always => Durability::Fsync,
            _ => Durability::Buffered,
        }
    }

    fn publish_failed(&self, error: &PublishError) -> Error {
        match error.kind() {
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => self.address.unanswered("the event is kept"),
            PublishErrorKind::MaxPayloadExceeded => self.address.too_large(),
            PublishErrorKind::StreamNotFound => {
                self.address.unavailable("takes no events: its stream was removed as soon as it was made")
            }
            _ => self.address.unavailable(format_args!("refuses the event: {error}")),
        }
    }

    /// To whoever listens on the subject now.
    async fn say(&self, subject: String, envelope: Envelope) -> Result<()> {
        let bytes = wire::encode(envelope)?;
        let (connection, _) = self.connection().await?;
        let sent = connection.link.client().publish(subject, bytes);
        match tokio::time::timeout(HINT_TIMEOUT, sent).await {
            Ok(sent) => sent.map_err(|error| self.address.unavailable(format_args!("takes no hint: {error}"))),
            Err(_) => Err(self.address.unavailable("takes no hint: the connection is stuck")),
        }
    }

    async fn listen(&self, subject: String) -> Result<BoxStream<'static, Envelope>> {
        let (connection, _) = self.connection().await?;
        let subscribed = connection.link.client().subscribe(subject.clone()).await;
        let mut messages =
            subscribed.map_err(|error| self.address.unavailable(format_args!("takes no subscription: {error}")))?;
        self.heard_itself(connection).await?;
        let (sender, stream) = hints::channel();
        // Ends when the listener is gone. The client subscribes again after every reconnect.
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    () = sender.closed() => return,
                };
                let Some(message) = message else { return };
                match wire::decode(message.payload) {
                    Ok(envelope) => {
                        let _ = sender.send(envelope);
                    }
                    Err(error) => tracing::warn!(%subject, %error, "passed over what came on {subject}: {error}"),
                }
            }
        });
        Ok(stream)
    }

    /// Sends to itself until it hears itself: the server takes a connection's words in their order, so that a
    /// subscription made before is live then. A flush does not show that, it only empties the client's own buffer.
    async fn heard_itself(&self, connection: &Connection) -> Result<()> {
        let client = connection.link.client();
        let failed =
            |what: &dyn std::fmt::Display| self.address.unavailable(format_args!("takes no subscription: {what}"));
        let inbox = client.new_inbox();
        let mut echoes = client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
        for _ in 0..ECHO_ATTEMPTS {
            let echo = async {
                client.publish(inbox.clone(), Bytes::new()).await.map_err(|error| failed(&error))?;
                Ok(echoes.next().await)
            };
            if let Ok(heard) = tokio::time::timeout(ECHO_TIMEOUT, echo).await {
                return heard.map(drop);
            }
        }
        Err(failed(&"it does not answer"))
    }
}

#[async_trait]
impl Bus for JetStream {
    async fn hint(&self, subject: Subject, envelope: Envelope) -> Result<()> {
        self.0.say(wire::hint_subject(subject), envelope).await
    }

    async fn hints(&self, subject: Subject) -> Result<BoxStream<'static, Hint>> {
        Ok(hints::of(subject, self.0.listen(wire::hint_subject(subject)).await?))
    }

    async fn tell(&self, node: &NodeName, envelope: Envelope) -> Result<()> {
        self.0.say(wire::node_subject(node), envelope).await
    }

    async fn told(&self, node: &NodeName) -> Result<BoxStream<'static, Envelope>> {
        self.0.listen(wire::node_subject(node)).await
    }

    async fn publish(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        key: Option<&str>,
        envelope: Envelope,
    ) -> Result<Published> {
        let (partition, subject) = wire::place(tenant, topic);
        let id = key.map(|key| hex::encode(wire::duplicate_id(tenant, topic, &envelope.principal, key)));
        let bytes = wire::encode(envelope)?;
        let (connection, mut life) = self.0.connection().await?;
        let message = || {
            let message = PublishMessage::build().payload(bytes.clone());
            id.iter().fold(message, |message, id| message.message_id(id))
        };
        let published = life.during(self.0.publish_in(connection, partition, &subject, message)).await;
        published.unwrap_or_else(|| Err(self.0.address.unanswered("the event is kept")))
    }

    async fn replay(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        from: ReplayFrom,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        replay::replay(self.topic(tenant, topic), from).await
    }

    async fn past(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        from: ReplayFrom,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        replay::past(self.topic(tenant, topic), from).await
    }

    async fn standing(&self, tenant: &TenantId, topic: &Topic, after: u64) -> Result<Standing> {
        self.topic(tenant, topic).standing(after).await
    }

    async fn ping(&self) -> Result<()> {
        let (connection, mut life) = self.0.connection().await?;
        let asked = connection.streams.query_account();
        match life.during(asked).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) if error.kind() == AccountErrorKind::TimedOut => {
                Err(self.0.address.unavailable("does not answer"))
            }
            Some(Err(error)) => Err(self
                .0
                .address
                .unavailable(format_args!("answers without JetStream ({error}): start it with --jetstream"))),
            None => Err(self.0.address.unavailable("went away")),
        }
    }
}
