//! Engines that go away: what is refused, what goes on, and what comes back by itself.

use std::time::{Duration, Instant};

use guildhall_domain::{
    ErrorCode,
    mail::{NewRequest, RequestState, delivery::Verdict},
};
use guildhall_testkit::engines::{Disk, Postgres, eventually};

use crate::{
    inboxes::{asking, say, settle_all, take, texts, wait_for},
    stage::{Engines, agent, id, message},
};

const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_bus_mail_arrives_within_the_two_seconds_of_a_look() {
    let Some(engines) = Engines::distributed().await else { return };
    let (here, there) = engines.replicas().await;
    for name in ["a", "b"] {
        here.register(name).await;
    }
    engines.nats.as_ref().unwrap().kill();
    let begin = Instant::now();
    let waiting = wait_for(&there, "b", 1);
    let sending = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        here.mail.send(&agent("a"), vec![message("b", "1")]).await.unwrap();
    };
    let (taken, ()) = tokio::join!(waiting, sending);
    assert_eq!(texts(&taken), ["1"]);
    assert!(begin.elapsed() < Duration::from_secs(6), "arrived after {:?}", begin.elapsed());
    settle_all(&there, "b", &taken).await;

    engines.nats.as_ref().unwrap().restart().await;
    eventually("hints are heard again", WITHIN, async || {
        let begin = Instant::now();
        let waiting = wait_for(&there, "b", 1);
        let sending = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            here.mail.send(&agent("a"), vec![message("b", "2")]).await.unwrap();
        };
        let (taken, ()) = tokio::join!(waiting, sending);
        settle_all(&there, "b", &taken).await;
        (begin.elapsed() < Duration::from_secs(1)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_refuses_and_loses_nothing_and_the_clocks_work_is_done_when_it_is_back() {
    let Some(postgres) = Postgres::start(Disk::Lazy).await else { return };
    let Some(engines) = Engines::on(&postgres).await else { return };
    let (here, there) = engines.replicas().await;
    for name in ["a", "b", "c"] {
        here.register(name).await;
    }
    here.mail.send(&agent("a"), vec![message("b", "1")]).await.unwrap();
    let held = take(&here, "b").await;
    let asked = NewRequest { message: message("c", "2"), timeout: Duration::from_secs(30), waits: true };
    let request = here.mail.request(&agent("a"), asked).await.unwrap();

    postgres.kill();
    let refused = here.mail.send(&agent("a"), vec![message("b", "3")]).await.unwrap_err();
    assert!(refused.retryable, "{refused}");
    let refused = here.mail.take(&agent("b"), &id("b"), asking(1, Duration::ZERO)).await.unwrap_err();
    assert!(refused.retryable && refused.code != ErrorCode::NotFound, "{refused}");
    // The leases run out and the request is over meanwhile.
    engines.clock.advance(Duration::from_secs(6 * 60));
    tokio::time::sleep(Duration::from_secs(3)).await;
    postgres.restart().await;

    eventually("the request is over", WITHIN, async || {
        let state = there.mail.request_state(&agent("a"), request.request_id, None, Duration::ZERO).await.ok()?;
        (state.state == RequestState::TimedOut).then_some(())
    })
    .await;
    eventually("what was held comes back, and only what was acknowledged as sent", WITHIN, async || {
        // A lease that ran out is an attempt that failed: the message rests a second.
        engines.clock.advance(Duration::from_secs(1));
        let taken = there.mail.take(&agent("b"), &id("b"), asking(10, Duration::ZERO)).await.ok()?;
        let first = taken.first()?;
        assert_eq!((texts(&taken), first.attempt), (vec!["1".to_owned()], 2));
        let stale = here.mail.settle(&agent("b"), &id("b"), say(&held, &Verdict::Ack)).await.unwrap();
        assert_eq!(stale[0].as_ref().unwrap_err().code, ErrorCode::Conflict);
        Some(())
    })
    .await;
    here.mail.send(&agent("a"), vec![message("c", "4")]).await.unwrap();
    assert_eq!(texts(&wait_for(&there, "c", 1).await), ["4"]);
}
