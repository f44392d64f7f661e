//! Group commit: writes that arrive while a commit is under way share the next one.
//!
//! One task owns the writing. It takes what is queued, runs it in one transaction with a savepoint for each write, so
//! that one which fails is undone alone, commits once, and only then answers. A commit costs an fsync however much it
//! holds: 64 callers at once pay for one, not for 64. Where the engine leaves the fsync to this program (`disk.rs`), the
//! next batch is written while the last one is synced.
//!
//! An engine that lets many write at once also takes a write apart: in a transaction of its own, beside the others.
//! What locks rows in an order of its own goes there, for in a transaction of unlike writes it would have none.

use std::{
    mem,
    panic::AssertUnwindSafe,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use guildhall_domain::{Error, ErrorCode, Result};
use parking_lot::Mutex;
use sqlx::{Connection, Database, Pool, Transaction, pool::PoolConnection};
use tokio::{
    runtime,
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::{
    disk::{Disk, Sync, Until, Waiting},
    failure::{Failure, at_commit, silent, without_effect},
};

/// Writes that may wait: some seconds of work for either engine. More are refused, for they would time out anyway.
const QUEUE_MAX: usize = 4_096;
/// Writes that share a commit: beyond this the fsync's share of each is nothing any more, only the wait grows.
const BATCH_MAX: usize = 256;
/// How long a batch may take, the engine's own limits included; well within the 30 s of a call.
const BATCH: Duration = Duration::from_secs(12);
/// How long a write may wait for what is before it, for its batch and for the disk.
const ANSWER: Duration = Duration::from_secs(25);
/// A connection that has been idle for longer is asked whether it still lives before it is used.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

type Work<C, T> = Box<dyn for<'c> FnOnce(&'c mut C) -> BoxFuture<'c, Result<T, Failure>> + Send>;

/// A write that waits, its result's type forgotten.
trait Queued<C>: Send {
    /// Nobody waits for it any more.
    fn is_abandoned(&self) -> bool;
    fn until(&self) -> Until;
    /// Does it, and keeps what it gave. The outcome stands only once it is committed.
    fn run<'a>(&'a mut self, connection: &'a mut C) -> BoxFuture<'a, Result<(), Failure>>;
    fn answer(self: Box<Self>, outcome: Result<()>);
}

struct Write<C, T> {
    work: Option<Work<C, T>>,
    done: Option<T>,
    until: Until,
    caller: oneshot::Sender<Result<T>>,
}

impl<C: Send, T: Send> Queued<C> for Write<C, T> {
    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
    }

    fn until(&self) -> Until {
        self.until
    }

    fn run<'a>(&'a mut self, connection: &'a mut C) -> BoxFuture<'a, Result<(), Failure>> {
        let work = self.work.take().expect("a write is run once");
        Box::pin(async move {
            self.done = Some(work(connection).await?);
            Ok(())
        })
    }

    fn answer(self: Box<Self>, outcome: Result<()>) {
        let Self { done, caller, .. } = *self;
        // The caller may have gone while the commit was under way.
        let _ = caller.send(outcome.map(|()| done.expect("a write that succeeded has run")));
    }
}

/// Writes that were done together, and what became of each.
struct Done<C>(Vec<(Box<dyn Queued<C>>, Result<()>)>);

impl<C> Done<C> {
    fn answer(self) {
        self.0.into_iter().for_each(|(write, outcome)| write.answer(outcome));
    }
}

impl<C: 'static> Waiting for Done<C> {
    fn until(&self) -> Until {
        let is_to_be_kept =
            |(write, outcome): &(Box<dyn Queued<C>>, _)| Result::is_ok(outcome) && write.until() == Until::Kept;
        if self.0.iter().any(is_to_be_kept) { Until::Kept } else { Until::Done }
    }

    fn answer(self, disk: Result<()>) {
        Self(self.0.into_iter().map(|(write, outcome)| (write, outcome.and(disk.clone()))).collect()).answer();
    }
}

/// How a transaction of an engine starts.
#[derive(Clone, Copy)]
pub(crate) struct Begin {
    pub(crate) kept: &'static str,
    /// When nobody waits until it is on the disk.
    pub(crate) done: &'static str,
}

/// A connection to write on, kept from batch to batch: the pool would ask it for a sign of life before and after each.
struct Link<DB: Database> {
    engine: &'static str,
    pool: Pool<DB>,
    begin: Begin,
    connection: Option<(PoolConnection<DB>, Instant)>,
}

impl<DB: Database> Link<DB> {
    fn new(engine: &'static str, pool: Pool<DB>, begin: Begin) -> Self {
        Self { engine, pool, begin, connection: None }
    }

