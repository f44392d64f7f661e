//! Mailboxes, requests and topics: hosted by agent-registry.
//!
//! What is sent goes this way: may the sender, is the message well formed, who is meant (`resolve`); then message,
//! receipt and deliveries in one transaction with the audit entry; then whoever waits is woken (`wake`), here at once
//! and elsewhere by a hint. Who takes mail holds it under a lease until it is settled; the clock's share of that is
//! done by `rounds`.
//!
//! - [`service`]: the core, one method of the port after another;
//! - `post`: sending; `resolve`: whom a recipient means; `inbox`: taking, settling, looking;
//! - `dead_letters`, `requests`: what their names say;
//! - `topics`: schemas, durable subscribers, and the feed that brings them events as mail;
//! - `webhooks`: mail brought to agents that want it so;
//! - `desk`: what all of them stand on;
//! - [`grpc`]: the ports over the wire.
//!
//! Every replica does the same work and keeps no truth in memory. What the clock makes due is a row, taken by
//! whichever replica comes first, and by no second one.

mod dead_letters;
mod desk;
pub mod grpc;
mod inbox;
mod post;
mod receipt;
mod requests;
mod resolve;
mod rounds;
mod service;
mod topics;
mod wake;
mod webhooks;

use std::sync::Arc;

use guildhall_domain::{
    Clock, Entropy,
    ports::{AgentRegistry, Bus, Hot, Mail, MailStore, TopicStore, Topics, bus::Retention, mail_store::MailboxBound},
};
use guildhall_guard::{KeyRing, Policy};
use guildhall_outbound::Outbound;
pub use guildhall_runtime::Task;

pub use self::service::MailService;
use crate::{desk::Desk, webhooks::Webhooks};

/// How this service names itself as a principal and in records.
pub const SERVICE: &str = "mail";

/// What mail stands on. Each engine may be away when it starts.
pub struct Options {
    pub mail: Arc<dyn MailStore>,
    pub topics: Arc<dyn TopicStore>,
    /// The core of the same process: whom a message is for is looked up with every send.
    pub registry: Arc<dyn AgentRegistry>,
    pub bus: Arc<dyn Bus>,
    pub hot: Arc<dyn Hot>,
    pub policy: Arc<Policy>,
    /// Webhooks are signed with what is derived from it.
    pub key_ring: Arc<KeyRing>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// What may wait in one mailbox.
    pub bound: MailboxBound,
    /// How long mail and ended requests are kept, and how much of them.
    pub retention: Retention,
    pub outbound: Outbound,
}

impl MailService {
    /// Touches no engine. The caller has to run the tasks.
    pub fn start(options: Options) -> (Arc<dyn Mail>, Arc<dyn Topics>, Vec<Task>) {
        let (outbound, key_ring) = (options.outbound.clone(), options.key_ring.clone());
        let (desk, mut tasks) = Desk::new(options);
        let desk = Arc::new(desk);
        let topics = topics::TopicDesk::new(&desk);
        tasks.extend(topics::tasks(&topics));
        let alarm = Arc::default();
        tasks.extend(rounds::tasks(&desk, &alarm));
        let mail: Arc<dyn Mail> = Arc::new(Self { desk: desk.clone(), alarm });
        let webhooks = Webhooks {
            mail: mail.clone(),
            registry: desk.registry.clone(),
            bus: desk.bus.clone(),
            outbound,
            key_ring,
            clock: desk.clock.clone(),
            entropy: desk.entropy.clone(),
        };
        tasks.push(Task::new("mail.webhooks", |stop| webhooks.run(stop)));
        (mail, topics, tasks)
    }
}
