//! Sessions of clients before 2026-07-28: bound to the principal that began them, capped, ended after a while of
//! silence, and kept in the hot store, so that any replica can take one over. rmcp keeps the protocol's side of a
//! session; this keeps who owns it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::http::HeaderMap;
use bytes::Bytes;
use guildhall_domain::{
    Error, Principal, Result,
    ports::{Hot, hot::HotKey},
};
use parking_lot::Mutex;
use rmcp::transport::streamable_http_server::session::{SessionState, SessionStore, store::SessionStoreError};
use tokio_util::sync::CancellationToken;

/// A session in use is written to the hot store again after this part of its idle time, so that it does not expire
/// there.
const RENEW_AFTER: u32 = 6;
/// Sessions of one principal on one replica. A client that keeps opening new ones without closing them loses its
/// oldest, and nobody else's.
const PER_PRINCIPAL: usize = 256;
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Whose a session is. Roles and token may change while it lasts; the owner may not.
type Owner = String;

fn owner(principal: &Principal) -> Owner {
    format!("{}/{}/{}", principal.tenant, principal.kind.as_str(), principal.id)
}

pub(crate) fn session_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("mcp-session-id").and_then(|value| value.to_str().ok())
}

struct Live {
    owner: Owner,
    seen: Instant,
    renewed: Instant,
}

pub(crate) struct Sessions {
    hot: Arc<dyn Hot>,
    bound: usize,
    /// Silence after which a session is over, here and in the hot store.
    idle: Duration,
    live: Mutex<HashMap<String, Live>>,
}

impl Sessions {
    pub(crate) fn new(hot: Arc<dyn Hot>, bound: usize, idle: Duration) -> Self {
        Self { hot, bound, idle, live: Mutex::default() }
    }

    /// Room for one more session of this principal; gives the ids that had to go for it.
    pub(crate) fn make_room(&self, principal: &Principal) -> Result<Vec<String>> {
        let owner = owner(principal);
        let mut live = self.live.lock();
        let mut own: Vec<(Instant, String)> =
            live.iter().filter(|(_, s)| s.owner == owner).map(|(id, s)| (s.seen, id.clone())).collect();
        let excess = (own.len() + 1).saturating_sub(PER_PRINCIPAL);
        if live.len() >= self.bound {
            live.retain(|_, session| session.seen.elapsed() < self.idle);
        }
        if excess == 0 && live.len() >= self.bound {
            return Err(Error::unavailable(format!(
                "this gateway has {} sessions open, as many as it may; close one or repeat later",
                self.bound
            ))
            .with_retry_after(SWEEP_EVERY));
        }
        own.sort_unstable();
        let gone: Vec<String> = own.into_iter().take(excess).map(|(_, id)| id).collect();
        for id in &gone {
            live.remove(id);
        }
        Ok(gone)
    }

    pub(crate) async fn opened(&self, id: &str, principal: &Principal) {
        let owner = owner(principal);
        let now = Instant::now();
        self.live.lock().insert(id.to_owned(), Live { owner: owner.clone(), seen: now, renewed: now });
        if let Err(error) = self.hot.put(&owner_key(id), Bytes::from(owner), self.idle).await {
            tracing::debug!(%error, "a session was not kept for other replicas");
        }
    }

    /// Whether the session is there and this principal's. Someone else's looks like one that never was.
    pub(crate) async fn belongs(&self, id: &str, principal: &Principal) -> Result<bool> {
        let asking = owner(principal);
        let now = Instant::now();
        let known = self.live.lock().get_mut(id).map(|session| {
            if session.owner == asking {
                session.seen = now;
            }
            let renew = now.duration_since(session.renewed) >= self.idle / RENEW_AFTER;
            if renew {
                session.renewed = now;
            }
            (session.owner == asking, renew)
        });
        match known {
            Some((own, renew)) => {
                if own && renew {
                    self.renew(id, asking).await;
                }
                Ok(own)
            }
            None => self.taken_over(id, asking).await,
        }
    }

    /// A session that this replica does not know may be another's that is gone.
    async fn taken_over(&self, id: &str, asking: Owner) -> Result<bool> {
        let kept = self.hot.get(&owner_key(id)).await?;
        if kept.is_none_or(|owner| owner != asking) {
            return Ok(false);
        }
        let now = Instant::now();
        let mut live = self.live.lock();
        if live.len() >= self.bound {
            return Err(Error::unavailable("this gateway has as many sessions open as it may; repeat later")
                .with_retry_after(SWEEP_EVERY));
        }
        live.insert(id.to_owned(), Live { owner: asking, seen: now, renewed: now });
        Ok(true)
    }

