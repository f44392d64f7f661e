//! Live sockets over real ones: a registry and mail over SQLite, the embedded bus, one gateway or two.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

mod around;
mod client;
mod deaf;
mod frames;
mod load;
mod mail;
mod patience;
mod several;
mod stage;
mod streams;
