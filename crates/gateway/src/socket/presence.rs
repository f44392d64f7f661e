//! Who comes and goes, as sockets are told of it.
//!
//! Five thousand agents that arrive would be twenty-five million frames. So there is one journal a tenant, in which
//! only the newest of each agent counts, written once for all sockets; each socket remembers how far it was told, and
//! a bounded number of sockets is told at a time, in turn. A socket that is too far behind is told to list the agents.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::extract::ws::Utf8Bytes;
use futures::StreamExt as _;
use guildhall_domain::{
    AgentId, Error, TenantId, agent,
    ports::bus::{Hint, Subject},
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::{Door, cut::Cut, sockets::Socket, tell};

/// What one tenant's journal keeps.
const BOUND: usize = 4_096;
/// Changes gather for so long.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Sockets told at a time: 5,000 a second, each one write.
const SOCKETS_AT_A_TIME: usize = 500;
/// Frames that one socket is told at a time.
const NOTES_AT_A_TIME: usize = 64;
/// What a hint tells of an agent, less its free metadata.
const TOLD: [&str; 7] = ["agent_id", "name", "status", "previous", "capabilities", "roles", "pool"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Word {
    Joined,
    Status,
    Left,
}

impl Word {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "agent.joined",
            Self::Status => "agent.status",
            Self::Left => "agent.left",
        }
    }
}

struct Note {
    agent: AgentId,
    word: Word,
    text: Utf8Bytes,
}

#[derive(Default)]
struct OfTenant {
    /// Sockets that are told.
    listeners: usize,
    last: u64,
    /// Notes up to this one may be missing.
    forgotten: u64,
    notes: BTreeMap<u64, Note>,
    newest: HashMap<(AgentId, Word), u64>,
}

impl OfTenant {
    fn note(&mut self, note: Note) {
        let agent = note.agent.clone();
        // Who has left has neither joined nor changed; who joins anew has not left.
        let obsolete: &[Word] = match note.word {
            Word::Joined => &[Word::Joined, Word::Left],
            Word::Status => &[Word::Status],
            Word::Left => &[Word::Joined, Word::Status, Word::Left],
        };
        for word in obsolete {
            if let Some(number) = self.newest.remove(&(agent.clone(), *word)) {
                self.notes.remove(&number);
            }
        }
        self.last += 1;
        self.newest.insert((agent, note.word), self.last);
        self.notes.insert(self.last, note);
        if self.notes.len() > BOUND
            && let Some((number, oldest)) = self.notes.pop_first()
        {
            self.newest.remove(&(oldest.agent, oldest.word));
            self.forgotten = number;
        }
    }
}

#[derive(Default)]
pub(super) struct Journal {
    tenants: Mutex<HashMap<TenantId, OfTenant>>,
    /// How many there were in all: whether it is worth the while to look for sockets that are behind.
    notes: AtomicU64,
}

impl Journal {
    /// From now on notes are kept for one more socket. Gives where it begins.
    pub(super) fn listen(&self, tenant: &TenantId) -> u64 {
        let mut tenants = self.tenants.lock();
        let of_tenant = tenants.entry(tenant.clone()).or_default();
        of_tenant.listeners += 1;
        of_tenant.last
    }

    pub(super) fn leave(&self, tenant: &TenantId) {
        let mut tenants = self.tenants.lock();
        if let Some(of_tenant) = tenants.get_mut(tenant) {
            of_tenant.listeners -= 1;
            if of_tenant.listeners == 0 {
                tenants.remove(tenant);
            }
        }
    }

