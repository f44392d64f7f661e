//! Brings mail to the agents that want it by webhook.
//!
//! Every replica looks: at once when a hint says that something waits for such an agent, and at all of them every 2 s.
//! Whoever has mail is visited: a few messages are taken under a lease, posted one after the other ([`post`]), and
//! settled by what the receiver answered. Two replicas at one mailbox never hold the same message, nor two messages of
//! one sender out of order: the leases see to that. A receiver in trouble is left alone for a while, so that it is not
//! asked once for each message that waits for it.

mod post;
mod visits;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use guildhall_domain::{
    Agent, AgentId, Call, Clock, Entropy, Principal, Result, TenantId,
    agent::Delivery,
    mail::{Mailbox, subject},
    ports::{AgentRegistry, Bus, Mail, bus::Hint},
};
use guildhall_guard::KeyRing;
use guildhall_outbound::Outbound;
use guildhall_runtime::Trouble;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use self::{
    post::Postman,
    visits::{Visit, Visits},
};
use crate::{SERVICE, wake::WaitingHint};

/// How late a message is brought whose hint was lost.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A bus that is away does not hold up the looking.
const LISTEN_WITHIN: Duration = Duration::from_millis(500);
/// Of the port: in one call.
const UNREAD_MAX: usize = 10_000;

pub(crate) struct Webhooks {
    pub(crate) mail: Arc<dyn Mail>,
    pub(crate) registry: Arc<dyn AgentRegistry>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) outbound: Outbound,
    pub(crate) key_ring: Arc<KeyRing>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// A receiver, as this task keeps account of it.
type Key = (TenantId, AgentId);

fn key(agent: &Agent) -> Key {
    (agent.tenant.clone(), agent.agent_id.clone())
}

fn hall(tenant: &TenantId) -> Call {
    Call::new(Principal::hall(tenant.clone(), SERVICE))
}

/// Those who want webhooks, as of the last look.
#[derive(Default)]
struct Receivers {
    agents: HashMap<Key, Arc<Agent>>,
    by_pool: HashMap<(TenantId, String), Vec<Key>>,
}

impl Receivers {
    fn new(agents: Vec<Arc<Agent>>) -> Self {
        let mut receivers = Self::default();
        // Who is paused is refused everything else as well.
        for agent in agents.into_iter().filter(|agent| agent.paused.is_none() && agent.webhook_url.is_some()) {
            if let Some(pool) = &agent.pool {
                receivers.by_pool.entry((agent.tenant.clone(), pool.clone())).or_default().push(key(&agent));
            }
            receivers.agents.insert(key(&agent), agent);
        }
        receivers
    }

    /// Who may take from this mailbox.
    fn at(&self, tenant: &TenantId, mailbox: Mailbox) -> Vec<&Arc<Agent>> {
        match mailbox {
            Mailbox::Agent(agent) => self.agents.get(&(tenant.clone(), agent)).into_iter().collect(),
            Mailbox::Pool(pool) => {
                let members = self.by_pool.get(&(tenant.clone(), pool)).into_iter().flatten();
                members.filter_map(|key| self.agents.get(key)).collect()
            }
        }
    }
}

impl Webhooks {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let postman =
            Postman { outbound: self.outbound.clone(), key_ring: self.key_ring.clone(), clock: self.clock.clone() };
        let visit = Visit { mail: self.mail.clone(), postman, stop: stop.clone() };
        let mut visits = Visits::new(Arc::new(visit), self.clock.clone());
        let mut receivers = Receivers::default();
        let mut hints = None;
        let mut trouble = Trouble::new("who wants mail by webhook is not known", self.entropy.clone());
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = look.tick() => {
                    if hints.is_none() {
                        hints = self.listen().await;
                    }
                    match self.look().await {
                        Ok((wanting, waiting)) => {
                            trouble.is_over();
                            receivers = wanting;
                            visits.forget_others(|key| receivers.agents.contains_key(key));
                            waiting.iter().filter_map(|key| receivers.agents.get(key)).for_each(|to| visits.pay(to));
                        }
                        Err(error) => { trouble.is(&error); }
                    }
                }
                hint = next(&mut hints) => match hint {
                    Some(hint) => self.hear(&hint, &receivers, &mut visits),
                    None => hints = None,
                },
                () = visits.one_ends() => {}
            }
        }
        visits.end().await;
    }

    async fn listen(&self) -> Option<BoxStream<'static, Hint>> {
        timeout(LISTEN_WITHIN, self.bus.hints(subject::WAITING)).await.ok()?.ok()
    }

    /// Who wants webhooks, and who of them has mail.
    async fn look(&self) -> Result<(Receivers, Vec<Key>)> {
        let receivers = Receivers::new(self.registry.wanting(&hall(&TenantId::default()), Delivery::Webhook).await?);
        let mut tenants: HashMap<&TenantId, Vec<AgentId>> = HashMap::new();
        for (tenant, agent) in receivers.agents.keys() {
            tenants.entry(tenant).or_default().push(agent.clone());
        }
        let mut waiting = Vec::new();
        for (tenant, agents) in tenants {
            for agents in agents.chunks(UNREAD_MAX) {
                let unread = self.mail.unread(&hall(tenant), agents.to_vec()).await?;
                let some = agents.iter().zip(unread).filter(|(_, unread)| unread.waiting > 0);
                waiting.extend(some.map(|(agent, _)| (tenant.clone(), agent.clone())));
            }
        }
        Ok((receivers, waiting))
    }

    fn hear(&self, hint: &Hint, receivers: &Receivers, visits: &mut Visits) {
        if receivers.agents.is_empty() {
            return;
        }
        let Ok(WaitingHint { mailboxes }) = serde_json::from_slice(&hint.envelope.payload) else { return };
        for mailbox in mailboxes {
            receivers.at(&hint.envelope.principal.tenant, mailbox).into_iter().for_each(|agent| visits.pay(agent));
        }
    }
}

/// The next hint; never, where the bus is away.
async fn next(hints: &mut Option<BoxStream<'static, Hint>>) -> Option<Hint> {
    match hints {
        Some(hints) => hints.next().await,
        None => std::future::pending().await,
    }
}
