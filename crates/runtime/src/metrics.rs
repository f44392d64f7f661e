//! The process' metrics, as Prometheus reads them.

use std::time::Duration;

use guildhall_domain::{Error, Result};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

use crate::Shutdown;

/// Upper bounds of every histogram, in seconds: from a call within the process to the longest deadline.
const SECONDS: [f64; 14] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];
/// Samples wait in memory until they are folded in; this bounds how many.
const FOLD_EVERY: Duration = Duration::from_secs(5);

/// The recorder is one a process, because the `metrics` macros know no other.
static INSTALLED: Mutex<Option<Metrics>> = Mutex::new(None);

#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder; later calls give the same one.
    pub fn install() -> Result<Self> {
        let mut installed = INSTALLED.lock();
        if let Some(metrics) = &*installed {
            return Ok(metrics.clone());
        }
        let handle = PrometheusBuilder::new()
            .set_buckets(&SECONDS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|e| Error::internal(format!("cannot install the metrics recorder: {e}")))?;
        Ok(installed.insert(Self(handle)).clone())
    }

    /// Prometheus text.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }

    /// Folds samples in even if nobody scrapes, until the shutdown.
    pub async fn keep(self, shutdown: Shutdown) -> Result<()> {
        loop {
            tokio::select! {
                () = shutdown.soft().cancelled() => return Ok(()),
                () = tokio::time::sleep(FOLD_EVERY) => self.0.run_upkeep(),
            }
        }
    }
}
