//! Registration keys: the right to register new agents, handed to whoever sets machines up.

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use guildhall_domain::{
    AuditEntry, Call, Error, RegistrationKey, Result, agent::TAGS_MAX, clock::new_ulid, principal::roles,
};
use guildhall_guard::Secret;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::service::Registry;

/// Says what it is, to people and to scanners that look for leaked secrets.
const PREFIX: &str = "ghr_";
/// A key that nobody renews for a year should end.
const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// What the database keeps of a key. It has 256 random bits: a slow hash would add nothing.
pub(crate) fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

impl Registry {
    pub(crate) async fn new_registration_key(
        &self,
        call: &Call,
        granted: Vec<String>,
        ttl: Option<Duration>,
    ) -> Result<(RegistrationKey, Secret)> {
        let mut granted: BTreeSet<String> = granted.into_iter().collect();
        if granted.is_empty() {
            granted.insert(roles::AGENT.to_owned());
        }
        if granted.len() > TAGS_MAX {
            return Err(Error::invalid(format!("a registration key grants {TAGS_MAX} roles at most")));
        }
        if ttl.is_some_and(|ttl| ttl.is_zero() || ttl > TTL_MAX) {
            return Err(Error::invalid(
                "a registration key lives for a year at most: give a ttl of 1s to 366d, or none",
            ));
        }
        self.policy.may_grant(&call.principal, &granted)?;

        let now = self.clock.now();
        let mut random = [0_u8; 32];
        self.entropy.fill(&mut random);
        let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        let key = RegistrationKey {
            key_id: new_ulid(&*self.clock, &*self.entropy).to_string(),
            tenant: call.principal.tenant.clone(),
            roles: granted,
            created_at: now,
            expires_at: ttl.map(|ttl| now + ttl),
            revoked: false,
        };
        let body = json!({ "roles": key.roles, "expires_at": key.expires_at });
        let audit = AuditEntry::done(&call.principal, now, "registration_key.create", target(&key.key_id), body);
        self.agents.add_registration_key(&key, hash(&secret), audit).await?;
        Ok((key, secret.into()))
    }

    pub(crate) async fn end_registration_key(&self, call: &Call, key_id: &str) -> Result<()> {
        let audit =
            AuditEntry::done(&call.principal, self.clock.now(), "registration_key.revoke", target(key_id), json!({}));
        if self.agents.revoke_registration_key(&call.principal.tenant, key_id, audit).await? {
            return Ok(());
        }
        Err(Error::not_found(
            "there is no such registration key: `guildhall token registration-key list` shows those there are",
        ))
    }
}

fn target(key_id: &str) -> String {
    format!("registration_key:{key_id}")
}
