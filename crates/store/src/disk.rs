//! SQLite's log on the disk.
//!
//! A transaction is committed into the log without waiting for the disk. A thread of its own syncs the log, once for all
//! that was committed meanwhile, and only then are their callers answered: so the next transaction is written while the
//! last one goes to the disk. What is answered is as safe as if every commit had waited; what is not answered yet can
//! be read a moment before it is safe.
//!
//! A disk that fails to sync may have dropped what it was given, and may say that all is well the next time. Whatever
//! was committed since is then answered as not known, and nothing more is written until the log has been folded into the
//! file, which syncs that (`Disk::failures`).

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use guildhall_domain::{Error, Result};
use tokio::sync::{mpsc, oneshot};

/// Batches that may wait for the disk: while one is synced another is written, and one more is answered for.
const WAITING_MAX: usize = 2;

/// What the caller of a write waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// It is on the disk.
    Kept,
    /// It is committed, and what was committed before it is on the disk. If the machine fails it may be lost: for what is
    /// simply done again then.
    Done,
}

/// Who waits for a batch, each with what became of it.
pub(crate) trait Waiting: Send + 'static {
    fn until(&self) -> Until;
    /// `disk`: why what was done may not be kept.
    fn answer(self, disk: Result<()>);
}

struct Committed<W> {
    waiting: W,
    /// Failures of the disk when its transaction began.
    failures: u64,
}

pub(crate) type Sync = Box<dyn FnMut() -> io::Result<()> + Send>;

pub(crate) struct Disk<W> {
    committed: mpsc::Sender<Committed<W>>,
    failures: Arc<AtomicU64>,
    ended: oneshot::Receiver<()>,
}

/// Syncs the log of this database. Opened each time: SQLite may have begun a new one. Where there is none, all is in
/// the file already, and synced.
pub(crate) fn log_of(database: &Path) -> Sync {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    Box::new(move || match File::open(&log) {
        Ok(log) => log.sync_data(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    })
}

impl<W: Waiting> Disk<W> {
    pub(crate) fn start(sync: Sync) -> Self {
        let (committed, waiting) = mpsc::channel(WAITING_MAX);
        let (end, ended) = oneshot::channel();
        let failures = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&failures);
        thread::Builder::new()
            .name("sqlite-disk".into())
            .spawn(move || {
                sync_all(waiting, &counted, sync);
                let _ = end.send(());
            })
            .expect("a process that cannot start a thread cannot start");
        Self { committed, failures, ended }
    }

    /// How often the disk has failed. What is written may stand on what it dropped, until the log is folded into the file.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    /// `failures`: as many as there were before the transaction began.
    pub(crate) async fn committed(&self, waiting: W, failures: u64) {
        if let Err(mpsc::error::SendError(lost)) = self.committed.send(Committed { waiting, failures }).await {
            // Nothing was refused: it is committed, and may or may not come to the disk.
            lost.waiting.answer(Err(not_known()));
        }
    }

    /// Once all that was committed is answered.
    pub(crate) async fn close(self) {
        drop(self.committed);
        // A panic of the thread has been seen by its callers.
        let _ = self.ended.await;
    }
}

fn sync_all<W: Waiting>(mut committed: mpsc::Receiver<Committed<W>>, failures: &AtomicU64, mut sync: Sync) {
    let answer = |committed: Committed<W>| {
        let stands = committed.failures == failures.load(Ordering::Acquire);
        committed.waiting.answer(if stands { Ok(()) } else { Err(not_known()) });
    };
    while let Some(first) = committed.blocking_recv() {
        let mut batches = vec![first];
        while let Ok(next) = committed.try_recv() {
            batches.push(next);
        }
        let kept = batches.iter().position(|committed| committed.waiting.until() == Until::Kept);
        batches.drain(..kept.unwrap_or(batches.len())).for_each(&answer);
        if batches.is_empty() {
            continue;
        }
        if let Err(error) = sync() {
            tracing::error!(%error, "the disk of the database failed to sync its log");
            failures.fetch_add(1, Ordering::AcqRel);
        }
        batches.into_iter().for_each(&answer);
    }
}

fn not_known() -> Error {
    Error::timeout(
        "the disk of the database failed while it stored this; whether it did is not known. Check the disk, then look, \
         or repeat the call if it is safe to repeat",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use guildhall_domain::ErrorCode;

    use super::*;

    struct Caller(Until, oneshot::Sender<Result<()>>);

    impl Waiting for Caller {
        fn until(&self) -> Until {
            self.0
        }

        fn answer(self, disk: Result<()>) {
            let _ = self.1.send(disk);
        }
    }

    /// A disk that syncs when it is told how that goes.
    fn told() -> (Disk<Caller>, std_mpsc::Sender<io::Result<()>>) {
        let (tell, told) = std_mpsc::channel();
        (Disk::start(Box::new(move || told.recv().expect("the test tells how it goes"))), tell)
    }

    async fn commit(disk: &Disk<Caller>, until: Until, failures: u64) -> oneshot::Receiver<Result<()>> {
        let (caller, answer) = oneshot::channel();
        disk.committed(Caller(until, caller), failures).await;
        answer
    }

    #[tokio::test]
    async fn nobody_is_answered_before_the_disk_has_what_he_waits_for() {
        let (disk, tell) = told();
        let early = commit(&disk, Until::Done, 0).await;
        assert_eq!(early.await.unwrap(), Ok(()), "nothing before it waits for the disk");
        let mut kept = commit(&disk, Until::Kept, 0).await;
        let mut done = commit(&disk, Until::Done, 0).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(kept.try_recv().is_err() && done.try_recv().is_err(), "the disk has not said a word");
        tell.send(Ok(())).unwrap();
        assert_eq!(kept.await.unwrap(), Ok(()));
        assert_eq!(done.await.unwrap(), Ok(()));
        disk.close().await;
    }

    #[tokio::test]
    async fn after_a_failure_nothing_that_was_written_upon_it_is_called_safe() {
        let (disk, tell) = told();
        let failed = commit(&disk, Until::Kept, 0).await;
        tell.send(Err(io::Error::other("the disk is gone"))).unwrap();
        assert_eq!(failed.await.unwrap().unwrap_err().code, ErrorCode::Timeout);
        assert_eq!(disk.failures(), 1);
        let upon_it = commit(&disk, Until::Kept, 0).await;
        tell.send(Ok(())).unwrap();
        assert_eq!(upon_it.await.unwrap().unwrap_err().code, ErrorCode::Timeout);
        let mended = commit(&disk, Until::Kept, 1).await;
        tell.send(Ok(())).unwrap();
        assert_eq!(mended.await.unwrap(), Ok(()));
    }
}
