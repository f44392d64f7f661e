//! Mail over REST and by tools: a registry and mail over SQLite, the embedded bus, one gateway on a port of its own.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

mod client;
mod handing_over;
mod messages;
mod requests;
mod topics;
mod unread;

#[expect(dead_code, reason = "what of it only the tests of sockets use")]
#[path = "../socket/stage.rs"]
mod stage;
