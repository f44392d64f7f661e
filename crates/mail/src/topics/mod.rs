//! Topics: what may be published on them, and the feed that brings their events to durable subscribers as mail.
//!
//! An event's way: may the caller publish here, is it well formed, does it fit the topic's schema ([`schemas`]); then
//! the bus, which keeps it and answers. Whoever reads a topic reads the bus; to an agent that subscribed for good the
//! [`feed`] brings each event as a message.
//!
//! An event is no entry of the audit chain; the message that it becomes is, at its delivery.

mod feed;
mod schemas;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use guildhall_domain::{
    AgentId, Call, Error, ErrorCode, Principal, Result, TenantId,
    event::{NewEvent, SUBSCRIBERS_MAX, Subscriber, TopicInfo, TopicSchema},
    mail::subject,
    ports::{
        Topics,
        bus::{Envelope, Hint, Published, Topic},
    },
};
use guildhall_event_rules::{Filter, Schema};
use guildhall_guard::{Operation, Target};
use guildhall_runtime::{Task, Trouble};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::{feed::Feeds, schemas::Schemas};
use crate::{SERVICE, desk::Desk};

/// A hint goes out before the answer, so that the change is known when the caller acts on it; a bus that is away does
/// not hold the answer up for longer.
const HINT_WITHIN: Duration = Duration::from_millis(250);
/// Two who set a topic's schema at once: one of them has to look again.
const VERSION_ATTEMPTS: usize = 5;
/// Reasons that an error's text names; its details have them all.
const REASONS_SHOWN: usize = 10;

pub(crate) struct TopicDesk {
    desk: Arc<Desk>,
    schemas: Schemas,
    feeds: Arc<Feeds>,
}

/// A topic's schema or durable subscribers have changed.
#[derive(Serialize, Deserialize)]
struct Changed {
    topic: Topic,
}

impl TopicDesk {
    pub(crate) fn new(desk: &Arc<Desk>) -> Arc<Self> {
        let schemas = Schemas::new(desk.topics.clone());
        Arc::new(Self { desk: desk.clone(), schemas, feeds: Feeds::new(desk) })
    }

    fn allow(&self, call: &Call, operation: Operation, topic: &Topic) -> Result<()> {
        let tenant = Target::Tenant(&call.principal.tenant);
        self.desk.policy.authorize_on_topic(&call.principal, operation, tenant, topic)
    }

    fn allow_subscribing(&self, call: &Call, topic: &Topic, agent: &AgentId) -> Result<()> {
        let policy = &self.desk.policy;
        policy.authorize_on_topic(&call.principal, Operation::SubscribeTopic, Target::Agent(agent), topic)
    }

    /// To this replica at once, to the others by a hint.
    async fn changed(&self, call: &Call, topic: &Topic) {
        let tenant = &call.principal.tenant;
        self.take_note(tenant, topic);
        let payload =
            serde_json::to_vec(&Changed { topic: topic.clone() }).expect("a name can be written as JSON").into();
        let principal = Principal::hall(tenant.clone(), SERVICE);
        let (trace, at) = (call.trace.clone(), self.desk.clock.now());
        let envelope = Envelope { principal, trace, at, headers: Vec::new(), payload };
        match timeout(HINT_WITHIN, self.desk.bus.hint(subject::TOPIC, envelope)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, %topic, "a hint of a changed topic was lost"),
            Err(_) => tracing::debug!(%topic, "a hint of a changed topic was lost: the bus is slow"),
        }
    }

    fn take_note(&self, tenant: &TenantId, topic: &Topic) {
        self.schemas.forget(tenant, topic);
        self.feeds.look_again();
    }

    /// Hears what other replicas changed.
    async fn listen(&self, stop: CancellationToken) {
        let mut trouble = Trouble::new("hints of changed topics cannot be heard", self.desk.entropy.clone());
        loop {
            let wait = match self.desk.bus.hints(subject::TOPIC).await {
                Ok(mut hints) => {
                    trouble.is_over();
                    while let Some(hint) = tokio::select! {
                        hint = hints.next() => hint,
                        () = stop.cancelled() => return,
                    } {
                        self.hear(&hint);
                    }
                    Duration::ZERO
                }
                Err(error) => trouble.is(&error),
            };
            // A stream that ends at once, again and again, must not spin.
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait.max(Duration::from_millis(100))) => {}
            }
        }
    }

    fn hear(&self, hint: &Hint) {
        if let Ok(Changed { topic }) = serde_json::from_slice(&hint.envelope.payload) {
            self.take_note(&hint.envelope.principal.tenant, &topic);
        }
    }

    fn set_by(call: &Call) -> String {
        format!("{}:{}", call.principal.kind.as_str(), call.principal.id)
    }
}

pub(crate) fn tasks(topics: &Arc<TopicDesk>) -> Vec<Task> {
    let listener = topics.clone();
    let mut tasks = topics.feeds.tasks();
    tasks.push(Task::new("mail.topics", move |stop| async move { listener.listen(stop).await }));
    tasks
}

fn target(topic: &Topic) -> String {
    format!("topic:{topic}")
}

