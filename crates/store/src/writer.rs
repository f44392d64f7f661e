//! Group commit: writes that arrive while a commit is under way share the next one.
//!
//! One task owns the writing. It takes what is queued, runs it in one transaction with a savepoint for each write, so
//! that one which fails is undone alone, commits once, and only then answers. A commit costs an fsync however much it
//! holds: 64 callers at once pay for one, not for 64.
//!
//! An engine that lets many write at once also takes a write apart: in a transaction of its own, beside the others.
//! What locks rows in an order of its own goes there, for in a transaction of unlike writes it would have none.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use guildhall_domain::{Error, ErrorCode, Result};
use parking_lot::Mutex;
use sqlx::{Connection, Database, Pool, Transaction};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use crate::failure::{Failure, at_commit, silent, without_effect};

/// Writes that may wait: some seconds of work for either engine. More are refused, for they would time out anyway.
const QUEUE_MAX: usize = 4_096;
/// Writes that share a commit: beyond this the fsync's share of each is nothing any more, only the wait grows.
const BATCH_MAX: usize = 256;
/// How long a batch may take, the engine's own limits included; well within the 30 s of a call.
const BATCH: Duration = Duration::from_secs(12);

type Work<C, T> = Box<dyn for<'c> FnOnce(&'c mut C) -> BoxFuture<'c, Result<T, Failure>> + Send>;

/// A write that waits, its result's type forgotten.
trait Queued<C>: Send {
    /// Nobody waits for it any more.
    fn is_abandoned(&self) -> bool;
    /// Does it, and keeps what it gave. The outcome stands only once it is committed.
    fn run<'a>(&'a mut self, connection: &'a mut C) -> BoxFuture<'a, Result<(), Failure>>;
    fn answer(self: Box<Self>, outcome: Result<()>);
}

struct Write<C, T> {
    work: Option<Work<C, T>>,
    done: Option<T>,
    caller: oneshot::Sender<Result<T>>,
}

impl<C: Send, T: Send> Queued<C> for Write<C, T> {
    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
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

type Queue<DB> = mpsc::Sender<Box<dyn Queued<<DB as Database>::Connection>>>;

/// Where writes apart are made.
struct Apart<DB: Database> {
    engine: &'static str,
    pool: Pool<DB>,
    begin: &'static str,
    /// As many at once, the others wait.
    room: Arc<Semaphore>,
    at_once: u32,
}

/// The way in for writes. Ends, after what is queued, when it is closed or dropped.
pub(crate) struct Writer<DB: Database> {
    open: Mutex<Option<(Queue<DB>, JoinHandle<()>)>>,
    apart: Option<Apart<DB>>,
}

impl<DB: Database> Writer<DB> {
    /// `begin`: how a transaction of this engine starts.
    pub(crate) fn start(engine: &'static str, pool: Pool<DB>, begin: &'static str) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let task = tokio::spawn(write_all(engine, pool, begin, waiting));
        Self { open: Mutex::new(Some((queue, task))), apart: None }
    }

    /// As [`Writer::start`], for an engine that takes `at_once` writes apart beside it.
    pub(crate) fn start_with_apart(engine: &'static str, pool: Pool<DB>, begin: &'static str, at_once: u32) -> Self {
        let room = Arc::new(Semaphore::new(at_once as usize));
        let apart = Apart { engine, pool: pool.clone(), begin, room, at_once };
        Self { apart: Some(apart), ..Self::start(engine, pool, begin) }
    }

    pub(crate) async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, Failure>> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let write = Box::new(Write { work: Some(Box::new(work)), done: None, caller });
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
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    /// In a transaction of its own where the engine lets more than one write at once; else as [`Writer::write`].
    pub(crate) async fn write_apart<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, Failure>> + Send + 'static,
    {
        let Some(Apart { engine, pool, begin, room, .. }) = &self.apart else { return self.write(work).await };
        let Ok(place) = Arc::clone(room).acquire_owned().await else { return Err(shutting_down()) };
        let (caller, answer) = oneshot::channel();
        let write: Box<dyn Queued<DB::Connection>> = Box::new(Write { work: Some(Box::new(work)), done: None, caller });
        let (engine, pool, begin) = (*engine, pool.clone(), *begin);
        // A task of its own: a caller that goes away does not cut a commit in two.
        tokio::spawn(async move {
            write_batch(engine, &pool, begin, vec![write]).await;
            drop(place);
        });
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Writes what is queued, then ends.
    pub(crate) async fn close(&self) {
        if let Some(Apart { room, at_once, .. }) = &self.apart {
            // Those that are under way hold the places.
            let _all = room.acquire_many(*at_once).await;
            room.close();
        }
        let Some((queue, task)) = self.open.lock().take() else { return };
        drop(queue);
        // A panic of the task has been seen by its callers.
        let _ = task.await;
    }
}

fn shutting_down() -> Error {
    Error::unavailable("the hall is shutting down; repeat the call later")
}

fn lost() -> Error {
    Error::timeout("the database's writer failed on a write; whether it took effect is not known")
}

async fn write_all<DB: Database>(
    engine: &'static str,
    pool: Pool<DB>,
    begin: &'static str,
    mut waiting: mpsc::Receiver<Box<dyn Queued<DB::Connection>>>,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let batch = std::mem::take(&mut batch);
        // A write that panics takes its batch with it, not the writer: its callers see that nobody answers.
        let _ = AssertUnwindSafe(write_batch(engine, &pool, begin, batch)).catch_unwind().await;
    }
    // SQLite folds its log into the file when the last connection closes.
    pool.close().await;
}

async fn write_batch<DB: Database>(
    engine: &'static str,
    pool: &Pool<DB>,
    begin: &'static str,
    mut batch: Vec<Box<dyn Queued<DB::Connection>>>,
) {
    let committed = match pool.acquire().await {
        Ok(mut connection) => {
            let commit = commit_batch::<DB>(engine, &mut connection, begin, &mut batch);
            let committed = timeout(BATCH, commit).await.unwrap_or_else(|_| Err(silent(engine)));
            if committed.is_err() {
                // Whatever state the engine left it in, nobody meets it again.
                drop(connection.detach());
            }
            committed
        }
        Err(error) => Err(without_effect(engine, &error)),
    };
    match committed {
        Ok(outcomes) => batch.into_iter().zip(outcomes).for_each(|(write, outcome)| write.answer(outcome)),
        Err(error) => batch.into_iter().for_each(|write| write.answer(Err(error.clone()))),
    }
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
