//! A bus that loses some of what is said.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use guildhall_domain::{
    Result, TenantId,
    mail::subject,
    ports::{
        Bus,
        bus::{Envelope, Event, Hint, NodeName, Published, ReplayFrom, Standing, Subject, Topic},
    },
};

pub(crate) struct Deaf {
    bus: Arc<dyn Bus>,
    hears_mail: bool,
    /// What is told to nodes before one is lost; negative: none is.
    until_loss: AtomicI64,
}

impl Deaf {
    /// No hint about mail gets through.
    pub(crate) fn to_mail(bus: Arc<dyn Bus>) -> Self {
        Self { bus, hears_mail: false, until_loss: AtomicI64::new(-1) }
    }

    /// Loses one of what gateways tell one another, when it is told to.
    pub(crate) fn now_and_then(bus: Arc<dyn Bus>) -> Self {
        Self { bus, hears_mail: true, until_loss: AtomicI64::new(-1) }
    }

    /// The next but `count` is lost.
    pub(crate) fn lose_after(&self, count: i64) {
        self.until_loss.store(count, Ordering::SeqCst);
    }
}

#[async_trait]
impl Bus for Deaf {
    async fn hint(&self, subject: Subject, envelope: Envelope) -> Result<()> {
        self.bus.hint(subject, envelope).await
    }

    async fn hints(&self, subject: Subject) -> Result<BoxStream<'static, Hint>> {
        if subject == subject::WAITING && !self.hears_mail {
            return Ok(futures::stream::pending().boxed());
        }
        self.bus.hints(subject).await
    }

    async fn tell(&self, node: &NodeName, envelope: Envelope) -> Result<()> {
        match self.until_loss.load(Ordering::SeqCst) {
            0 => {
                self.until_loss.store(-1, Ordering::SeqCst);
                Ok(())
            }
            left => {
                if left > 0 {
                    self.until_loss.fetch_sub(1, Ordering::SeqCst);
                }
                self.bus.tell(node, envelope).await
            }
        }
    }

    async fn told(&self, node: &NodeName) -> Result<BoxStream<'static, Envelope>> {
        self.bus.told(node).await
    }

    async fn publish(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        key: Option<&str>,
        envelope: Envelope,
    ) -> Result<Published> {
        self.bus.publish(tenant, topic, key, envelope).await
    }

    async fn replay(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        from: ReplayFrom,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        self.bus.replay(tenant, topic, from).await
    }

    async fn past(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        from: ReplayFrom,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        self.bus.past(tenant, topic, from).await
    }

    async fn standing(&self, tenant: &TenantId, topic: &Topic, after: u64) -> Result<Standing> {
        self.bus.standing(tenant, topic, after).await
    }

    async fn ping(&self) -> Result<()> {
        self.bus.ping().await
    }
}
