//! Free ports that stay ours while an engine is down.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
};

/// Below the range from which Linux gives ports to outgoing connections (32768 up): a port from there may be taken
/// between an engine's death and its restart.
const FIRST: u32 = 10_000;
const COUNT: u32 = 22_000;
/// How far apart two test processes begin to look.
const STRIDE: u32 = 97;

/// A port of the loopback address that nothing listens on, never given twice by this process.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(STRIDE);
    for _ in 0..COUNT {
        let step = GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + first.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).expect("FIRST + COUNT is below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
