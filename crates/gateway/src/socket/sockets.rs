//! The sockets of this gateway: who has which, and which of an agent's gets its mail.
//!
//! The newest socket of an agent gets its mail, on whichever gateway it is; the older ones keep presence, topics and
//! streams. What other gateways have opened since is known from hints.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Instant,
};

use guildhall_domain::{AgentId, Error, ErrorCode, Result, TenantId, Timestamp, ports::bus::NodeName};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{errands::Errands, outbox::Outbox, topics::Subscriptions, window::Window};
use crate::identity::Caller;

/// Sockets of one agent on one gateway.
pub(super) const PER_AGENT_MAX: usize = 16;

/// A socket's number on its gateway; never used twice within one life of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct SocketId(pub(super) u64);

/// A socket anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct SocketAt {
    pub(super) node: NodeName,
    pub(super) socket: SocketId,
}

/// One live socket. Everything that an idle one does not need is allocated when it is first used.
pub(super) struct Socket {
    pub(super) id: SocketId,
    pub(super) tenant: TenantId,
    pub(super) agent: AgentId,
    pub(super) caller: Caller,
    pub(super) opened: Instant,
    pub(super) opened_at: Timestamp,
    /// Whether it may know who comes and goes.
    pub(super) sees_agents: bool,
    pub(super) outbox: Outbox,
    pub(super) errands: Mutex<Errands>,
    pub(super) window: Mutex<Window>,
    pub(super) subscriptions: Mutex<Subscriptions>,
    /// How far it was told of agents that came and went.
    pub(super) told_of_agents: AtomicU64,
    /// Pings since the last sign of its client.
    pub(super) unanswered_pings: AtomicU8,
}

impl Socket {
    /// It heard from its client: it lives.
    pub(super) fn lives(&self) {
        self.unanswered_pings.store(0, Ordering::Relaxed);
    }
}

type Owner = (TenantId, AgentId);

#[derive(Default)]
struct OfAgent {
    /// In the order in which they were opened.
    sockets: Vec<Arc<Socket>>,
    /// A newer one, of another gateway.
    elsewhere: Option<SocketAt>,
    pool: Option<String>,
}

impl OfAgent {
    fn with_mail(&self) -> Option<&Arc<Socket>> {
        self.sockets.last().filter(|_| self.elsewhere.is_none())
    }
}

#[derive(Default)]
struct Table {
    agents: HashMap<Owner, OfAgent>,
    /// Members with sockets here, the one whose turn it is first.
    pools: HashMap<(TenantId, String), VecDeque<AgentId>>,
    open: usize,
}

pub(super) struct Sockets {
    table: Mutex<Table>,
    next: AtomicU64,
    max: usize,
}

impl Sockets {
    pub(super) fn new(max: usize) -> Self {
        Self { table: Mutex::default(), next: AtomicU64::new(1), max }
    }