    /// Kept only by whoever has no trouble with it.
    async fn connection(&mut self) -> Result<PoolConnection<DB>> {
        if let Some((mut connection, used)) = self.connection.take() {
            if used.elapsed() < FRESH || connection.ping().await.is_ok() {
                return Ok(connection);
            }
            drop(connection.detach());
        }
        self.pool.acquire().await.map_err(|error| without_effect(self.engine, &error))
    }

    /// Never without an answer for each.
    async fn write(&mut self, mut batch: Vec<Box<dyn Queued<DB::Connection>>>) -> Done<DB::Connection> {
        let committed = match timeout(BATCH, self.connection()).await.unwrap_or_else(|_| Err(silent(self.engine))) {
            Ok(mut connection) => {
                let all_done = batch.iter().all(|write| write.until() == Until::Done);
                let begin = if all_done { self.begin.done } else { self.begin.kept };
                let commit = commit_batch::<DB>(self.engine, &mut connection, begin, &mut batch);
                let committed = timeout(BATCH, commit).await.unwrap_or_else(|_| Err(silent(self.engine)));
                match committed {
                    Ok(_) => self.connection = Some((connection, Instant::now())),
                    // Whatever state the engine left it in, nobody meets it again.
                    Err(_) => drop(connection.detach()),
                }
                committed
            }
            Err(error) => Err(error),
        };
        match committed {
            Ok(outcomes) => Done(batch.into_iter().zip(outcomes).collect()),
            Err(error) => Done(batch.into_iter().map(|write| (write, Err(error.clone()))).collect()),
        }
    }
}

type Queue<DB> = mpsc::Sender<Box<dyn Queued<<DB as Database>::Connection>>>;

/// Where writes apart are made.
struct Apart<DB: Database> {
    /// Those that nobody writes on. As many at most as there is room.
    links: Mutex<Vec<Link<DB>>>,
    /// As many at once, the others wait.
    room: Semaphore,
    at_once: u32,
}

/// An engine's own log, whose way to the disk is this program's.
pub(crate) struct Log<DB: Database> {
    pub(crate) sync: Sync,
    /// Brings what is in the log into the database's file, and empties it.
    pub(crate) fold: for<'c> fn(&'c mut DB::Connection) -> BoxFuture<'c, Result<(), Failure>>,
}

/// The way in for writes. Ends, after what is queued, when it is closed or dropped.
pub(crate) struct Writer<DB: Database> {
    open: Mutex<Option<(Queue<DB>, oneshot::Receiver<()>)>>,
    apart: Option<Arc<Apart<DB>>>,
}

impl<DB: Database> Writer<DB> {
    /// For an engine with one writer, whose log `log` is. It has a thread of its own: SQLite answers from another, for
    /// each statement, and a busy runtime would be slow to hear it.
    pub(crate) fn start_alone(engine: &'static str, pool: Pool<DB>, begin: Begin, log: Log<DB>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let (end, ended) = oneshot::channel();
        let write_all = move || {
            let runtime = runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.expect("a process that cannot have a timer cannot start");
            runtime.block_on(write_alone(Link::new(engine, pool, begin), log, waiting));
            let _ = end.send(());
        };
        let started = thread::Builder::new().name("sqlite-writer".into()).spawn(write_all);
        started.expect("a process that cannot start a thread cannot start");
        Self { open: Mutex::new(Some((queue, ended))), apart: None }
    }

    /// For an engine that takes `at_once` writes apart beside those that share commits.
    pub(crate) fn start(engine: &'static str, pool: Pool<DB>, begin: Begin, at_once: u32) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let (end, ended) = oneshot::channel();
        let shared = Link::new(engine, pool.clone(), begin);
        tokio::spawn(async move {
            write_shared(shared, waiting).await;
            let _ = end.send(());
        });
        let links = (0..at_once).map(|_| Link::new(engine, pool.clone(), begin)).collect();
        let apart = Apart { links: Mutex::new(links), room: Semaphore::new(at_once as usize), at_once };
        Self { open: Mutex::new(Some((queue, ended))), apart: Some(Arc::new(apart)) }
    }

    pub(crate) async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, Failure>> + Send + 'static,
    {
        self.write_until(Until::Kept, work).await
    }

