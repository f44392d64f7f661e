//! Who watches which resource, and the notifications that follow. A session's list is kept in the hot store beside
//! the session, so that another replica can take it over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use guildhall_domain::{Error, Result, TenantId, ports::hot::HotKey};
use parking_lot::Mutex;
use rmcp::{
    Peer, RoleServer,
    model::{ResourceUpdatedNotificationParam, SubscriptionFilter},
    service::SubscriptionContext,
};
use tokio::{sync::broadcast::error::RecvError, task::JoinHandle};

use crate::{
    hall::{AgentChanged, Hall},
    identity::Caller,
    resources::Address,
};

/// Resources that one session may watch.
const BOUND: usize = 1_000;
/// An agent that changes often is notified about at most this often.
const DAMPING: Duration = Duration::from_millis(100);

type Uris = Arc<Mutex<BTreeSet<String>>>;

/// What one session watches.
pub(crate) struct Watched {
    hall: Arc<Hall>,
    uris: Uris,
    notifier: Mutex<Option<JoinHandle<()>>>,
}

impl Watched {
    pub(crate) fn new(hall: Arc<Hall>) -> Self {
        Self { hall, uris: Arc::default(), notifier: Mutex::default() }
    }

    pub(crate) async fn add(&self, caller: &Caller, session: &str, uri: String, peer: &Peer<RoleServer>) -> Result<()> {
        Address::parse(&uri)?;
        {
            let mut uris = self.uris.lock();
            if uris.len() >= BOUND && !uris.contains(&uri) {
                return Err(Error::invalid(format!(
                    "a session watches at most {BOUND} resources; unsubscribe from some"
                )));
            }
            uris.insert(uri);
        }
        self.notify(caller, peer);
        self.save(caller, session).await;
        Ok(())
    }

    pub(crate) async fn remove(&self, caller: &Caller, session: &str, uri: &str) {
        self.uris.lock().remove(uri);
        self.save(caller, session).await;
    }

    pub(crate) async fn restore(&self, caller: &Caller, session: &str, peer: &Peer<RoleServer>) {
        let Ok(Some(saved)) = self.hall.hot.get(&key(&caller.principal.tenant, session)).await else { return };
        let Ok(uris) = serde_json::from_slice::<BTreeSet<String>>(&saved) else { return };
        *self.uris.lock() = uris;
        self.notify(caller, peer);
    }

    /// Losing the list costs a client of a killed replica its notifications, nothing else: it can subscribe again.
    async fn save(&self, caller: &Caller, session: &str) {
        let uris = serde_json::to_vec(&*self.uris.lock()).unwrap_or_default();
        let key = key(&caller.principal.tenant, session);
        if let Err(error) = self.hall.hot.put(&key, uris.into(), self.hall.session_idle).await {
            tracing::debug!(%error, "what a session watches was not kept for other replicas");
        }
    }

    /// One task a session, from its first subscription on.
    fn notify(&self, caller: &Caller, peer: &Peer<RoleServer>) {
        let mut notifier = self.notifier.lock();
        if notifier.is_some() {
            return;
        }
        let (uris, peer, hall) = (self.uris.clone(), peer.clone(), self.hall.clone());
        let tenant = caller.principal.tenant.clone();
        *notifier = Some(tokio::spawn(async move {
            let mut changes = Changes::of(&hall, tenant);
            while let Some(changed) = changes.next().await {
                let due: Vec<String> = uris.lock().iter().filter(|uri| changed.concerns(uri)).cloned().collect();
                for uri in due {
                    let param = ResourceUpdatedNotificationParam::new(uri);
                    if peer.notify_resource_updated(param).await.is_err() {
                        return;
                    }
                }
            }
        }));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(notifier) = self.notifier.get_mut().take() {
            notifier.abort();
        }
    }
}

/// Serves one `subscriptions/listen` until it is cancelled or its caller's token ends.
pub(crate) async fn listen(hall: &Hall, caller: &Caller, context: &SubscriptionContext) {
    let accepted: &SubscriptionFilter = context.accepted();
    let uris = accepted.resource_subscriptions.clone().unwrap_or_default();
    let mut changes = Changes::of(hall, caller.principal.tenant.clone());
    let notify = async {
        while let Some(changed) = changes.next().await {
            for uri in uris.iter().filter(|uri| changed.concerns(uri)) {
                if context.sink().notify_resource_updated(uri.clone()).await.is_err() {
                    return;
                }
            }
        }
    };
    let token_ends = async {
        match caller.expires_at {
            Some(at) => tokio::time::sleep(at.since(hall.clock.now())).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = notify => {}
        () = context.cancelled() => {}
        () = token_ends => {}
    }
}

/// What has changed since the last look: some agents, or, after falling behind, perhaps everything.
enum Changed {
    Agents(Vec<AgentChanged>),
    Anything,
}

impl Changed {
    fn concerns(&self, uri: &str) -> bool {
        match (self, Address::parse(uri)) {
            (_, Err(_)) => false,
            (Self::Anything, Ok(_)) => true,
            (Self::Agents(agents), Ok(address)) => agents.iter().any(|changed| address.is_about(changed)),
        }
    }
}

/// The changes of one tenant, gathered for [`DAMPING`] at a time so that a busy agent is no storm.
struct Changes {
    tenant: TenantId,
    receiver: tokio::sync::broadcast::Receiver<AgentChanged>,
}

impl Changes {
    fn of(hall: &Hall, tenant: TenantId) -> Self {
        Self { tenant, receiver: hall.agents_changed.subscribe() }
    }

    /// `None` when the gateway stops.
    async fn next(&mut self) -> Option<Changed> {
        loop {
            let first = match self.receiver.recv().await {
                Ok(changed) if changed.tenant == self.tenant => changed,
                Ok(_) => continue,
                Err(RecvError::Lagged(_)) => return Some(Changed::Anything),
                Err(RecvError::Closed) => return None,
            };
            tokio::time::sleep(DAMPING).await;
            let mut agents = vec![first];
            while let Ok(changed) = self.receiver.try_recv() {
                if changed.tenant == self.tenant && !agents.contains(&changed) {
                    agents.push(changed);
                }
            }
            return Some(Changed::Agents(agents));
        }
    }
}

fn key(tenant: &TenantId, session: &str) -> HotKey {
    HotKey::new("mcp-watched", tenant, session)
}
