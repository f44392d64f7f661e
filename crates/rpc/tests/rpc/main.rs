//! Calls between services, over real sockets and in process.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands, also in its own functions")]

mod remote;
mod support;
mod trace;
mod transport;
