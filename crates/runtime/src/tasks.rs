//! The named tasks of a process. None may die unseen: one that does takes the process down, with a failure.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use guildhall_domain::{Error, Result};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::Shutdown;

/// How long a stopped task may take to notice; one that never yields would otherwise hold the process.
const NOTICE: Duration = Duration::from_secs(1);

/// What the end of a task means. An error or a panic always takes the process down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Runs until the shutdown: to end before it takes the process down as well.
    Critical,
    /// Has an end of its own.
    MayFinish,
}

/// Cheap to clone; every clone holds the same tasks.
#[derive(Clone)]
pub struct Tasks {
    shutdown: Shutdown,
    tracker: TaskTracker,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Tasks {
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tracker: TaskTracker::new(), failures: Arc::default() }
    }

    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// The task is to end by itself when the soft shutdown begins, and is dropped when the hard one does.
    pub fn spawn(&self, name: &'static str, policy: Policy, task: impl Future<Output = Result<()>> + Send + 'static) {
        let tasks = self.clone();
        self.tracker.spawn(async move {
            let hard = tasks.shutdown.hard().clone();
            let ended = tokio::select! {
                ended = AssertUnwindSafe(task).catch_unwind() => ended,
                () = hard.cancelled() => return tasks.fail(format!("{name} did not finish in time and was stopped")),
            };
            tasks.judge(name, policy, ended);
        });
    }

    fn judge(&self, name: &str, policy: Policy, ended: Result<Result<()>, Box<dyn Any + Send>>) {
        match ended {
            Err(_panic) => self.fail(format!("{name} panicked")),
            Ok(Err(error)) => self.fail(format!("{name} failed: {error}")),
            Ok(Ok(())) if policy == Policy::Critical && !self.shutdown.has_begun() => {
                self.fail(format!("{name} ended, and the hall cannot do without it"));
            }
            Ok(Ok(())) => tracing::debug!(task = name, "{name} ended"),
        }
    }

    fn fail(&self, what: String) {
        tracing::error!("{what}");
        self.failures.lock().push(what.clone());
        self.shutdown.begin(what);
    }

    /// Waits for the shutdown and then for every task. An error names those that ended it, or did not end in order.
    pub async fn wait(self) -> Result<()> {
        self.shutdown.soft().cancelled().await;
        self.tracker.close();
        let hard = self.shutdown.hard().clone();
        let too_late = async {
            hard.cancelled().await;
            tokio::time::sleep(NOTICE).await;
        };
        tokio::select! {
            () = self.tracker.wait() => {}
            () = too_late => self.fail(format!("{} tasks could not be stopped", self.tracker.len())),
        }
        let failures = self.failures.lock();
        if failures.is_empty() { Ok(()) } else { Err(Error::internal(failures.join("; "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> Tasks {
        Tasks::new(Shutdown::with_grace(Duration::from_millis(50)))
    }

    async fn until_soft(shutdown: Shutdown) -> Result<()> {
        shutdown.soft().cancelled().await;
        Ok(())
    }

    async fn failure_of(tasks: Tasks) -> String {
        tokio::time::timeout(Duration::from_secs(5), tasks.wait())
            .await
            .expect("hangs")
            .unwrap_err()
            .message
            .into_owned()
    }

    #[tokio::test]
    async fn a_task_that_panics_takes_the_process_down_with_a_failure() {
        let tasks = tasks();
        tasks.spawn("steady", Policy::Critical, until_soft(tasks.shutdown().clone()));
        tasks.spawn("shaky", Policy::MayFinish, async { panic!("oh") });
        assert_eq!(failure_of(tasks).await, "shaky panicked");
    }

    #[tokio::test]
    async fn a_critical_task_that_ends_takes_the_process_down_with_a_failure() {
        let tasks = tasks();
        tasks.spawn("brief", Policy::Critical, async { Ok(()) });
        assert!(failure_of(tasks).await.starts_with("brief ended"));
    }

    #[tokio::test]
    async fn an_error_takes_the_process_down_and_is_named() {
        let tasks = tasks();
        tasks.spawn("importer", Policy::MayFinish, async { Err(Error::conflict("two of a kind")) });
        assert_eq!(failure_of(tasks).await, "importer failed: Conflict: two of a kind");
    }

    #[tokio::test]
    async fn an_ordered_end_is_no_failure_and_waits_for_what_is_in_flight() {
        let tasks = tasks();
        let finished = Arc::new(Mutex::new(false));
        let (shutdown, mark) = (tasks.shutdown().clone(), finished.clone());
        tasks.spawn("worker", Policy::Critical, async move {
            shutdown.soft().cancelled().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            *mark.lock() = true;
            Ok(())
        });
        tasks.spawn("once", Policy::MayFinish, async { Ok(()) });
        tasks.shutdown().begin("test");
        tasks.wait().await.unwrap();
        assert!(*finished.lock());
    }

    #[tokio::test]
    async fn a_task_that_will_not_end_is_stopped_after_the_grace_period() {
        let tasks = tasks();
        tasks.spawn("stubborn", Policy::Critical, std::future::pending());
        tasks.shutdown().begin("test");
        assert!(failure_of(tasks).await.starts_with("stubborn did not finish in time"));
    }
}