#[async_trait]
impl Topics for TopicDesk {
    async fn publish(&self, call: &Call, topic: &Topic, event: NewEvent) -> Result<Published> {
        self.allow(call, Operation::PublishEvent, topic)?;
        // In an open hall nobody need say who he is, but whoever reads an event is told.
        if call.principal.id.is_empty() {
            call.principal.require_agent()?;
        }
        event.check()?;
        let tenant = &call.principal.tenant;
        if let Some(schema) = self.schemas.of(tenant, topic).await? {
            schema.check(&event.content)?;
        }
        let NewEvent { content, headers, idempotency_key } = event;
        let envelope = Envelope {
            principal: (*call.principal).clone(),
            trace: call.trace.clone(),
            at: self.desk.clock.now(),
            headers,
            payload: content.as_text().to_owned().into(),
        };
        let published = self.desk.bus.publish(tenant, topic, idempotency_key.as_deref(), envelope).await?;
        if !published.duplicate {
            metrics::counter!("guildhall_events_published_total").increment(1);
        }
        Ok(published)
    }

    async fn set_schema(&self, call: &Call, topic: &Topic, schema: Value, force: bool) -> Result<TopicSchema> {
        self.allow(call, Operation::ManageTopic, topic)?;
        Schema::compile(&schema)?;
        let (desk, tenant) = (&self.desk, &call.principal.tenant);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let newest = desk.topics.schema(tenant, topic, None).await?;
            if let Some(newest) = &newest {
                if newest.schema == schema {
                    return Ok(newest.clone());
                }
                let reasons = Schema::compatible(&newest.schema, &schema);
                if !force && !reasons.is_empty() {
                    return Err(incompatible(topic, newest.version, &reasons));
                }
            }
            let version = newest.map_or(1, |newest| newest.version + 1);
            let now = desk.clock.now();
            let next = TopicSchema {
                topic: topic.clone(),
                version,
                schema: schema.clone(),
                set_at: now,
                set_by: Self::set_by(call),
            };
            let audit =
                desk.entry(call, now, "topic.schema", target(topic), json!({ "version": version, "force": force }));
            match desk.topics.add_schema(tenant, &next, audit).await {
                Ok(()) => {
                    self.changed(call, topic).await;
                    return Ok(next);
                }
                Err(error) if error.code == ErrorCode::Conflict && attempts < VERSION_ATTEMPTS => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn schema(&self, call: &Call, topic: &Topic, version: Option<u32>) -> Result<Option<TopicSchema>> {
        self.allow(call, Operation::ReadTopic, topic)?;
        self.desk.topics.schema(&call.principal.tenant, topic, version).await
    }

    async fn subscribe(
        &self,
        call: &Call,
        topic: &Topic,
        agent: &AgentId,
        filter: Option<String>,
    ) -> Result<Subscriber> {
        self.allow_subscribing(call, topic, agent)?;
        if let Some(filter) = &filter {
            Filter::parse(filter)?;
        }
        let (desk, tenant) = (&self.desk, &call.principal.tenant);
        desk.agent(call, agent).await?;
        let there = desk.topics.subscribers(tenant, topic).await?;
        if there.len() >= SUBSCRIBERS_MAX && !there.iter().any(|subscriber| subscriber.agent_id == *agent) {
            return Err(Error::conflict(format!(
                "topic {topic} has {SUBSCRIBERS_MAX} durable subscribers, and takes no more: follow its stream instead"
            )));
        }
        let now = desk.clock.now();
        let since = there.iter().find(|subscriber| subscriber.agent_id == *agent).map_or(now, |before| before.since);
        let subscriber = Subscriber { agent_id: agent.clone(), filter, since };
        let body = json!({ "agent_id": agent, "filter": subscriber.filter });
        let audit = desk.entry(call, now, "topic.subscribe", target(topic), body);
        desk.topics.put_subscriber(tenant, topic, &subscriber, audit).await?;
        self.changed(call, topic).await;
        Ok(subscriber)
    }

    async fn unsubscribe(&self, call: &Call, topic: &Topic, agent: &AgentId) -> Result<bool> {
        self.allow_subscribing(call, topic, agent)?;
        let (desk, body) = (&self.desk, json!({ "agent_id": agent }));
        let audit = desk.entry(call, desk.clock.now(), "topic.unsubscribe", target(topic), body);
        let was_there = desk.topics.remove_subscriber(&call.principal.tenant, topic, agent, audit).await?;
        if was_there {
            self.changed(call, topic).await;
        }
        Ok(was_there)
    }

    async fn subscribers(&self, call: &Call, topic: &Topic) -> Result<Vec<Subscriber>> {
        self.allow(call, Operation::ReadTopic, topic)?;
        self.desk.topics.subscribers(&call.principal.tenant, topic).await
    }

    async fn topics(&self, call: &Call) -> Result<Vec<TopicInfo>> {
        let tenant = &call.principal.tenant;
        self.desk.policy.authorize(&call.principal, Operation::ReadTopic, Target::Tenant(tenant))?;
        let mut topics = self.desk.topics.topics(tenant).await?;
        // A topic that the caller is not let near is not there for it.
        topics.retain(|info| self.allow(call, Operation::ReadTopic, &info.topic).is_ok());
        Ok(topics)
    }
}

fn incompatible(topic: &Topic, version: u32, reasons: &[String]) -> Error {
    let shown = reasons.iter().take(REASONS_SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = match reasons.len().saturating_sub(REASONS_SHOWN) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    Error::conflict(format!(
        "events that fit version {version} of the schema of {topic} might not fit this one: {shown}{more}; set it with \
         force if that is meant"
    ))
    .with_details(json!({ "reasons": reasons }))
}