    pub(super) fn number(&self) -> SocketId {
        SocketId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// From now on it gets its agent's mail. Gives the one that got it before, if that is here.
    pub(super) fn insert(&self, socket: Arc<Socket>, pool: Option<String>) -> Result<Option<Arc<Socket>>> {
        let mut table = self.table.lock();
        table.check_room(self.max, &socket.tenant, &socket.agent)?;
        table.open += 1;
        metrics::gauge!("guildhall_sockets_open").set(table.open as f64);
        let owner = (socket.tenant.clone(), socket.agent.clone());
        let of_agent = table.agents.entry(owner).or_default();
        let before = of_agent.with_mail().cloned();
        of_agent.elsewhere = None;
        of_agent.sockets.push(socket.clone());
        table.set_pool(&socket.tenant, &socket.agent, pool);
        Ok(before)
    }

    /// Gives the socket that gets the agent's mail from now on, if the one that is gone did before.
    pub(super) fn remove(&self, socket: &Socket) -> Option<Arc<Socket>> {
        let mut table = self.table.lock();
        let owner = (socket.tenant.clone(), socket.agent.clone());
        let of_agent = table.agents.get_mut(&owner)?;
        let had_mail = of_agent.with_mail().is_some_and(|last| last.id == socket.id);
        let before = of_agent.sockets.len();
        of_agent.sockets.retain(|other| other.id != socket.id);
        let removed = before - of_agent.sockets.len();
        let next = of_agent.with_mail().filter(|_| had_mail).cloned();
        if of_agent.sockets.is_empty() {
            table.set_pool(&socket.tenant, &socket.agent, None);
            table.agents.remove(&owner);
        }
        table.open -= removed;
        metrics::gauge!("guildhall_sockets_open").set(table.open as f64);
        next
    }

    pub(super) fn has_mail(&self, socket: &Socket) -> bool {
        self.with_mail(&socket.tenant, &socket.agent).is_some_and(|last| last.id == socket.id)
    }

    /// The agent's newest socket anywhere, if it is here.
    pub(super) fn with_mail(&self, tenant: &TenantId, agent: &AgentId) -> Option<Arc<Socket>> {
        self.table.lock().agents.get(&(tenant.clone(), agent.clone()))?.with_mail().cloned()
    }

    pub(super) fn find(&self, tenant: &TenantId, agent: &AgentId, id: SocketId) -> Option<Arc<Socket>> {
        let table = self.table.lock();
        let of_agent = table.agents.get(&(tenant.clone(), agent.clone()))?;
        of_agent.sockets.iter().find(|socket| socket.id == id).cloned()
    }

    /// Members of a pool that get mail here, at most `limit`, others the next time.
    pub(super) fn members(&self, tenant: &TenantId, pool: &str, limit: usize) -> Vec<Arc<Socket>> {
        let mut table = self.table.lock();
        let Table { agents, pools, .. } = &mut *table;
        let Some(members) = pools.get_mut(&(tenant.clone(), pool.to_owned())) else { return Vec::new() };
        let mut sockets = Vec::new();
        for _ in 0..members.len() {
            members.rotate_left(1);
            let Some(member) = members.back() else { break };
            let of_agent = agents.get(&(tenant.clone(), member.clone()));
            sockets.extend(of_agent.and_then(OfAgent::with_mail).cloned());
            if sockets.len() == limit {
                break;
            }
        }
        sockets
    }

    /// Every socket of an agent.
    pub(super) fn of(&self, tenant: &TenantId, agent: &AgentId) -> Vec<Arc<Socket>> {
        let table = self.table.lock();
        table.agents.get(&(tenant.clone(), agent.clone())).map(|of| of.sockets.clone()).unwrap_or_default()
    }

    pub(super) fn all(&self) -> Vec<Arc<Socket>> {
        let table = self.table.lock();
        table.agents.values().flat_map(|of_agent| &of_agent.sockets).cloned().collect()
    }

    /// The newest one here of each agent, and whether there is a newer one elsewhere.
    pub(super) fn newest(&self) -> Vec<(Arc<Socket>, bool)> {
        let table = self.table.lock();
        let newest = |of_agent: &OfAgent| Some((of_agent.sockets.last()?.clone(), of_agent.elsewhere.is_some()));
        table.agents.values().filter_map(newest).collect()
    }

    /// Another gateway has opened a newer one. Gives the one here that got the agent's mail until now.
    pub(super) fn opened_elsewhere(
        &self,
        tenant: &TenantId,
        agent: &AgentId,
        at: &SocketAt,
        newer: impl FnOnce(&Socket) -> bool,
    ) -> Option<Arc<Socket>> {
        let mut table = self.table.lock();
        let of_agent = table.agents.get_mut(&(tenant.clone(), agent.clone()))?;
        let last = of_agent.sockets.last()?.clone();
        if !newer(&last) {
            return None;
        }
        let had_mail = of_agent.elsewhere.is_none();
        of_agent.elsewhere = Some(at.clone());
        had_mail.then_some(last)
    }

    /// The newer one is closed, or nobody knows of it any more (`None`). Gives the one here that gets the mail again.
    pub(super) fn closed_elsewhere(
        &self,
        tenant: &TenantId,
        agent: &AgentId,
        at: Option<&SocketAt>,
    ) -> Option<Arc<Socket>> {
        let mut table = self.table.lock();
        let of_agent = table.agents.get_mut(&(tenant.clone(), agent.clone()))?;
        if at.is_some() && of_agent.elsewhere.as_ref() != at {
            return None;
        }
        of_agent.elsewhere.take()?;
        of_agent.sockets.last().cloned()
    }

    pub(super) fn set_pool(&self, tenant: &TenantId, agent: &AgentId, pool: Option<String>) {
        self.table.lock().set_pool(tenant, agent, pool);
    }
}

impl Table {
    fn check_room(&self, max: usize, tenant: &TenantId, agent: &AgentId) -> Result<()> {
        if self.open >= max {
            return Err(Error::unavailable(format!(
                "this gateway holds {max} live sockets, its most; open one on another gateway, or later"
            )));
        }
        let own = self.agents.get(&(tenant.clone(), agent.clone())).map_or(0, |of_agent| of_agent.sockets.len());
        if own >= PER_AGENT_MAX {
            return Err(Error::new(
                ErrorCode::RateLimited,
                format!("{agent} has {own} live sockets on this gateway, the most there may be; close one first"),
            ));
        }
        Ok(())
    }

    fn set_pool(&mut self, tenant: &TenantId, agent: &AgentId, pool: Option<String>) {
        let Some(of_agent) = self.agents.get_mut(&(tenant.clone(), agent.clone())) else { return };
        let before = std::mem::replace(&mut of_agent.pool, pool.clone());
        if before == pool {
            return;
        }
        if let Some(before) = before {
            let key = (tenant.clone(), before);
            if let Some(members) = self.pools.get_mut(&key) {
                members.retain(|member| member != agent);
                if members.is_empty() {
                    self.pools.remove(&key);
                }
            }
        }
        if let Some(pool) = pool {
            self.pools.entry((tenant.clone(), pool)).or_default().push_back(agent.clone());
        }
    }
}
