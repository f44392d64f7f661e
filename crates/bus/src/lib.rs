//! Hints and kept topics: the embedded log and JetStream behind one port.
//!
//! A hint goes to whoever listens now and is forgotten. An event goes into its topic's log, is acknowledged once it is
//! as safe as the answer says, and can be replayed: what is kept, then what comes, without a gap. Sequences rise with
//! gaps: topics share a log. What is kept is bounded by age and by the bytes of all topics together.
//!
//! [`wire`] holds the names and the envelope, [`replay`] how a topic is read and [`live`] who follows it, the same on both
//! engines; `embedded` is SQLite and this process alone,
//! `jetstream` is NATS.

mod embedded;
mod hints;
mod jetstream;
mod live;
mod replay;
mod wire;

use std::{path::PathBuf, sync::Arc, time::Duration};

use guildhall_domain::{
    Clock, Error, Result,
    ports::{Bus, bus::Retention},
};
use url::Url;

pub use wire::CONTENT_MAX_BYTES;

/// Within this time the same key adds nothing: the port's promise.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

pub struct BusOptions {
    /// Where the embedded log keeps its `bus.db`.
    pub data_dir: PathBuf,
    /// The embedded log's time. NATS goes by its own.
    pub clock: Arc<dyn Clock>,
    /// Of all topics together.
    pub retention: Retention,
    /// The operator vouches that NATS runs with `sync_interval: always`, so that an answer means that it is on disk.
    pub nats_syncs_always: bool,
}

/// Opens the bus that `url` names: `embedded:`, or `nats://…` or `tls://…`, several separated by commas. Touches
/// neither disk nor network: an engine that is away fails the calls made meanwhile, and comes back by itself.
pub fn connect(url: &str, options: BusOptions) -> Result<Arc<dyn Bus>> {
    // The address may hold a password, so no error repeats it.
    let first = url.split(',').next().unwrap_or_default();
    match Url::parse(first).as_ref().map(Url::scheme) {
        Ok("embedded") => Ok(Arc::new(embedded::Embedded::new(options))),
        Ok("nats" | "tls") => Ok(Arc::new(jetstream::JetStream::new(url, options)?)),
        _ => Err(unknown_address()),
    }
}

fn unknown_address() -> Error {
    Error::invalid("bus.url is not an address this program knows: use embedded: or nats://[user:password@]host:port")
}
