//! Mail over real engines: what its core does, alone and as two replicas on one database, and when engines go.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

mod contract;
mod engines_away;
mod inboxes;
mod requests;
mod sending;
mod stage;
mod webhooks;
