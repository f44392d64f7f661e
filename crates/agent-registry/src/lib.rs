//! Agents: who is here, what they can do, whether they are alive, their keys and tokens; and the audit chain.
//!
//! A request comes through `grpc::server` (or straight through the port), is judged by the policy and checked
//! whole, takes effect in one transaction together with its audit entry, and is then told: to this replica's memory,
//! to the hot store (so that a reader on another replica knows that it is behind), and to the bus.
//!
//! - [`service`]: the core, one method of the port after another;
//! - `registration`, `keys`: by whose right agents come in;
//! - `roster`: everyone, in memory, following the database's order of changes;
//! - `presence`: signs of life, how they are judged, and who says that a status changed;
//! - `access`: which tokens are good, and the key that signs new ones;
//! - `audit`: the sealer;
//! - [`grpc`]: the port over the wire.
//!
//! Every replica does the same work on a memory of its own and keeps no truth there. What one alone must do, saying
//! changes of presence and sealing, goes by a lease.

mod access;
mod announce;
mod audit;
pub mod grpc;
mod hot;
mod keys;
mod presence;
mod registration;
mod roster;
pub mod service;

use std::{sync::Arc, time::Duration};

use guildhall_domain::{
    Clock, Entropy,
    agent::PresenceRule,
    clock::new_ulid,
    ports::{AgentStore, AuditStore, Bus, Hot},
};
use guildhall_guard::{
    KeyRing, Policy,
    audit::{Recorder, RecorderOptions},
};
pub use guildhall_runtime::Task;

pub use self::service::Registry;
use crate::{
    access::Access,
    announce::Announcer,
    audit::Sealer,
    hot::Brief,
    presence::{
        Gauge,
        marks::Marks,
        watch::{Progress, Watch},
    },
    roster::Roster,
};

/// How this service names itself as a principal and in records.
pub const SERVICE: &str = "agent-registry";

/// What the registry stands on. Each engine may be away when it starts.
pub struct Options {
    pub agents: Arc<dyn AgentStore>,
    pub audit: Arc<dyn AuditStore>,
    pub hot: Arc<dyn Hot>,
    pub bus: Arc<dyn Bus>,
    pub key_ring: Arc<KeyRing>,
    pub policy: Arc<Policy>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub presence: PresenceRule,
    /// How long a token lives when nobody says otherwise.
    pub token_ttl: Duration,
}

impl Registry {
    /// Touches no engine. The registry answers `Unavailable` until its tasks, which the caller has to run, have read
    /// the agents and the keys.
    pub fn start(options: Options) -> (Arc<Self>, Vec<Task>) {
        let Options { agents, audit, hot, bus, key_ring, policy, clock, entropy, presence, token_ttl } = options;
        let holder = new_ulid(&*clock, &*entropy).to_string();
        let brief = Arc::new(Brief::new(hot.clone()));
        let gauge = Arc::new(Gauge::new(presence, clock.clone()));
        let roster = Arc::new(Roster::new(agents.clone(), brief.clone(), gauge.clone()));
        let marks = Arc::new(Marks::new(hot, brief.clone()));
        let access = Arc::new(Access::new(agents.clone(), key_ring.clone(), clock.clone(), entropy.clone(), token_ttl));
        let (announcer, outlet) = Announcer::new(clock.clone());
        let announcer = Arc::new(announcer);
        let (refusals, flusher) = Recorder::new(RecorderOptions::new(SERVICE), clock.clone());

        let watch = Watch {
            store: agents.clone(),
            roster: roster.clone(),
            marks: marks.clone(),
            gauge: gauge.clone(),
            announcer: announcer.clone(),
            entropy: entropy.clone(),
            holder: holder.clone(),
            progress: Progress::default(),
        };
        let sealer = Sealer { store: audit.clone(), hot: brief, entropy: entropy.clone(), holder };
        let (followed, keys, heard, sink) = (roster.clone(), access.clone(), access.clone(), audit.clone());
        let (hints, said, spread) = (bus.clone(), bus, entropy.clone());
        let tasks = vec![
            Task::new("agent-registry.roster", move |stop| async move {
                followed.follow(&*hints, spread, || heard.changed.notify_one(), stop).await;
            }),
            Task::new("agent-registry.access", move |stop| async move { keys.keep_fresh(stop).await }),
            Task::new("agent-registry.presence", move |stop| watch.run(stop)),
            Task::new("agent-registry.hints", move |stop| outlet.run(said, stop)),
            Task::new("agent-registry.sealer", move |stop| sealer.run(stop)),
            Task::new("agent-registry.refusals", move |stop| async move {
                let write = |entries| {
                    let sink = sink.clone();
                    async move { sink.record(entries).await }
                };
                flusher.run(write, stop.cancelled()).await;
            }),
        ];
        let registry =
            Self { agents, audit, policy, key_ring, clock, entropy, roster, gauge, marks, access, announcer, refusals };
        (Arc::new(registry), tasks)
    }
}