    async fn write_until<T, W>(&self, until: Until, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, Failure>> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let write = Box::new(Write { work: Some(Box::new(work)), done: None, until, caller });
        let queue = self.open.lock().as_ref().map(|(queue, _)| queue.clone());
        let queue = queue.ok_or_else(shutting_down)?;
        queue.try_send(write).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::unavailable(format!(
                "{QUEUE_MAX} writes wait for the database already; nothing was changed, repeat the call later"
            )),
            mpsc::error::TrySendError::Closed(_) => {
                Error::internal("the database's writer has ended; restart the hall")
            }
        })?;
        answered(answer).await
    }

    /// In a transaction of its own where the engine lets more than one write at once; else as [`Writer::write`].
    pub(crate) async fn write_apart<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, Failure>> + Send + 'static,
    {
        self.write_apart_until(Until::Kept, work).await
    }

    pub(crate) async fn write_apart_until<T, W>(&self, until: Until, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, Failure>> + Send + 'static,
    {
        let Some(apart) = &self.apart else { return self.write_until(until, work).await };
        let apart = Arc::clone(apart);
        let (caller, answer) = oneshot::channel();
        let write: Box<dyn Queued<DB::Connection>> =
            Box::new(Write { work: Some(Box::new(work)), done: None, until, caller });
        // A task of its own: a caller that goes away does not cut a commit in two.
        tokio::spawn(async move {
            let Ok(_place) = apart.room.acquire().await else {
                return write.answer(Err(shutting_down()));
            };
            let link = apart.links.lock().pop();
            let mut link = link.expect("there are as many links as places");
            let done = AssertUnwindSafe(link.write(vec![write])).catch_unwind().await;
            apart.links.lock().push(link);
            if let Ok(done) = done {
                done.answer();
            }
        });
        answered(answer).await
    }

    /// Writes what is queued, then ends.
    pub(crate) async fn close(&self) {
        if let Some(apart) = &self.apart {
            // Those that are under way hold the places.
            let _all = apart.room.acquire_many(apart.at_once).await;
            apart.room.close();
            apart.links.lock().clear();
        }
        let Some((queue, ended)) = self.open.lock().take() else { return };
        drop(queue);
        // A panic of the writer has been seen by its callers.
        let _ = ended.await;
    }
}

async fn answered<T>(answer: oneshot::Receiver<Result<T>>) -> Result<T> {
    let lost = || Error::timeout("the database's writer failed on a write; whether it took effect is not known");
    let late = || Error::timeout("the database's disk does not answer; whether this write took effect is not known");
    timeout(ANSWER, answer).await.map_or_else(|_| Err(late()), |answer| answer.unwrap_or_else(|_| Err(lost())))
}

fn shutting_down() -> Error {
    Error::unavailable("the hall is shutting down; repeat the call later")
}

/// What waits, up to a batch; empty when nothing will come any more.
async fn next_batch<C>(waiting: &mut mpsc::Receiver<Box<dyn Queued<C>>>) -> Vec<Box<dyn Queued<C>>> {
    let mut batch = Vec::new();
    waiting.recv_many(&mut batch, BATCH_MAX).await;
    batch
}

async fn write_shared<DB: Database>(mut link: Link<DB>, mut waiting: mpsc::Receiver<Box<dyn Queued<DB::Connection>>>) {
    loop {
        let batch = next_batch(&mut waiting).await;
        if batch.is_empty() {
            break;
        }
        // A write that panics takes its batch with it, not the writer: its callers see that nobody answers.
        if let Ok(done) = AssertUnwindSafe(link.write(batch)).catch_unwind().await {
            done.answer();
        }
    }
    close(link).await;
}

async fn write_alone<DB: Database>(
    mut link: Link<DB>,
    log: Log<DB>,
    mut waiting: mpsc::Receiver<Box<dyn Queued<DB::Connection>>>,
) {
    let disk = Disk::start(log.sync);
    let mut mended = 0;
    loop {
        let batch = next_batch(&mut waiting).await;
        if batch.is_empty() {
            break;
        }
        let failures = disk.failures();
        if failures > mended {
            if let Err(error) = fold(&mut link, log.fold).await {
                batch.into_iter().for_each(|write| write.answer(Err(error.clone())));
                continue;
            }
            mended = failures;
        }
        if let Ok(done) = AssertUnwindSafe(link.write(batch)).catch_unwind().await {
            disk.committed(done, failures).await;
        }
    }
    disk.close().await;
    close(link).await;
}

async fn fold<DB: Database>(
    link: &mut Link<DB>,
    fold: for<'c> fn(&'c mut DB::Connection) -> BoxFuture<'c, Result<(), Failure>>,
) -> Result<()> {
    let mut connection = link.connection().await?;
    fold(&mut connection).await.map_err(|failure| failure.without_effect(link.engine))?;
    link.connection = Some((connection, Instant::now()));
    Ok(())
}

/// SQLite folds its log into the file when the last connection closes.
async fn close<DB: Database>(mut link: Link<DB>) {
    drop(mem::take(&mut link.connection));
    link.pool.close().await;
}

