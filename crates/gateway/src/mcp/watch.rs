//! Who watches which resource, and the notifications that follow.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

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

/// What one session watches, on this replica. Another may have the session too: the request that subscribes comes in
/// there, the stream that tells of it is open here. So the list lies in the hot store, and a change of it is hinted.
pub(crate) struct Watched {
    hall: Arc<Hall>,
    uris: Mutex<BTreeSet<String>>,
    /// Whom to notify, and of which tenant's changes; known from `initialize` on.
    client: OnceLock<(Peer<RoleServer>, TenantId)>,
    notifier: Mutex<Option<JoinHandle<()>>>,
}

impl Watched {
    pub(crate) fn new(hall: Arc<Hall>) -> Self {
        Self { hall, uris: Mutex::default(), client: OnceLock::new(), notifier: Mutex::default() }
    }

    pub(crate) fn met(&self, peer: &Peer<RoleServer>, tenant: &TenantId) {
        // A session is initialized once; a second time changes nothing.
        let _ = self.client.set((peer.clone(), tenant.clone()));
    }

    pub(crate) async fn add(self: &Arc<Self>, session: &str, uri: String) -> Result<()> {
        Address::parse(&uri)?;
        self.reload(session).await;
        {
            let mut uris = self.uris.lock();
            if uris.len() >= BOUND && !uris.contains(&uri) {
                return Err(Error::invalid(format!(
                    "a session watches at most {BOUND} resources; unsubscribe from some"
                )));
            }
            uris.insert(uri);
        }
        self.notify();
        self.save(session).await;
        Ok(())
    }

    pub(crate) async fn remove(self: &Arc<Self>, session: &str, uri: &str) {
        self.reload(session).await;
        self.uris.lock().remove(uri);
        self.save(session).await;
    }

    /// Takes over what another replica has noted.
    pub(crate) async fn reload(self: &Arc<Self>, session: &str) {
        let Ok(Some(saved)) = self.hall.hot.get(&key(session)).await else { return };
        let Ok(uris) = serde_json::from_slice::<BTreeSet<String>>(&saved) else { return };
        let any = !uris.is_empty();
        *self.uris.lock() = uris;
        if any {
            self.notify();
        }
    }

    /// Losing the list costs a client of a killed replica its notifications, nothing else: it can subscribe again.
    async fn save(&self, session: &str) {
        let uris = serde_json::to_vec(&*self.uris.lock()).unwrap_or_default();
        if let Err(error) = self.hall.hot.put(&key(session), uris.into(), self.hall.session_idle).await {
            tracing::debug!(%error, "what a session watches was not kept for other replicas");
        }
    }

    /// One task a session, from its first subscription on.
    fn notify(self: &Arc<Self>) {
        let mut notifier = self.notifier.lock();
        let Some((peer, tenant)) = self.client.get().filter(|_| notifier.is_none()) else { return };
        let mut changes = Changes::of(&self.hall, tenant.clone());
        let (peer, watched) = (peer.clone(), Arc::downgrade(self));
        *notifier = Some(tokio::spawn(async move {
            while let Some(changed) = changes.next().await {
                let Some(watched) = watched.upgrade() else { return };
                let due: Vec<String> =
                    watched.uris.lock().iter().filter(|uri| changed.concerns(uri)).cloned().collect();
                drop(watched);
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

/// Serves one `subscriptions/listen` until it is cancelled or its caller shut out.
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
    tokio::select! {
        () = notify => {}
        () = context.cancelled() => {}
        () = hall.identity.shut_out(caller) => {}
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

fn key(session: &str) -> HotKey {
    HotKey::of_hall("mcp-watched", session)
}
