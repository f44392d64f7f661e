//! The bus's contract, on the embedded log and on a real NATS, bare and behind faults.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::{sync::Arc, time::Duration};

use guildhall_bus::BusOptions;
use guildhall_domain::{
    Clock,
    ports::bus::{Durability, Retention},
};
use guildhall_testkit::{
    bus_contract,
    clock::FixedClock,
    contract::{Time, bus::Stage},
    engines::Nats,
};
use tempfile::TempDir;

fn options(folder: &TempDir, clock: Arc<dyn Clock>) -> BusOptions {
    let retention = Retention { age: Duration::from_secs(7 * 24 * 60 * 60), bytes: 1024 * 1024 * 1024 };
    BusOptions { data_dir: folder.path().join("data"), clock, retention, nats_syncs_always: false }
}

async fn embedded() -> Option<Stage> {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(FixedClock::default());
    let bus = guildhall_bus::connect("embedded:", options(&folder, clock.clone())).unwrap();
    Some(Stage { bus, time: Time::Fixed(clock), durability: Durability::Fsync, engine: Box::new(folder) })
}

async fn nats() -> Option<Stage> {
    let engine = Nats::start().await?;
    let folder = TempDir::new().unwrap();
    // NATS goes by its own clock: this one stands still and must not matter.
    let bus = guildhall_bus::connect(&engine.url(), options(&folder, Arc::new(FixedClock::default()))).unwrap();
    Some(Stage { bus, time: Time::real(), durability: Durability::Buffered, engine: Box::new(engine) })
}

bus_contract!(on_the_embedded_log, super::super::embedded);
bus_contract!(on_nats, super::super::nats);