/// What became of each write, or why none of them was stored.
async fn commit_batch<DB: Database>(
    engine: &'static str,
    connection: &mut DB::Connection,
    begin: &'static str,
    batch: &mut [Box<dyn Queued<DB::Connection>>],
) -> Result<Vec<Result<()>>> {
    let mut transaction = connection.begin_with(begin).await.map_err(|error| without_effect(engine, &error))?;
    let outcomes = match batch {
        // Alone, it needs no savepoint: what fails is undone with the transaction.
        [write] if !write.is_abandoned() => {
            write.run(&mut transaction).await.map_err(|failure| failure.without_effect(engine))?;
            vec![Ok(())]
        }
        batch => {
            let mut outcomes = Vec::with_capacity(batch.len());
            for write in batch {
                outcomes.push(run_alone(engine, &mut transaction, write.as_mut()).await?);
            }
            outcomes
        }
    };
    transaction.commit().await.map_err(|error| at_commit(engine, &error))?;
    Ok(outcomes)
}

/// The outer error means that the whole transaction is lost: the connection broke, or SQLite has undone everything,
/// as it does when the disk is full.
async fn run_alone<DB: Database>(
    engine: &'static str,
    transaction: &mut Transaction<'_, DB>,
    write: &mut dyn Queued<DB::Connection>,
) -> Result<Result<()>> {
    if write.is_abandoned() {
        return Ok(Err(Error::new(ErrorCode::Cancelled, "nobody waits for this write any more; it was not begun")));
    }
    let mut savepoint = transaction.begin().await.map_err(|error| without_effect(engine, &error))?;
    match write.run(&mut savepoint).await {
        Ok(()) => savepoint.commit().await.map(Ok).map_err(|error| without_effect(engine, &error)),
        Err(failure) => match (savepoint.rollback().await, failure) {
            (Ok(()), failure) => Ok(Err(failure.without_effect(engine))),
            (Err(_), Failure::Sql(cause)) | (Err(cause), Failure::Refused(_) | Failure::Raced(_)) => {
                Err(without_effect(engine, &cause))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicBool, AtomicU32, Ordering},
    };

    use sqlx::{Sqlite, sqlite::SqlitePoolOptions};

    use super::*;

    static FOLDED: AtomicU32 = AtomicU32::new(0);

    async fn add(writer: &Writer<Sqlite>, n: i64) -> Result<u64> {
        let add = writer.write(move |tables| {
            Box::pin(async move {
                Ok(sqlx::query("INSERT INTO rows (n) VALUES ($1)").bind(n).execute(tables).await?.rows_affected())
            })
        });
        add.await
    }

    #[tokio::test]
    async fn after_a_sync_that_failed_nothing_is_written_before_the_log_is_folded() {
        let folder = tempfile::tempdir().unwrap();
        let pool = SqlitePoolOptions::new().max_connections(1);
        let pool = pool.connect_lazy(&format!("sqlite:{}/t.db?mode=rwc", folder.path().display())).unwrap();
        sqlx::query("CREATE TABLE rows (n INTEGER)").execute(&pool).await.unwrap();
        let broken = Arc::new(AtomicBool::new(false));
        let sync = Arc::clone(&broken);
        let log = Log::<Sqlite> {
            sync: Box::new(move || if sync.load(Ordering::Relaxed) { Err(io::Error::other("broken")) } else { Ok(()) }),
            fold: |_| {
                Box::pin(async {
                    if FOLDED.fetch_add(1, Ordering::Relaxed) == 0 {
                        return Err(Failure::Refused(Error::unavailable("someone reads")));
                    }
                    Ok(())
                })
            },
        };
        let begin = Begin { kept: "BEGIN IMMEDIATE", done: "BEGIN IMMEDIATE" };
        let writer = Writer::start_alone("sqlite", pool, begin, log);
        assert_eq!(add(&writer, 1).await, Ok(1));
        broken.store(true, Ordering::Relaxed);
        assert_eq!(add(&writer, 2).await.unwrap_err().code, ErrorCode::Timeout, "nobody knows");
        broken.store(false, Ordering::Relaxed);
        assert_eq!(add(&writer, 3).await.unwrap_err().code, ErrorCode::Unavailable, "it could not be folded");
        assert_eq!(add(&writer, 4).await, Ok(1));
        assert_eq!(FOLDED.load(Ordering::Relaxed), 2, "once in vain, then well, and never again");
        assert_eq!(add(&writer, 5).await, Ok(1));
        assert_eq!(FOLDED.load(Ordering::Relaxed), 2);
        writer.close().await;
    }
}
