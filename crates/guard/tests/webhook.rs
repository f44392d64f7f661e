//! Signatures that any receiver's own library verifies, with secrets that no one else's agent has.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use guildhall_domain::{Agent, Presence, TenantId, Timestamp, agent::Delivery};
use guildhall_guard::{ExposeSecret, KeyRing, Secret, webhook};

const OLD: &str = "2025:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const NEW: &str = "2026:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn ring(keys: &[&str]) -> KeyRing {
    let keys: Vec<Secret> = keys.iter().map(|key| Secret::from(*key)).collect();
    KeyRing::parse(&keys).unwrap()
}

fn agent(tenant: &str, id: &str, registered_at: i64) -> Agent {
    Agent {
        tenant: TenantId::new(tenant).unwrap(),
        agent_id: id.parse().unwrap(),
        name: id.to_owned(),
        session_id: None,
        status: Presence::Active,
        capabilities: [].into(),
        roles: [].into(),
        pool: None,
        delivery: Delivery::Webhook,
        webhook_url: Some("https://example.com/hook".into()),
        metadata: serde_json::Map::new(),
        public_key: None,
        old_keys: Vec::new(),
        paused: None,
        registered_at: Timestamp::from_millis(registered_at),
        last_heartbeat: None,
        version: 1,
        token_epoch: 0,
    }
}

fn worker() -> Agent {
    agent("acme", "worker-1", 1_767_225_600_000)
}

/// The values were worked out by another implementation of HMAC and base64.
#[test]
fn secrets_and_signatures_are_those_of_the_specification() {
    let rotated = ring(&[NEW, OLD]);
    let secret = webhook::secret(&rotated, &worker());
    assert_eq!(secret.expose_secret(), "whsec_a2SXpUac94LcQC8AsJwEBneMMfpGOOr3bs4wiGADzQ8=");
    let at = Timestamp::from_millis(1_767_225_601_999);
    assert_eq!(webhook::seconds(at), 1_767_225_601);
    assert_eq!(
        webhook::signatures(&rotated, &worker(), "01JD", at, br#"{"a": 1}"#),
        "v1,eWevMFi9vkVdlolMyq0U0Kk3dqD65WdwmNSlbhy2GVc= v1,ZvjnUNRDs7jMY/Kc5SHoFr2CqN6A3ZznNK9e7boMaAg="
    );
}

#[test]
fn who_holds_the_secret_of_before_a_rotation_can_still_verify() {
    let before = webhook::signatures(&ring(&[OLD]), &worker(), "m", Timestamp::default(), b"1");
    let after = webhook::signatures(&ring(&[NEW, OLD]), &worker(), "m", Timestamp::default(), b"1");
    assert!(after.split(' ').any(|signature| signature == before), "{after}");
    assert_ne!(after, before);
}

#[test]
fn no_two_agents_share_a_secret_and_neither_do_two_that_had_one_id() {
    let ring = ring(&[NEW]);
    let all = [
        worker(),
        agent("acme", "worker-2", 1_767_225_600_000),
        agent("other", "worker-1", 1_767_225_600_000),
        agent("acme", "worker-1", 1_767_225_600_001),
    ];
    let secrets = all.iter().map(|agent| webhook::secret(&ring, agent).expose_secret().to_owned());
    assert_eq!(secrets.collect::<std::collections::BTreeSet<_>>().len(), 4);
}

#[test]
fn everything_that_was_sent_is_signed() {
    let sign = |id: &str, at: i64, body: &[u8]| {
        webhook::signatures(&ring(&[NEW]), &worker(), id, Timestamp::from_millis(at), body)
    };
    let signatures = [sign("a", 1_000, b"1"), sign("b", 1_000, b"1"), sign("a", 2_000, b"1"), sign("a", 1_000, b"2")];
    assert_eq!(signatures.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
}
