//! Which tokens are good, and the key that signs new ones: a copy of what the database has, a second old at most.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use guildhall_domain::{
    AccessView, AuditEntry, Clock, Entropy, Error, ErrorCode, IssuedToken, Principal, Result, TenantId, TokenRequest,
    ports::{AgentStore, agent_store::AccessRows},
};
use guildhall_guard::{
    KeyRing,
    token::{self, SigningPair},
};
use guildhall_runtime::Trouble;
use serde_json::json;
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// An older copy is not handed out: gateways keep theirs for up to 5 s from the answer, and that is all the contract
/// gives a revocation.
const GOOD_FOR: Duration = Duration::from_millis(1_500);
/// Tokens outlive a rotation for this long at most: a year, the longest that anyone plans ahead.
const OVERLAP_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
/// Replicas that start at once race for the first key; the second look finds the winner's.
const LOOKS_FOR_A_KEY: usize = 3;

pub(crate) struct Access {
    store: Arc<dyn AgentStore>,
    ring: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    token_ttl: Duration,
    copy: ArcSwapOption<Copy>,
    refreshing: Mutex<()>,
    pub(crate) changed: Notify,
}

/// What the database said at `read_at`.
#[derive(Clone)]
pub(crate) struct Copy {
    view: Arc<AccessView>,
    signer: Arc<SigningPair>,
    read_at: Instant,
}

impl Access {
    pub(crate) fn new(
        store: Arc<dyn AgentStore>,
        ring: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        token_ttl: Duration,
    ) -> Self {
        let (copy, refreshing, changed) = (ArcSwapOption::empty(), Mutex::default(), Notify::new());
        Self { store, ring, clock, entropy, token_ttl, copy, refreshing, changed }
    }

    /// `None` when `known` is the newest version.
    pub(crate) async fn newer_than(&self, known: Option<u64>) -> Result<Option<AccessView>> {
        let copy = self.fresh().await?;
        Ok((known != Some(copy.view.version)).then(|| (*copy.view).clone()))
    }

    /// The copy, read again if it is too old to be acted upon.
    pub(crate) async fn fresh(&self) -> Result<Arc<Copy>> {
        match self.copy.load_full() {
            Some(copy) if copy.read_at.elapsed() <= GOOD_FOR => Ok(copy),
            _ => self.refresh().await,
        }
    }

    /// After an own change. Readers that come later see it; if it fails, they read for themselves.
    pub(crate) async fn refresh_soon(&self) {
        if let Err(error) = self.refresh().await {
            tracing::debug!(%error, "the access view was not read again after a change");
            self.changed.notify_one();
        }
    }

    pub(crate) async fn refresh(&self) -> Result<Arc<Copy>> {
        let _one_at_a_time = self.refreshing.lock().await;
        // Taken before the question: what the answer does not know counts from there.
        let read_at = Instant::now();
        let before = self.copy.load_full();
        let known = before.as_ref().map(|copy| copy.view.version);
        let rows = self.store.access(known, self.clock.now()).await?;
        let copy = match (rows, before) {
            (None, Some(before)) => Copy { read_at, ..(*before).clone() },
            (None, None) => {
                return Err(Error::internal("the database gave no access view; see that its schema is whole"));
            }
            (Some(rows), before) => {
                let signs_now = rows.keys.iter().find(|key| key.retires_at.is_none());
                let signer = match before.map(|copy| copy.signer.clone()) {
                    Some(signer) if signs_now.is_some_and(|key| key.key_id == signer.public().key_id) => signer,
                    _ => Arc::new(self.signer().await?),
                };
                // The first key is newer than the rows; the next look has it in the view.
                Copy { view: Arc::new(view(rows)), signer, read_at }
            }
        };
        let copy = Arc::new(copy);
        self.copy.store(Some(copy.clone()));
        Ok(copy)
    }

    /// The key that signs now; the hall's first one is made here.
    async fn signer(&self) -> Result<SigningPair> {
        for _ in 0..LOOKS_FOR_A_KEY {
            let keys = self.store.signing_keys(self.clock.now()).await?;
            if let Some(sealed) = keys.iter().find(|key| key.public.retires_at.is_none()) {
                return SigningPair::open(&self.ring, sealed);
            }
            let hall = Principal::hall(TenantId::default(), crate::SERVICE);
            match self.replace_key(&hall, None, Duration::ZERO).await {
                Err(error) if error.code != ErrorCode::Conflict => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Err(Error::unavailable("the hall has no key to sign tokens with yet; repeat in a second"))
    }

    pub(crate) async fn rotate(&self, by: &Principal, overlap: Duration) -> Result<()> {
        if overlap > OVERLAP_MAX {
            return Err(Error::invalid("the overlap of two signing keys is a year at most"));
        }
        let now = self.fresh().await?;
        self.replace_key(by, Some(&now.signer.public().key_id), overlap).await.map_err(|error| match error.code {
            ErrorCode::Conflict => {
                Error::conflict("the signing key was replaced by someone else just now; look before you rotate again")
            }
            _ => error,
        })?;
        self.refresh_soon().await;
        Ok(())
    }

    async fn replace_key(&self, by: &Principal, expected: Option<&str>, overlap: Duration) -> Result<()> {
        let pair = SigningPair::generate(&*self.clock, &*self.entropy);
        let sealed = pair.seal(&self.ring, &*self.entropy);
        let key_id = &sealed.public.key_id;
        let body =
            json!({ "replaces": expected, "overlap_ms": u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX) });
        let audit = AuditEntry::done(by, self.clock.now(), "signing_key.rotate", format!("signing_key:{key_id}"), body);
        self.store.add_signing_key(&sealed, expected, overlap, audit).await
    }

    pub(crate) async fn keep_fresh(&self, stop: CancellationToken) {
        let mut trouble = Trouble::new("keys and revocations cannot be read from the database", self.entropy.clone());
        loop {
            let wait = match self.refresh().await {
                Ok(_) => {
                    trouble.is_over();
                    REFRESH_EVERY
                }
                Err(error) => trouble.is(&error),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// `epoch`: the agent's, 0 for persons and services.
    pub(crate) fn mint(&self, copy: &Copy, request: &TokenRequest, epoch: u32) -> Result<IssuedToken> {
        token::mint(&copy.signer, request, epoch, self.token_ttl, &*self.clock, &*self.entropy)
    }
}

impl Copy {
    /// The first epoch that is still good; of agents that were removed as well.
    pub(crate) fn epoch(&self, tenant: &TenantId, agent: &guildhall_domain::AgentId) -> u32 {
        self.view.epochs.get(&(tenant.clone(), agent.clone())).copied().unwrap_or(0)
    }
}

fn view(rows: AccessRows) -> AccessView {
    let AccessRows { version, keys, revoked, epochs, paused } = rows;
    AccessView {
        version,
        keys,
        revoked: revoked.into_iter().collect(),
        epochs: epochs.into_iter().map(|(tenant, agent, epoch)| ((tenant, agent), epoch)).collect(),
        paused: paused.into_iter().map(|(tenant, agent, reason)| ((tenant, agent), reason.into())).collect(),
    }
}