    async fn renew(&self, id: &str, owner: Owner) {
        let mut kept = self.hot.put(&owner_key(id), Bytes::from(owner), self.idle).await;
        if let Ok(Some(state)) = self.hot.get(&state_key(id)).await {
            kept = kept.and(self.hot.put(&state_key(id), state, self.idle).await);
        }
        if let Err(error) = kept {
            tracing::debug!(%error, "a session was not renewed for other replicas");
        }
    }

    pub(crate) fn forget(&self, id: &str) {
        self.live.lock().remove(id);
    }

    pub(crate) async fn closed(&self, id: &str) {
        self.forget(id);
        let removed = self.hot.remove(&owner_key(id)).await.and(self.hot.remove(&state_key(id)).await);
        if let Err(error) = removed {
            tracing::debug!(%error, "an ended session stays in the hot store until it expires there");
        }
    }

    /// Forgets what has been silent; rmcp ends its side by itself after the same time.
    pub(crate) async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP_EVERY) => {}
                () = stop.cancelled() => return,
            }
            let count = {
                let mut live = self.live.lock();
                live.retain(|_, session| session.seen.elapsed() < self.idle);
                live.len()
            };
            metrics::gauge!("guildhall_mcp_sessions").set(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }
}

fn owner_key(id: &str) -> HotKey {
    HotKey::of_hall("mcp-owner", id)
}

fn state_key(id: &str) -> HotKey {
    HotKey::of_hall("mcp-session", id)
}

/// rmcp's side of a session in the hot store.
#[async_trait]
impl SessionStore for Sessions {
    async fn load(&self, id: &str) -> std::result::Result<Option<SessionState>, SessionStoreError> {
        match self.hot.get(&state_key(id)).await? {
            Some(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            None => Ok(None),
        }
    }

    async fn store(&self, id: &str, state: &SessionState) -> std::result::Result<(), SessionStoreError> {
        Ok(self.hot.put(&state_key(id), serde_json::to_vec(state)?.into(), self.idle).await?)
    }

    async fn delete(&self, id: &str) -> std::result::Result<(), SessionStoreError> {
        Ok(self.hot.remove(&state_key(id)).await?)
    }
}

#[cfg(test)]
mod tests {
    use guildhall_domain::{PrincipalKind, TenantId};
    use guildhall_testkit::clock::FixedClock;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn agent(id: &str) -> Principal {
        Principal::new(TenantId::default(), PrincipalKind::Agent, id, ["agent"])
    }

    fn hot() -> Arc<dyn Hot> {
        guildhall_hot::connect("memory:", Arc::new(FixedClock::default())).unwrap()
    }

    #[tokio::test]
    async fn someone_elses_session_looks_like_one_that_never_was() {
        let sessions = Sessions::new(hot(), 10, IDLE);
        sessions.opened("s", &agent("a")).await;
        assert!(sessions.belongs("s", &agent("a")).await.unwrap());
        assert!(!sessions.belongs("s", &agent("b")).await.unwrap());
        assert!(!sessions.belongs("t", &agent("b")).await.unwrap());
    }

    #[tokio::test]
    async fn another_replica_takes_a_session_over_for_its_owner_alone() {
        let hot = hot();
        Sessions::new(hot.clone(), 10, IDLE).opened("s", &agent("a")).await;
        let other = Sessions::new(hot, 10, IDLE);
        assert!(!other.belongs("s", &agent("b")).await.unwrap());
        assert!(other.belongs("s", &agent("a")).await.unwrap());
        other.closed("s").await;
        assert!(!other.belongs("s", &agent("a")).await.unwrap());
    }

    #[tokio::test]
    async fn a_principal_with_too_many_sessions_loses_its_own_oldest() {
        let sessions = Sessions::new(hot(), 10_000, IDLE);
        sessions.opened("of-b", &agent("b")).await;
        for n in 0..PER_PRINCIPAL {
            assert_eq!(sessions.make_room(&agent("a")).unwrap(), Vec::<String>::new());
            sessions.opened(&format!("{n}"), &agent("a")).await;
        }
        assert_eq!(sessions.make_room(&agent("a")).unwrap(), ["0"]);
        assert!(sessions.belongs("of-b", &agent("b")).await.unwrap());
    }

    #[tokio::test]
    async fn a_full_gateway_refuses_new_sessions_and_keeps_those_it_has() {
        let sessions = Sessions::new(hot(), 1, IDLE);
        sessions.opened("s", &agent("a")).await;
        let error = sessions.make_room(&agent("b")).unwrap_err();
        assert_eq!(error.code, guildhall_domain::ErrorCode::Unavailable);
        assert!(error.retry_after.is_some());
        assert!(sessions.belongs("s", &agent("a")).await.unwrap());
    }
}
