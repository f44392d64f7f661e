//! Who watches which resource, and the notifications that follow.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

use guildhall_domain::{AgentId, Call, Error, Principal, Result, TenantId, mail::Mailbox, ports::hot::HotKey};
use parking_lot::Mutex;
use rmcp::{
    Peer, RoleServer,
    model::{ResourceUpdatedNotificationParam, SubscriptionFilter},
    service::SubscriptionContext,
};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::JoinHandle,
};

use crate::{
    hall::{AgentChanged, Hall, MailWaiting},
    identity::Caller,
    resources::Address,
};

/// Resources that one session may watch.
const BOUND: usize = 1_000;
/// An agent that changes often is notified about at most this often.
const DAMPING: Duration = Duration::from_millis(100);
/// The registry knows an agent's pool by heart.
const LOOKING_UP_TIME: Duration = Duration::from_secs(2);

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

    pub(crate) async fn add(self: &Arc<Self>, caller: &Principal, session: &str, uri: String) -> Result<()> {
        Address::parse(&uri)?.may_watch(&self.hall, caller)?;
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
        let mut changes = Changes::of(self.hall.clone(), tenant.clone());
        let (peer, watched) = (peer.clone(), Arc::downgrade(self));
        *notifier = Some(tokio::spawn(async move {
            while let Some(changed) = changes.next().await {
                let Some(watched) = watched.upgrade() else { return };
                let uris: Vec<String> = watched.uris.lock().iter().cloned().collect();
                drop(watched);
                for uri in changes.due(&changed, uris).await {
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
pub(crate) async fn listen(hall: &Arc<Hall>, caller: &Caller, context: &SubscriptionContext) {
    let accepted: &SubscriptionFilter = context.accepted();
    let mut uris = accepted.resource_subscriptions.clone().unwrap_or_default();
    uris.retain(|uri| Address::parse(uri).is_ok_and(|address| address.may_watch(hall, &caller.principal).is_ok()));
    let mut changes = Changes::of(hall.clone(), caller.principal.tenant.clone());
    let notify = async {
        while let Some(changed) = changes.next().await {
            for uri in changes.due(&changed, uris.clone()).await {
                if context.sink().notify_resource_updated(uri).await.is_err() {
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

/// What has changed since the last look: some agents and mailboxes, or, after falling behind, perhaps everything.
enum Changed {
    Some { agents: Vec<AgentId>, mailboxes: Vec<Mailbox> },
    Anything,
}

/// The changes of one tenant, gathered for [`DAMPING`] at a time so that a busy agent is no storm.
struct Changes {
    hall: Arc<Hall>,
    tenant: TenantId,
    agents: Receiver<AgentChanged>,
    mail: Receiver<MailWaiting>,
}

impl Changes {
    fn of(hall: Arc<Hall>, tenant: TenantId) -> Self {
        let (agents, mail) = (hall.agents_changed.subscribe(), hall.mail_waiting.subscribe());
        Self { hall, tenant, agents, mail }
    }

    /// `None` when the gateway stops.
    async fn next(&mut self) -> Option<Changed> {
        let (mut agents, mut mailboxes) = (Vec::new(), Vec::new());
        while agents.is_empty() && mailboxes.is_empty() {
            let fell_behind = tokio::select! {
                changed = self.agents.recv() => self.note_agent(changed, &mut agents),
                waiting = self.mail.recv() => self.note_mail(waiting, &mut mailboxes),
            };
            match fell_behind {
                Ok(()) => {}
                Err(RecvError::Lagged(_)) => return Some(Changed::Anything),
                Err(RecvError::Closed) => return None,
            }
        }
        tokio::time::sleep(DAMPING).await;
        while let Ok(changed) = self.agents.try_recv() {
            let _ = self.note_agent(Ok(changed), &mut agents);
        }
        while let Ok(waiting) = self.mail.try_recv() {
            let _ = self.note_mail(Ok(waiting), &mut mailboxes);
        }
        Some(Changed::Some { agents, mailboxes })
    }

    fn note_agent(&self, changed: Result<AgentChanged, RecvError>, agents: &mut Vec<AgentId>) -> Result<(), RecvError> {
        let changed = changed?;
        if changed.tenant == self.tenant && !agents.contains(&changed.agent_id) {
            agents.push(changed.agent_id);
        }
        Ok(())
    }

    fn note_mail(&self, waiting: Result<MailWaiting, RecvError>, known: &mut Vec<Mailbox>) -> Result<(), RecvError> {
        let waiting = waiting?;
        if waiting.tenant == self.tenant {
            for mailbox in &*waiting.mailboxes {
                if !known.contains(mailbox) {
                    known.push(mailbox.clone());
                }
            }
        }
        Ok(())
    }

    /// Those of the resources that the change is about.
    async fn due(&self, changed: &Changed, uris: Vec<String>) -> Vec<String> {
        let mut due = Vec::new();
        for uri in uris {
            let concerned = match (changed, Address::parse(&uri)) {
                (_, Err(_)) => false,
                (Changed::Anything, Ok(_)) => true,
                (Changed::Some { agents, .. }, Ok(Address::AgentStatus(agent))) => agents.contains(&agent),
                (Changed::Some { mailboxes, .. }, Ok(Address::AgentInbox(agent))) => {
                    self.has_mail(agent, mailboxes).await
                }
            };
            if concerned {
                due.push(uri);
            }
        }
        due
    }

    /// An agent's inbox is its own mailbox and its pool's.
    async fn has_mail(&self, agent: AgentId, mailboxes: &[Mailbox]) -> bool {
        let is_own = |mailbox: &Mailbox| matches!(mailbox, Mailbox::Agent(own) if *own == agent);
        if mailboxes.iter().any(is_own) {
            return true;
        }
        if !mailboxes.iter().any(|mailbox| matches!(mailbox, Mailbox::Pool(_))) {
            return false;
        }
        let call = Call::within(Principal::hall(self.tenant.clone(), "gateway"), LOOKING_UP_TIME);
        let agent = self.hall.registry.get(&call, &agent).await;
        let pool = agent.ok().and_then(|agent| agent.pool.clone().map(Mailbox::Pool));
        pool.is_some_and(|pool| mailboxes.contains(&pool))
    }
}

fn key(session: &str) -> HotKey {
    HotKey::of_hall("mcp-watched", session)
}
