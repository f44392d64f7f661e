//! The registry over real engines: its contract on every way to it, and what it does when replicas and engines go.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

mod contract;
mod engines_away;
mod replicas;
mod stage;
