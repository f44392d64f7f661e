//! What an agent's webhook knows the hall by: signatures as the Standard Webhooks specification has them.
//!
//! An agent's secret is derived from the ring of keys, so that every replica has it and no row does. After a rotation
//! the agent's secret is that of the new key; as long as the old key is in the ring, everything is signed with both,
//! and whoever still holds the old secret can verify.

use base64::{Engine, engine::general_purpose::STANDARD};
use guildhall_domain::{Agent, Timestamp};
use zeroize::Zeroizing;

use crate::{KeyRing, Secret, seal::hmac};

const PREFIX: &str = "whsec_";

/// The agent's present secret, as receivers' libraries take it: `whsec_` and 32 bytes in base64.
pub fn secret(ring: &KeyRing, agent: &Agent) -> Secret {
    let keys = ring.derive(&purpose(agent));
    let newest = keys.first().expect("a ring has at least one key");
    format!("{PREFIX}{}", *Zeroizing::new(STANDARD.encode(**newest))).into()
}

/// The value of the header `webhook-signature`: one signature for each key of the ring.
pub fn signatures(ring: &KeyRing, agent: &Agent, message_id: &str, at: Timestamp, body: &[u8]) -> String {
    let signed = format!("{message_id}.{}.", seconds(at));
    let signature =
        |key: &Zeroizing<[u8; 32]>| format!("v1,{}", STANDARD.encode(*hmac(&**key, &[signed.as_bytes(), body])));
    ring.derive(&purpose(agent)).iter().map(signature).collect::<Vec<_>>().join(" ")
}

/// The value of the header `webhook-timestamp`.
pub fn seconds(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(1_000)
}

/// Another agent that later comes under the same id has another secret.
fn purpose(agent: &Agent) -> String {
    let Agent { tenant, agent_id, registered_at, .. } = agent;
    format!("webhook:{tenant}:{agent_id}:{}", registered_at.as_millis())
}
