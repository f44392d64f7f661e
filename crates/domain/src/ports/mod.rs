//! The traits that stand between the parts of the hall. A service's port is what other services may ask of it;
//! an engine's port is what the services may ask of an engine.
//!
//! Every engine error is a domain [`crate::Error`]: `Unavailable` when the engine is away and nothing took
//! effect, `Timeout` when it is not known whether it did. Callers repeat only what is idempotent.

pub mod agent_registry;
pub mod agent_store;
pub mod audit_store;
pub mod bus;
pub mod hot;
pub mod mail;
pub mod mail_store;
pub mod topic_store;
pub mod topics;

pub use agent_registry::AgentRegistry;
pub use agent_store::AgentStore;
pub use audit_store::AuditStore;
pub use bus::Bus;
pub use hot::Hot;
pub use mail::Mail;
pub use mail_store::MailStore;
pub use topic_store::TopicStore;
pub use topics::Topics;
