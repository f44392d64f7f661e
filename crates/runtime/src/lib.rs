//! A process of the hall, from start to end.
//!
//! A process is a set of named [`Tasks`] under one [`Shutdown`]. It says through [`Health`] which parts of it work,
//! on its [`Listener`]s it is asked, and [`telemetry`] tells what it does. The clock and the randomness that the rest
//! of the house takes as arguments are made here.

pub mod admin;
mod allocator;
mod background;
mod backoff;
mod clock;
pub mod engine;
mod health;
pub mod listener;
mod metrics;
mod shutdown;
mod tasks;
pub mod telemetry;

pub use background::{Task, Trouble};
pub use backoff::Backoff;
pub use clock::{OsEntropy, SystemClock};
pub use engine::{supervise, wait_for};
pub use health::{Component, Health};
pub use listener::Listener;
pub use metrics::Metrics;
pub use shutdown::Shutdown;
pub use tasks::{Policy, Tasks};
pub use telemetry::{LogFormat, Telemetry, TelemetryOptions};
