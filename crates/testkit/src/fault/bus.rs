//! Faults before the bus. A replay may also break off at any event, as it does when the engine goes away.

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use guildhall_domain::{
    Error, Result, TenantId,
    ports::{
        Bus,
        bus::{Envelope, Event, Hint, NodeName, Published, ReplayFrom, Standing, Subject, Topic},
    },
};

use super::{Fault, FaultPlan, Faulty, read, write};

#[async_trait]
impl Bus for Faulty<dyn Bus> {
    async fn hint(&self, subject: Subject, envelope: Envelope) -> Result<()> {
        write(&self.plan, || self.inner.hint(subject, envelope.clone())).await
    }

    async fn hints(&self, subject: Subject) -> Result<BoxStream<'static, Hint>> {
        write(&self.plan, || self.inner.hints(subject)).await
    }

    async fn tell(&self, node: &NodeName, envelope: Envelope) -> Result<()> {
        write(&self.plan, || self.inner.tell(node, envelope.clone())).await
    }

    async fn told(&self, node: &NodeName) -> Result<BoxStream<'static, Envelope>> {
        write(&self.plan, || self.inner.told(node)).await
    }

    async fn publish(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        key: Option<&str>,
        envelope: Envelope,
    ) -> Result<Published> {
        write(&self.plan, || self.inner.publish(tenant, topic, key, envelope.clone())).await
    }

    async fn replay(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        from: ReplayFrom,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        let events = write(&self.plan, || self.inner.replay(tenant, topic, from)).await?;
        Ok(breaking(events, self.plan.fork()))
    }

    async fn past(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        from: ReplayFrom,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        let events = write(&self.plan, || self.inner.past(tenant, topic, from)).await?;
        Ok(breaking(events, self.plan.fork()))
    }

    async fn standing(&self, tenant: &TenantId, topic: &Topic, after: u64) -> Result<Standing> {
        // Never stale: a reader takes it for what is so now.
        write(&self.plan, || self.inner.standing(tenant, topic, after)).await
    }

    async fn ping(&self) -> Result<()> {
        read(&self.plan, "ping", || self.inner.ping()).await
    }
}

fn breaking(events: BoxStream<'static, Result<Event>>, plan: FaultPlan) -> BoxStream<'static, Result<Event>> {
    stream::unfold(Some((events, plan)), |going| async {
        let (mut events, plan) = going?;
        let event = events.next().await?;
        match plan.next() {
            Fault::LostAnswer => {
                return Some((Err(Error::unavailable("the replay broke off (a fault the test made)")), None));
            }
            Fault::Delay(time) => tokio::time::sleep(time).await,
            Fault::None | Fault::Repeat | Fault::StaleRead => {}
        }
        Some((event, Some((events, plan))))
    })
    .boxed()
}
