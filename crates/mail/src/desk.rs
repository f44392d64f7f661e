//! What every part of mail stands on: the engines, the registry beside it, the policy, the time, new ids, and the
//! means to wake whoever waits.

use std::sync::Arc;

use guildhall_domain::{
    Agent, AgentId, AuditEntry, Call, Clock, Entropy, Error, ErrorCode, Principal, Result, TenantId, Timestamp,
    mail::{Mailbox, MessageId},
    ports::{AgentRegistry, Bus, Hot, MailStore, TopicStore, bus::Retention, mail_store::MailboxBound},
};
use guildhall_guard::{Operation, Policy, Target};
use moka::sync::Cache;
use parking_lot::Mutex;
use serde_json::Value;
use ulid::Ulid;

use crate::{Options, SERVICE, Task, wake::Waker};

pub(crate) struct Desk {
    pub(crate) mail: Arc<dyn MailStore>,
    pub(crate) topics: Arc<dyn TopicStore>,
    pub(crate) registry: Arc<dyn AgentRegistry>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) hot: Arc<dyn Hot>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) bound: MailboxBound,
    pub(crate) retention: Retention,
    pub(crate) waker: Waker,
    /// Agents that mail was sent to. They may have left since.
    pub(crate) once_here: Cache<(TenantId, AgentId), ()>,
    /// One member of each pool that mail was sent to, as it was then.
    pub(crate) pool_members: Cache<(TenantId, String), AgentId>,
    last_id: Mutex<Ulid>,
}

/// Agents that are not looked up again for each message: some 4 MB. Of more, those who get mail most often.
const ONCE_HERE_MAX: u64 = 20_000;
/// Pools of which a member is remembered; looking through all agents finds one of the others.
const POOLS_MAX: u64 = 10_000;

/// To whom a caller may do something.
pub(crate) enum Reach {
    /// Anyone of its tenant.
    Anyone,
    Own(AgentId),
}

impl Desk {
    pub(crate) fn new(options: Options) -> (Self, Vec<Task>) {
        let Options {
            mail,
            topics,
            registry,
            bus,
            hot,
            policy,
            clock,
            entropy,
            bound,
            retention,
            outbound: _,
            key_ring: _,
        } = options;
        let (waker, tasks) = Waker::new(bus.clone(), clock.clone(), entropy.clone());
        let (once_here, pool_members) = (Cache::new(ONCE_HERE_MAX), Cache::new(POOLS_MAX));
        let last_id = Mutex::new(Ulid::nil());
        let desk = Self {
            mail,
            topics,
            registry,
            bus,
            hot,
            policy,
            clock,
            entropy,
            bound,
            retention,
            waker,
            once_here,
            pool_members,
            last_id,
        };
        (desk, tasks)
    }

    /// May the caller do this as, or to, `agent`?
    pub(crate) fn allow(&self, call: &Call, operation: Operation, agent: &AgentId) -> Result<()> {
        self.policy.authorize(&call.principal, operation, Target::Agent(agent))
    }

    /// To whom the caller may do this, where it names nobody.
    pub(crate) fn reach(&self, call: &Call, operation: Operation) -> Result<Reach> {
        let anyone = Target::Tenant(&call.principal.tenant);
        let Err(denied) = self.policy.authorize(&call.principal, operation, anyone) else { return Ok(Reach::Anyone) };
        let own = call.principal.agent().ok_or(denied)?;
        self.allow(call, operation, &own)?;
        Ok(Reach::Own(own))
    }

    /// A call of the hall itself within the caller's deadline and trace: for what the caller need not be allowed to
    /// look at by itself.
    pub(crate) fn as_hall(&self, call: &Call) -> Call {
        let principal = Principal::hall(call.principal.tenant.clone(), SERVICE);
        Call { principal: Arc::new(principal), deadline: call.deadline, trace: call.trace.clone() }
    }

    /// The agent's record, as new as what anyone was told before this call.
    pub(crate) async fn agent(&self, call: &Call, agent: &AgentId) -> Result<Arc<Agent>> {
        self.known(call, agent).await?.ok_or_else(|| {
            Error::not_found(format!(
                "there is no agent {agent}: list_agents names those who are here, register_agent makes one"
            ))
        })
    }

    /// `None` when there is no such agent.
    pub(crate) async fn known(&self, call: &Call, agent: &AgentId) -> Result<Option<Arc<Agent>>> {
        match self.registry.get(&self.as_hall(call), agent).await {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.code == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where mail for the agent waits: its own mailbox first, then its pool's.
    pub(crate) async fn mailboxes(&self, call: &Call, agent: &AgentId) -> Result<Vec<Mailbox>> {
        let record = self.agent(call, agent).await?;
        let pool = record.pool.clone().map(Mailbox::Pool);
        Ok([Mailbox::Agent(agent.clone())].into_iter().chain(pool).collect())
    }

    /// Ids of this process rise, also within a millisecond and when the clock steps back.
    pub(crate) fn new_message_id(&self) -> MessageId {
        let now = u64::try_from(self.clock.now().as_millis()).unwrap_or(0);
        let mut last = self.last_id.lock();
        *last = match last.increment() {
            Some(next) if now <= last.timestamp_ms() => next,
            _ => guildhall_domain::clock::new_ulid(&*self.clock, &*self.entropy),
        };
        MessageId(*last)
    }

    pub(crate) fn entry(&self, call: &Call, at: Timestamp, act: &str, target: String, body: Value) -> AuditEntry {
        AuditEntry::done(&call.principal, at, act, target, body)
    }
}
