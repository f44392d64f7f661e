//! The words of the house: ids, records, errors and ports. Nothing here does I/O.
//!
//! A service is a *port*, a trait over the types of this crate, in [`ports`]. Its core implements the
//! port, and so does its gRPC client, so that a caller holds `Arc<dyn Port>` and cannot tell which
//! shape of the hall it runs in. An engine (SQL, bus, hot store) is a port as well.
//!
//! To add a capability:
//! 1. its records in a file of their own here, named by the word its users say;
//! 2. a method on the port in `ports/`, with [`Call`] first: who asks, until when, as part of which trace;
//! 3. its rule in the `guard` crate's table (the permission matrix test fails until there is one);
//! 4. the core, the `.proto` and the two conversions in the service's crate;
//! 5. a case in testkit's contract suite, which then runs on every backend and over gRPC.
//!
//! A look-up that finds nothing is `Ok(None)`; [`Error`] is for what went wrong.

pub mod access;
pub mod agent;
pub mod audit;
pub mod call;
pub mod clock;
pub mod error;
pub mod event;
pub mod id;
pub mod mail;
pub mod ports;
pub mod principal;

pub use access::{AccessView, IssuedToken, RegistrationKey, SigningKey, TokenRequest};
pub use agent::{Agent, AgentChange, AgentPage, AgentQuery, NewAgent, Presence, PublicKey};
pub use audit::{AuditEntry, AuditRecord};
pub use call::{Call, TraceContext};
pub use clock::{Clock, Entropy, Timestamp};
pub use error::{Error, ErrorCode, Result};
pub use id::{AgentId, TenantId};
pub use principal::{Principal, PrincipalKind};
