//! Which parts of the process work. `/health` says that the process lives, `/ready` whether it can be of use.

use std::{collections::BTreeMap, fmt, sync::Arc};

use guildhall_domain::{Clock, Timestamp};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::Shutdown;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Starting,
    Up,
    Down { reason: String, since: Timestamp },
}

struct Part {
    /// What it is to the hall: `database`.
    kind: &'static str,
    /// What it is: `postgres`. Its key in `/health`.
    engine: String,
    state: State,
}

/// A registry of the parts that the process needs. Cheap to clone; made once, at start, so its size is fixed.
#[derive(Clone)]
pub struct Health {
    parts: Arc<Mutex<Vec<Part>>>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
}

/// The handle by which the owner of a part says how it is. Starts as not yet up.
#[derive(Clone)]
pub struct Component {
    health: Health,
    index: usize,
}

impl Health {
    pub fn new(clock: Arc<dyn Clock>, shutdown: Shutdown) -> Self {
        Self { parts: Arc::default(), clock, shutdown }
    }

    pub fn component(&self, kind: &'static str, engine: impl Into<String>) -> Component {
        let mut parts = self.parts.lock();
        parts.push(Part { kind, engine: engine.into(), state: State::Starting });
        Component { health: self.clone(), index: parts.len() - 1 }
    }

    /// The body of `/health`: a key for each engine. Parts on the same engine share one; the worse is shown.
    pub fn snapshot(&self) -> Value {
        let mut engines: BTreeMap<String, (u8, &'static str)> = BTreeMap::new();
        for part in self.parts.lock().iter() {
            let shown = match part.state {
                State::Up => (0, "connected"),
                State::Starting => (1, "connecting"),
                State::Down { .. } => (2, "disconnected"),
            };
            let worst = engines.entry(part.engine.clone()).or_insert(shown);
            *worst = (*worst).max(shown);
        }
        let mut body = Map::from_iter([("status".to_owned(), json!("healthy"))]);
        body.extend(engines.into_iter().map(|(engine, (_, word))| (engine, json!(word))));
        Value::Object(body)
    }

    /// Why the process cannot be of use now, a sentence each; empty when it can.
    pub fn not_ready(&self) -> Vec<String> {
        let parts = self.parts.lock();
        let faults = parts.iter().filter_map(|Part { kind, engine, state }| match state {
            State::Up => None,
            State::Starting => Some(format!("{engine} ({kind}): not connected yet")),
            State::Down { reason, since } => Some(format!("{engine} ({kind}): down since {since}: {reason}")),
        });
        let leaving = self.shutdown.has_begun().then(|| "shutting down".to_owned());
        leaving.into_iter().chain(faults).collect()
    }
}

impl Component {
    /// True when it was not up before.
    pub fn up(&self) -> bool {
        self.set(State::Up)
    }

    /// True when it was not down for this reason before. Keeps since when it has been down.
    pub fn down(&self, reason: impl Into<String>) -> bool {
        self.set(State::Down { reason: reason.into(), since: self.health.clock.now() })
    }

    pub fn is_up(&self) -> bool {
        self.health.parts.lock()[self.index].state == State::Up
    }

    fn set(&self, new: State) -> bool {
        let state = &mut self.health.parts.lock()[self.index].state;
        match (&mut *state, new) {
            (State::Down { reason: old, .. }, State::Down { reason, .. }) => {
                let changed = *old != reason;
                *old = reason;
                changed
            }
            (old, new) => {
                let changed = *old != new;
                *old = new;
                changed
            }
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Health {}", self.snapshot())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct At(Mutex<i64>);
    impl Clock for At {
        fn now(&self) -> Timestamp {
            let mut millis = self.0.lock();
            *millis += 1000;
            Timestamp::from_millis(*millis)
        }
    }

    fn health() -> Health {
        Health::new(Arc::new(At(Mutex::new(0))), Shutdown::default())
    }

    #[test]
    fn the_health_body_has_the_contracts_keys() {
        let health = health();
        for (kind, engine) in [("database", "postgres"), ("hot", "redis"), ("bus", "nats")] {
            health.component(kind, engine).up();
        }
        let body = json!({"status": "healthy", "postgres": "connected", "redis": "connected", "nats": "connected"});
        assert_eq!(health.snapshot(), body);
        assert_eq!(health.not_ready(), Vec::<String>::new());
    }

    #[test]
    fn an_engine_that_is_away_shows_while_the_process_stays_healthy() {
        let health = health();
        let database = health.component("database", "postgres");
        assert_eq!(health.snapshot()["postgres"], "connecting");
        assert_eq!(health.not_ready(), ["postgres (database): not connected yet"]);
        assert!(database.down("refused"));
        assert!(!database.down("refused"), "the same state was announced twice");
        assert!(database.down("no route"));
        assert_eq!(
            (&health.snapshot()["status"], &health.snapshot()["postgres"]),
            (&json!("healthy"), &json!("disconnected"))
        );
        assert_eq!(health.not_ready(), ["postgres (database): down since 1970-01-01T00:00:01.000Z: no route"]);
        assert!(database.up());
        assert!(health.not_ready().is_empty() && database.is_up());
    }

    #[test]
    fn of_two_parts_on_one_engine_the_worse_is_shown() {
        let health = health();
        health.component("database", "postgres").down("away");
        health.component("search", "postgres").up();
        assert_eq!(health.snapshot()["postgres"], "disconnected");
    }

    #[tokio::test]
    async fn a_process_that_is_leaving_is_not_ready() {
        let health = health();
        health.shutdown.begin("test");
        assert_eq!(health.not_ready(), ["shutting down"]);
    }
}
