//! Keys, tokens and their end: what a replica needs to judge a caller without asking anyone.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use secrecy::SecretString;

use crate::{AgentId, PrincipalKind, TenantId, Timestamp};

/// A public half of the hall's signing ring, as `/.well-known/jwks.json` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    pub key_id: String,
    /// Ed25519 public key.
    pub public: [u8; 32],
    pub created_at: Timestamp,
    /// Tokens signed by it are good until then; `None`: the key that signs now.
    pub retires_at: Option<Timestamp>,
}

/// All that decides whether a token is good, as of `version`. Every gateway holds one, at most 5 s old.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessView {
    pub version: u64,
    pub keys: Vec<SigningKey>,
    /// Ids of single tokens that were revoked and have not yet expired.
    pub revoked: BTreeSet<String>,
    /// The first token epoch still good, for agents where it is not 0.
    pub epochs: HashMap<(TenantId, AgentId), u32>,
    /// Why an administrator paused an agent.
    pub paused: HashMap<(TenantId, AgentId), Arc<str>>,
}

/// A token to be made. Made by registration, or by an administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    pub tenant: TenantId,
    pub kind: PrincipalKind,
    pub id: String,
    pub roles: BTreeSet<String>,
    pub toolsets: Option<BTreeSet<String>>,
    /// `None`: the configured life of a token.
    pub ttl: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct IssuedToken {
    pub token: SecretString,
    pub token_id: String,
    pub expires_at: Timestamp,
}

/// What is no longer good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// One token, by its id.
    Token { token_id: String, expires_at: Timestamp },
    /// Every token an agent holds so far.
    Agent { tenant: TenantId, agent_id: AgentId },
}

/// The right to register agents, with the roles they are given. The key itself is shown once and kept as a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationKey {
    pub key_id: String,
    pub tenant: TenantId,
    pub roles: BTreeSet<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked: bool,
}
