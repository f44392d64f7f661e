//! The bus of a hall that is one process: hints by channel, events in a SQLite file.
//!
//! An event's way: the caller puts it into the writer's queue; the writer puts all that waits into one transaction and
//! commits it, which syncs the disk once for all of them; then it tells whoever follows the topic, and answers each
//! caller. Whoever replays reads the table up to the live edge, and follows from there.

mod kept;
mod log;
mod writer;

use std::path::PathBuf;

use async_trait::async_trait;
use futures::stream::BoxStream;
use guildhall_domain::{
    Result, TenantId,
    ports::{
        Bus,
        bus::{Durability, Envelope, Event, Hint, NodeName, Published, ReplayFrom, Standing, Subject, Topic},
    },
};
use tokio::sync::OnceCell;

use self::{kept::Table, log::Log};
use crate::{
    BusOptions,
    hints::{self, Hints},
    replay, wire,
};

pub(crate) struct Embedded {
    path: PathBuf,
    options: BusOptions,
    hints: Hints,
    /// Opened by the first call that needs it.
    log: OnceCell<Log>,
}

impl Embedded {
    pub(crate) fn new(options: BusOptions) -> Self {
        let path = options.data_dir.join("bus.db");
        Self { path, options, hints: Hints::default(), log: OnceCell::new() }
    }

    async fn log(&self) -> Result<&Log> {
        // In a place of its own: every call would carry the room for it otherwise.
        self.log.get_or_try_init(|| Box::pin(Log::open(&self.path, &self.options))).await
    }

    async fn table(&self, tenant: &TenantId, topic: &Topic) -> Result<Table> {
        let log = self.log().await?;
        Ok(Table::new(log.file().clone(), log.live().clone(), tenant.clone(), topic.clone()))
    }
}

#[async_trait]
impl Bus for Embedded {
    async fn hint(&self, subject: Subject, envelope: Envelope) -> Result<()> {
        wire::check_size(&envelope)?;
        self.hints.send(&wire::hint_subject(subject), envelope);
        Ok(())
    }

    async fn hints(&self, subject: Subject) -> Result<BoxStream<'static, Hint>> {
        Ok(hints::of(subject, self.hints.listen(wire::hint_subject(subject))))
    }

    async fn tell(&self, node: &NodeName, envelope: Envelope) -> Result<()> {
        wire::check_size(&envelope)?;
        self.hints.send(&wire::node_subject(node), envelope);
        Ok(())
    }

    async fn told(&self, node: &NodeName) -> Result<BoxStream<'static, Envelope>> {
        Ok(self.hints.listen(wire::node_subject(node)))
    }

    async fn publish(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        key: Option<&str>,
        envelope: Envelope,
    ) -> Result<Published> {
        let duplicate_id = key.map(|key| wire::duplicate_id(tenant, topic, &envelope.principal, key));
        let bytes = wire::encode(envelope)?;
        let appended = self.log().await?.append(tenant, topic, duplicate_id, bytes).await?;
        Ok(Published { sequence: appended.sequence, durability: Durability::Fsync, duplicate: appended.duplicate })
    }

    async fn replay(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        from: ReplayFrom,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        replay::replay(self.table(tenant, topic).await?, from).await
    }

    async fn past(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        from: ReplayFrom,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        replay::past(self.table(tenant, topic).await?, from).await
    }

    async fn standing(&self, tenant: &TenantId, topic: &Topic, after: u64) -> Result<Standing> {
        self.log().await?.file().standing(tenant, topic, after).await
    }

    async fn ping(&self) -> Result<()> {
        self.log().await?.ping().await
    }
}