    fn note(&self, tenant: &TenantId, note: Note) {
        if let Some(of_tenant) = self.tenants.lock().get_mut(tenant) {
            of_tenant.note(note);
            self.notes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_behind(&self, socket: &Socket) -> bool {
        let told = socket.told_of_agents.load(Ordering::Relaxed);
        socket.sees_agents && self.tenants.lock().get(&socket.tenant).is_some_and(|of_tenant| of_tenant.last > told)
    }

    /// Tells one socket the next of what it does not know.
    fn tell(&self, socket: &Socket) {
        let told = socket.told_of_agents.load(Ordering::Relaxed);
        let tenants = self.tenants.lock();
        let Some(of_tenant) = tenants.get(&socket.tenant) else { return };
        if told < of_tenant.forgotten {
            socket.outbox.push(tell::agents_changed());
        }
        let mut reached = of_tenant.last;
        for (count, (number, note)) in of_tenant.notes.range(told + 1..).enumerate() {
            if count == NOTES_AT_A_TIME {
                reached = number - 1;
                break;
            }
            // An agent knows of itself.
            if note.agent != socket.agent {
                socket.outbox.push(note.text.clone());
            }
        }
        socket.told_of_agents.store(reached, Ordering::Relaxed);
    }
}

#[derive(Deserialize)]
struct About {
    agent_id: AgentId,
    #[serde(default)]
    pool: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Door {
    /// Follows hints about agents.
    pub(super) async fn heed_agents(self: Arc<Self>, stop: CancellationToken) {
        let follow = |subject: Subject| {
            let door = self.clone();
            async move {
                door.heed(subject, |hint| door.heed_agent(subject, &hint)).await;
            }
        };
        let all = futures::stream::iter([
            agent::subject::JOINED,
            agent::subject::CHANGED,
            agent::subject::LEFT,
            agent::subject::STATUS,
        ])
        .map(follow)
        .buffer_unordered(4)
        .for_each(|()| std::future::ready(()));
        tokio::select! {
            () = stop.cancelled() => {}
            () = all => {}
        }
    }

    fn heed_agent(&self, subject: Subject, hint: &Hint) {
        let tenant = &hint.envelope.principal.tenant;
        let Ok(About { agent_id, pool, mut rest }) = serde_json::from_slice(&hint.envelope.payload) else { return };
        let word = if subject == agent::subject::JOINED {
            Word::Joined
        } else if subject == agent::subject::STATUS {
            Word::Status
        } else if subject == agent::subject::LEFT {
            for socket in self.sockets.of(tenant, &agent_id) {
                socket.outbox.cut(Cut::Left);
            }
            Word::Left
        } else {
            if let Some(reason) = rest.get("paused").and_then(Value::as_str) {
                let paused = Error::denied(format!("an administrator paused this agent: {reason}"));
                for socket in self.sockets.of(tenant, &agent_id) {
                    socket.outbox.cut(Cut::ShutOut(paused.clone()));
                }
            }
            return self.sockets.set_pool(tenant, &agent_id, pool);
        };
        rest.retain(|field, value| TOLD.contains(&field.as_str()) && !value.is_null());
        rest.insert("agent_id".to_owned(), Value::String(agent_id.to_string()));
        if let Some(pool) = pool {
            rest.insert("pool".to_owned(), Value::String(pool));
        }
        let text = tell::agent(word.as_str(), &Value::Object(rest));
        self.presence.note(tenant, Note { agent: agent_id, word, text });
    }

    /// Tells sockets what they do not know, some at a time, in turn.
    pub(super) async fn tell_of_agents(self: Arc<Self>, stop: CancellationToken) {
        let mut turn: Vec<Arc<Socket>> = Vec::new();
        let (mut seen, mut left_behind) = (0, false);
        loop {
            tokio::select! {
                () = tokio::time::sleep(TELL_EVERY) => {}
                () = stop.cancelled() => return,
            }
            if turn.is_empty() {
                let notes = self.presence.notes.load(Ordering::Relaxed);
                if notes == seen && !left_behind {
                    continue;
                }
                (seen, left_behind) = (notes, false);
                turn = self.sockets.all();
                turn.retain(|socket| self.presence.is_behind(socket));
            }
            for socket in turn.split_off(turn.len().saturating_sub(SOCKETS_AT_A_TIME)) {
                if socket.outbox.has_room() {
                    self.presence.tell(&socket);
                }
                left_behind |= self.presence.is_behind(&socket);
            }
        }
    }
}
