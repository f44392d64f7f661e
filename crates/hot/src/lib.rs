//! The hot store: memory and Redis behind one port.
//!
//! Five kinds of thing live here, each under a name space of its own, so that one key may name a value, a lease and a
//! bucket without their meeting: values, values with a version, leases, token buckets and sets of marks.
//! [`Hot::remove`] takes away values of both sorts and nothing else.
//!
//! Fences are taken from one counter that outlives every lease and is never behind the clock's microseconds: they
//! rise when a lease has run out in between, and also when the store itself came back empty.

mod bucket;
mod limits;
mod memory;
mod redis;

use std::sync::Arc;

use guildhall_domain::{Clock, Error, Result, ports::Hot};
use url::Url;

pub use limits::VALUE_MAX_BYTES;
pub use memory::ENTRIES_MAX;

/// Opens the store that `url` names: `memory:`, `redis://…` or `rediss://…`. Touches no network: an engine that is
/// away fails the calls made meanwhile, and comes back by itself. `clock` is memory's; Redis goes by its own.
pub fn connect(url: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Hot>> {
    // The address may hold a password, so no error repeats it.
    let parsed = Url::parse(url).map_err(|_| unknown_address())?;
    match parsed.scheme() {
        "memory" => Ok(Arc::new(memory::Memory::new(clock, ENTRIES_MAX))),
        "redis" | "rediss" => Ok(Arc::new(redis::Redis::new(url)?)),
        _ => Err(unknown_address()),
    }
}

fn unknown_address() -> Error {
    Error::invalid("hot.url is not an address this program knows: use memory: or redis://[user:password@]host:port/db")
}
