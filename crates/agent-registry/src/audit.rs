//! The sealer: gives what was recorded its place in each tenant's chain.
//!
//! A lease keeps it to one replica, to spare the others the work. Where two seal all the same, the chain's head lets
//! one of them and stops the other, so that without the hot store everyone may seal.

use std::{sync::Arc, time::Duration};

use guildhall_domain::{
    Entropy, Result,
    ports::{AuditStore, hot::HotKey, hot::LeaseOutcome},
};
use guildhall_guard::audit::seal_tenant;
use guildhall_runtime::Trouble;
use tokio_util::sync::CancellationToken;

use crate::hot::Brief;

/// How long a record may stand outside the chain.
const SEAL_EVERY: Duration = Duration::from_millis(500);
/// How late another replica takes over from one that died.
const LEASE: Duration = Duration::from_secs(5);

pub(crate) struct Sealer {
    pub(crate) store: Arc<dyn AuditStore>,
    pub(crate) hot: Arc<Brief>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// This process, as leases know it.
    pub(crate) holder: String,
}

impl Sealer {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let key = HotKey::of_hall("audit", "sealer");
        let mut trouble = Trouble::new("the audit chain is not sealed", self.entropy.clone());
        while !stop.is_cancelled() {
            let lease = self.hot.ask(|hot| hot.lease(&key, &self.holder, LEASE)).await;
            let wait = match lease {
                Some(LeaseOutcome::Taken { .. }) => SEAL_EVERY,
                Some(LeaseOutcome::Held { .. }) | None => match self.seal().await {
                    Ok(()) => {
                        trouble.is_over();
                        SEAL_EVERY
                    }
                    Err(error) => trouble.is(&error),
                },
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.hot.ask(|hot| hot.release(&key, &self.holder)).await;
    }

    async fn seal(&self) -> Result<()> {
        for tenant in self.store.unsealed_tenants().await? {
            seal_tenant(&*self.store, &tenant).await?;
        }
        Ok(())
    }
}
