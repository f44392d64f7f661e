//! The gateway's copy of the access view: which keys sign, which tokens ended, who is paused.
//!
//! It is fetched every second, so that a revocation is honoured within the 5 s of the contract with room for a slow
//! registry. A copy older than that judges nobody: the hall then says that it cannot tell, rather than let a revoked
//! token in.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use guildhall_domain::{AccessView, Call, Error, Principal, Result, TenantId, ports::AgentRegistry};
use guildhall_runtime::Component;
use tokio_util::sync::CancellationToken;

const REFRESH_EVERY: Duration = Duration::from_secs(1);
const CATCH_UP_EVERY: Duration = Duration::from_millis(250);
const KEY_TRAVELS: Duration = Duration::from_secs(2);
const SAY_AFTER: Duration = Duration::from_secs(2);
/// At the start, when there is nothing yet to judge with.
const REFRESH_FIRST: Duration = Duration::from_millis(20);
/// A revocation takes hold within 5 s: a registry that has lost its database answers from memory for 1.5 s of them.
const GOOD_FOR: Duration = Duration::from_secs(3);

struct Fetched {
    view: Arc<AccessView>,
    at: Instant,
}

pub(crate) struct Access {
    registry: Arc<dyn AgentRegistry>,
    newest: ArcSwapOption<Fetched>,
    health: Component,
    catching_up: tokio::sync::Mutex<()>,
}

impl Access {
    /// `health`: whether the registry answers, which is noticed here first.
    pub(crate) fn new(registry: Arc<dyn AgentRegistry>, health: Component) -> Self {
        Self { registry, newest: ArcSwapOption::empty(), health, catching_up: tokio::sync::Mutex::default() }
    }

    pub(crate) fn view(&self) -> Result<Arc<AccessView>> {
        match self.newest.load().as_deref() {
            Some(fetched) if fetched.at.elapsed() <= GOOD_FOR => Ok(fetched.view.clone()),
            Some(_) => Err(Error::unavailable(
                "the hall cannot tell at the moment whether tokens are still good: agent-registry has not answered \
                 for 3 s; repeat in a few seconds",
            )
            .with_retry_after(REFRESH_EVERY)),
            None => Err(Error::unavailable("the hall is starting: it has not read its keys yet; repeat in a second")
                .with_retry_after(REFRESH_EVERY)),
        }
    }

    pub(crate) async fn refresh(&self) -> Result<()> {
        let known = self.newest.load().as_deref().map(|fetched| fetched.view.clone());
        let call = Call::within(Principal::hall(TenantId::default(), "gateway"), GOOD_FOR);
        // Taken before the question: what the answer does not know yet counts from there.
        let at = Instant::now();
        let newer = self.registry.access(&call, known.as_ref().map(|view| view.version)).await?;
        if let Some(view) = newer.map(Arc::new).or(known) {
            self.newest.store(Some(Arc::new(Fetched { view, at })));
        }
        Ok(())
    }

    /// Looks for a view that `knows`, for as long as a new key may take to get here: a second to the registry, one to
    /// this gateway. At most four questions a second, however many ask.
    pub(crate) async fn catch_up(&self, knows: impl Fn(&AccessView) -> bool) -> Result<Option<Arc<AccessView>>> {
        let until = Instant::now() + KEY_TRAVELS;
        loop {
            let turn = self.catching_up.lock().await;
            let view = self.view()?;
            if knows(&view) {
                return Ok(Some(view));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            tokio::time::sleep(CATCH_UP_EVERY).await;
            // A registry that is away is what the view's age tells.
            let _ = self.refresh().await;
            drop(turn);
        }
    }

    pub(crate) async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let (mut failing, mut said) = (None, false);
        loop {
            match self.refresh().await {
                Ok(()) => {
                    self.health.up();
                    failing = None;
                    said = false;
                }
                Err(error) => {
                    self.health.down(error.message.clone());
                    let since = *failing.get_or_insert_with(Instant::now);
                    // A moment's failure is a start or a restart; health tells of it, the log need not.
                    if since.elapsed() >= SAY_AFTER && !said {
                        tracing::warn!(%error, "cannot read the access view; tokens are refused once it is 3 s old");
                        said = true;
                    }
                }
            }
            let next = if self.newest.load().is_none() { REFRESH_FIRST } else { REFRESH_EVERY };
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}
