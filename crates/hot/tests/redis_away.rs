//! Redis goes away and comes back: calls fail with a word of it meanwhile, and work again by themselves.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_domain::{
    ErrorCode, TenantId,
    ports::{
        Hot,
        hot::{HotKey, LeaseOutcome},
    },
};
use guildhall_testkit::{
    clock::FixedClock,
    engines::{Redis, eventually, free_port},
};

const MINUTE: Duration = Duration::from_secs(60);

fn connect(url: &str) -> Arc<dyn Hot> {
    guildhall_hot::connect(url, Arc::new(FixedClock::default())).unwrap()
}

fn key(name: &str) -> HotKey {
    HotKey::new("test", &TenantId::default(), name)
}

#[tokio::test]
async fn a_killed_redis_is_unavailable_and_works_again_after_its_restart_without_a_new_connect() {
    let Some(redis) = Redis::start().await else { return };
    let hot = connect(&redis.url());
    hot.put(&key("before"), "value".into(), MINUTE).await.unwrap();
    let LeaseOutcome::Held { fence: before } = hot.lease(&key("lock"), "a", MINUTE).await.unwrap() else { panic!() };

    redis.kill();
    let away = hot.put(&key("meanwhile"), "value".into(), MINUTE).await.unwrap_err();
    assert_eq!(away.code, ErrorCode::Unavailable, "{away}");
    assert!(away.retryable);
    assert!(away.message.contains("127.0.0.1:"), "{away}");
    assert_eq!(hot.ping().await.unwrap_err().code, ErrorCode::Unavailable);

    redis.restart().await;
    hot.ping().await.unwrap();
    assert_eq!(hot.get(&key("before")).await.unwrap(), None, "it came back empty");
    // Scripts are gone from it as well, and so is the counter of fences.
    let LeaseOutcome::Held { fence: after } = hot.lease(&key("lock"), "b", MINUTE).await.unwrap() else { panic!() };
    assert!(after > before, "the fence went back from {before} to {after} when redis lost everything");
}

#[tokio::test]
async fn a_redis_that_does_not_answer_fails_a_call_in_time_and_works_again_when_it_does() {
    let Some(redis) = Redis::start().await else { return };
    let hot = connect(&redis.url());
    let many: Vec<_> = (0..16).map(|_| hot.ping()).collect();
    futures::future::try_join_all(many).await.unwrap();

    redis.pause();
    let start = Instant::now();
    let stuck = hot.put(&key("a"), "value".into(), MINUTE).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "waited {:?} for a redis that hangs", start.elapsed());
    assert_eq!(stuck.code, ErrorCode::Unavailable, "nothing was sent but a ping: {stuck}");

    redis.resume();
    eventually("redis answers again", Duration::from_secs(10), async || hot.ping().await.ok()).await;
}

#[tokio::test]
async fn connecting_does_not_need_redis_and_no_error_shows_the_password() {
    let nobody = free_port();
    for scheme in ["redis", "rediss"] {
        let hot = connect(&format!("{scheme}://user:s3cr3t@127.0.0.1:{nobody}/3"));
        let away = hot.ping().await.unwrap_err();
        assert_eq!(away.code, ErrorCode::Unavailable, "{scheme}: {away}");
        assert!(!format!("{away:?}").contains("s3cr3t"), "{scheme}: {away}");
    }
    let Some(redis) = Redis::start().await else { return };
    let plain = connect(&redis.url().replace("redis://", "rediss://")).ping().await.unwrap_err();
    assert_eq!(plain.code, ErrorCode::Unavailable, "TLS to a redis that speaks none: {plain}");
    let refused = connect(&redis.url().replace("redis://", "redis://user:s3cr3t@")).ping().await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
    assert!(refused.message.contains("refuses the user or password"), "{refused}");
    assert!(!format!("{refused:?}").contains("s3cr3t"), "{refused}");
}

#[test]
fn an_address_of_another_kind_is_refused_with_the_kinds_that_are_known_and_without_its_password() {
    let clock = || Arc::new(FixedClock::default());
    for url in ["", "postgres://u:s3cr3t@h/db", "u:s3cr3t@h", "redis://u:s3cr3t@h:port", "redis://u:s3cr3t@h/x"] {
        let Err(refused) = guildhall_hot::connect(url, clock()) else { panic!("{url} was taken") };
        assert_eq!(refused.code, ErrorCode::InvalidParams);
        assert!(refused.message.contains("redis://"), "{refused}");
        assert!(!refused.message.contains("s3cr3t"), "{refused}");
    }
}
