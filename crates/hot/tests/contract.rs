//! The hot store's contract, on memory and on a real Redis, bare and behind faults.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::sync::Arc;

use guildhall_testkit::{
    clock::FixedClock,
    contract::{Time, hot::Stage},
    engines::Redis,
    hot_contract,
};

async fn memory() -> Option<Stage> {
    let clock = Arc::new(FixedClock::default());
    let hot = guildhall_hot::connect("memory:", clock.clone()).unwrap();
    Some(Stage { hot, time: Time::Fixed(clock), engine: Box::new(()) })
}

async fn redis() -> Option<Stage> {
    let engine = Redis::start().await?;
    // Redis goes by its own clock: this one stands still and must not matter.
    let hot = guildhall_hot::connect(&engine.url(), Arc::new(FixedClock::default())).unwrap();
    Some(Stage { hot, time: Time::real(), engine: Box::new(engine) })
}

hot_contract!(on_memory, super::super::memory);
hot_contract!(on_redis, super::super::redis);
