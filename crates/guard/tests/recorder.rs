//! The recorder never holds up a call, and loses nothing silently.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::{
    future::{pending, ready},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use guildhall_domain::{AuditEntry, Error, Principal, PrincipalKind, Result, TenantId, Timestamp};
use guildhall_guard::audit::{Flusher, Recorder, RecorderOptions, recorder::DROPPED};
use guildhall_testkit::clock::FixedClock;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{sync::oneshot, task::JoinHandle, time};

const TICK: Duration = Duration::from_millis(200);

fn recorder(options: RecorderOptions) -> (Recorder, Flusher) {
    Recorder::new(options, Arc::new(FixedClock::default()))
}

fn small_queue(queue: usize) -> RecorderOptions {
    RecorderOptions { queue, ..RecorderOptions::new("gateway") }
}

fn entry(tenant: &str, number: usize) -> AuditEntry {
    let by = Principal::new(TenantId::new(tenant).unwrap(), PrincipalKind::Agent, "a", ["agent"]);
    AuditEntry::done(&by, Timestamp::default(), "tool.call", format!("tool:{number}"), json!({}))
}

/// A sink that says what the test tells it to, and remembers the batches it took.
#[derive(Clone, Default)]
struct Sink {
    written: Arc<Mutex<Vec<Vec<AuditEntry>>>>,
    asked: Arc<AtomicU32>,
}

impl Sink {
    fn run(
        &self,
        flusher: Flusher,
        judge: impl Fn(u32, &[AuditEntry]) -> Result<()> + Send + Sync + 'static,
    ) -> (oneshot::Sender<()>, JoinHandle<()>) {
        let (stop, stopped) = oneshot::channel();
        let sink = self.clone();
        let run = flusher.run(
            move |batch| {
                let verdict = judge(sink.asked.fetch_add(1, Ordering::SeqCst), &batch);
                if verdict.is_ok() {
                    sink.written.lock().push(batch);
                }
                ready(verdict)
            },
            async { drop(stopped.await) },
        );
        (stop, tokio::spawn(run))
    }

    fn targets(&self) -> Vec<String> {
        let calls = self.written.lock();
        calls.iter().flatten().filter(|entry| entry.act == "tool.call").map(|entry| entry.target.clone()).collect()
    }

    fn losses(&self) -> Vec<(String, u64)> {
        let written = self.written.lock();
        let said = written.iter().flatten().filter(|entry| entry.act == DROPPED);
        said.map(|entry| (entry.tenant.to_string(), entry.body["entries"].as_u64().unwrap())).collect()
    }
}

fn targets(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("tool:{number}")).collect()
}

#[tokio::test(start_paused = true)]
async fn entries_are_written_in_order_in_batches_of_500_or_after_200_ms() {
    let (recorder, flusher) = recorder(RecorderOptions::new("gateway"));
    let sink = Sink::default();
    let _running = sink.run(flusher, |_, _| Ok(()));
    (0..1_100).for_each(|number| recorder.record(entry("default", number)));
    time::sleep(TICK / 2).await;
    assert_eq!(sink.written.lock().iter().map(Vec::len).collect::<Vec<_>>(), [500, 500]);
    time::sleep(TICK).await;
    assert_eq!(sink.written.lock().iter().map(Vec::len).collect::<Vec<_>>(), [500, 500, 100]);
    assert_eq!(sink.targets(), targets(0..1_100));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_away_for_a_while_gets_everything_once_it_is_back() {
    let (recorder, flusher) = recorder(RecorderOptions::new("gateway"));
    let sink = Sink::default();
    let _running = sink.run(flusher, |asked, _| if asked < 5 { Err(Error::unavailable("away")) } else { Ok(()) });
    (0..3).for_each(|number| recorder.record(entry("default", number)));
    time::sleep(TICK * 2).await;
    (3..6).for_each(|number| recorder.record(entry("default", number)));
    time::sleep(Duration::from_secs(5)).await;
    assert_eq!(sink.targets(), Vec::<String>::new(), "tried without backoff");
    time::sleep(Duration::from_secs(5)).await;
    assert_eq!(sink.targets(), targets(0..6));
    assert_eq!(recorder.lost(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_full_queue_could_not_take_is_itself_recorded_tenant_by_tenant() {
    let (recorder, flusher) = recorder(small_queue(4));
    (0..6).for_each(|number| recorder.record(entry("default", number)));
    (0..3).for_each(|number| recorder.record(entry("acme", number)));
    assert_eq!(recorder.lost(), 5);
    let sink = Sink::default();
    let _running = sink.run(flusher, |_, _| Ok(()));
    time::sleep(TICK * 2).await;
    assert_eq!(sink.targets(), targets(0..4));
    assert_eq!(sink.losses(), [("acme".to_owned(), 3), ("default".to_owned(), 2)]);
    time::sleep(TICK * 5).await;
    assert_eq!(sink.losses().len(), 2, "a loss was recorded twice");
}

#[tokio::test(start_paused = true)]
async fn one_entry_that_the_sink_refuses_for_good_does_not_take_the_others_along() {
    let (recorder, flusher) = recorder(RecorderOptions::new("gateway"));
    let sink = Sink::default();
    let _running = sink.run(flusher, |_, batch| {
        let poisoned = batch.iter().any(|entry| entry.target == "tool:77");
        if poisoned { Err(Error::invalid("no NUL please")) } else { Ok(()) }
    });
    (0..500).for_each(|number| recorder.record(entry("default", number)));
    time::sleep(Duration::from_secs(2)).await;
    assert_eq!(sink.targets(), targets((0..500).filter(|number| *number != 77)));
    assert_eq!(recorder.lost(), 1);
    assert_eq!(sink.losses(), [("default".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_refuses_everything_is_not_asked_without_pause() {
    let (recorder, flusher) = recorder(RecorderOptions::new("gateway"));
    let sink = Sink::default();
    let _running = sink.run(flusher, |_, _| Err(Error::internal("broken")));
    (0..500).for_each(|number| recorder.record(entry("default", number)));
    time::sleep(Duration::from_secs(60)).await;
    assert!(sink.asked.load(Ordering::SeqCst) < 40, "asked {} times in a minute", sink.asked.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn what_is_queued_when_the_process_is_told_to_stop_is_still_written() {
    let (recorder, flusher) = recorder(RecorderOptions::new("gateway"));
    let sink = Sink::default();
    let (stop, done) = sink.run(flusher, |_, _| Ok(()));
    (0..1_700).for_each(|number| recorder.record(entry("default", number)));
    stop.send(()).unwrap();
    done.await.unwrap();
    assert_eq!(sink.targets(), targets(0..1_700));
    recorder.record(entry("default", 0));
    assert_eq!(recorder.lost(), 1, "an entry after the end was taken and forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_never_answers_does_not_hold_up_the_end() {
    let (recorder, flusher) = recorder(RecorderOptions::new("gateway"));
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, begun) = (asked.clone(), time::Instant::now());
    recorder.record(entry("default", 0));
    let sink = move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        pending::<Result<()>>()
    };
    flusher.run(sink, time::sleep(TICK * 2)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2, "once before the end, once more at it");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}
