//! A token is good exactly as long as the hall means it to be, and nothing else passes for one.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use guildhall_domain::{
    AccessView, Clock, Entropy, Error, ErrorCode, PrincipalKind, TenantId, Timestamp, TokenRequest,
};
use guildhall_guard::{
    ExposeSecret, KeyRing,
    token::{Refusal, SigningPair, Verified, jwks, mint, verify},
};
use guildhall_testkit::{clock::FixedClock, entropy::SeededEntropy};
use proptest::prelude::*;
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A hall with one signing key.
struct Hall {
    clock: FixedClock,
    entropy: SeededEntropy,
    pair: SigningPair,
    view: AccessView,
}

impl Hall {
    fn new(seed: u64) -> Self {
        let (clock, entropy) = (FixedClock::default(), SeededEntropy::new(seed));
        let pair = SigningPair::generate(&clock, &entropy);
        let view = AccessView { version: 1, keys: vec![pair.public().clone()], ..AccessView::default() };
        Self { clock, entropy, pair, view }
    }

    fn token(&self, request: &TokenRequest, epoch: u32) -> String {
        let issued = mint(&self.pair, request, epoch, DAY, &self.clock, &self.entropy).unwrap();
        issued.token.expose_secret().to_owned()
    }

    fn judge(&self, token: &str) -> Result<Verified, Refusal> {
        verify(token, &self.view, self.clock.now())
    }
}

fn agent(id: &str) -> TokenRequest {
    TokenRequest {
        tenant: TenantId::new("acme").unwrap(),
        kind: PrincipalKind::Agent,
        id: id.to_owned(),
        roles: BTreeSet::from(["agent".to_owned()]),
        toolsets: Some(BTreeSet::from(["messages".to_owned()])),
        ttl: None,
    }
}

/// A token with this header and these claims, signed by the hall's own key.
fn forged(hall: &Hall, header: &Value, claims: &Value) -> String {
    use ed25519_dalek::Signer;
    let seed = {
        let entropy = SeededEntropy::new(0);
        let mut seed = [0_u8; 32];
        entropy.fill(&mut seed);
        seed
    };
    let key = ed25519_dalek::SigningKey::from_bytes(&seed);
    assert_eq!(key.verifying_key().to_bytes(), hall.pair.public().public, "the hall of seed 0 signs with this key");
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()).to_bytes()))
}

fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[test]
fn what_was_asked_for_is_what_the_bearer_becomes() {
    let hall = Hall::new(0);
    let issued = mint(&hall.pair, &agent("worker-1"), 3, DAY, &hall.clock, &hall.entropy).unwrap();
    let verified = hall.judge(issued.token.expose_secret()).unwrap();
    assert_eq!(verified.token_id, issued.token_id);
    assert_eq!(verified.expires_at, issued.expires_at);
    assert_eq!(verified.expires_at, hall.clock.now() + DAY);
    assert_eq!(verified.epoch, 3);
    let principal = verified.principal;
    assert_eq!((principal.tenant.as_str(), principal.kind, &*principal.id), ("acme", PrincipalKind::Agent, "worker-1"));
    assert_eq!(*principal.roles, agent("").roles);
    assert_eq!(principal.toolsets.as_deref(), agent("").toolsets.as_ref());
}

#[test]
fn a_token_ends_with_its_second_and_not_later() {
    let hall = Hall::new(0);
    let request = TokenRequest { ttl: Some(Duration::from_secs(60)), ..agent("a") };
    let token = hall.token(&request, 0);
    hall.clock.advance(Duration::from_millis(59_999));
    assert!(hall.judge(&token).is_ok());
    hall.clock.advance(Duration::from_millis(1));
    assert_eq!(hall.judge(&token).unwrap_err(), Refusal::Expired);
}

#[test]
fn a_replica_whose_clock_is_behind_takes_a_fresh_token() {
    let hall = Hall::new(0);
    let token = hall.token(&agent("a"), 0);
    assert!(verify(&token, &hall.view, hall.clock.now() - Duration::from_secs(30)).is_ok());
}

#[test]
fn a_key_signs_for_its_overlap_and_no_longer() {
    let mut hall = Hall::new(0);
    let token = hall.token(&agent("a"), 0);
    let retires_at = hall.clock.now() + Duration::from_secs(60);
    hall.view.keys[0].retires_at = Some(retires_at);
    assert!(hall.judge(&token).is_ok());
    assert_eq!(jwks(&hall.view, hall.clock.now())["keys"].as_array().unwrap().len(), 1);
    hall.clock.set(retires_at);
    assert_eq!(hall.judge(&token).unwrap_err(), Refusal::NotOurs);
    assert_eq!(jwks(&hall.view, hall.clock.now())["keys"].as_array().unwrap().len(), 0);
}

#[test]
fn another_halls_token_is_refused_even_under_our_keys_name() {
    let (ours, theirs) = (Hall::new(0), Hall::new(1));
    let token = theirs.token(&agent("a"), 0);
    assert_eq!(ours.judge(&token).unwrap_err(), Refusal::UnknownKey);
    let mut confused = ours.view.clone();
    confused.keys[0].key_id.clone_from(&theirs.pair.public().key_id);
    assert_eq!(verify(&token, &confused, ours.clock.now()).unwrap_err(), Refusal::NotOurs);
}

#[test]
fn revocation_ends_one_token_or_all_of_an_agent() {
    let mut hall = Hall::new(0);
    let (first, second) = (hall.token(&agent("a"), 0), hall.token(&agent("a"), 1));
    let first_id = hall.judge(&first).unwrap().token_id;
    hall.view.revoked.insert(first_id);
    assert_eq!(hall.judge(&first).unwrap_err(), Refusal::Revoked);
    assert!(hall.judge(&second).is_ok());

    let key = (TenantId::new("acme").unwrap(), "a".parse().unwrap());
    hall.view.epochs.insert(key.clone(), 1);
    assert!(hall.judge(&second).is_ok(), "a token of the epoch that is good is refused");
    hall.view.epochs.insert(key, 2);
    assert_eq!(hall.judge(&second).unwrap_err(), Refusal::Revoked);
    let other_tenant = TokenRequest { tenant: TenantId::default(), ..agent("a") };
    assert!(hall.judge(&hall.token(&other_tenant, 0)).is_ok(), "another tenant's agent of the same name is refused");
}

#[test]
fn a_paused_agent_is_told_why() {
    let mut hall = Hall::new(0);
    let token = hall.token(&agent("a"), 0);
    let reason: Arc<str> = "too noisy".into();
    hall.view.paused.insert((TenantId::new("acme").unwrap(), "a".parse().unwrap()), reason);
    let error = Error::from(hall.judge(&token).unwrap_err());
    assert_eq!(error.code, ErrorCode::PermissionDenied);
    assert!(error.message.contains("too noisy"), "{error}");
}

#[test]
fn no_algorithm_but_the_halls_own_is_taken() {
    let hall = Hall::new(0);
    let token = hall.token(&agent("a"), 0);
    let claims = claims_of(&token);
    let kid = &hall.pair.public().key_id;
    let good = forged(&hall, &json!({"alg": "EdDSA", "kid": kid}), &claims);
    assert!(hall.judge(&good).is_ok(), "the forger of this test does not know the craft");

    assert!(hall.judge(&forged(&hall, &json!({"alg": "none", "kid": kid}), &claims)).is_err());
    let hs256 =
        jsonwebtoken::Header { kid: Some(kid.clone()), ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256) };
    let secret = jsonwebtoken::EncodingKey::from_secret(&hall.pair.public().public);
    let confused = jsonwebtoken::encode(&hs256, &claims, &secret).unwrap();
    assert_eq!(hall.judge(&confused).unwrap_err(), Refusal::NotOurs, "the public key was taken as an HMAC secret");
    assert_eq!(hall.judge(&forged(&hall, &json!({"alg": "EdDSA"}), &claims)).unwrap_err(), Refusal::NotOurs);
}

#[test]
fn a_signature_does_not_excuse_claims_that_the_hall_never_makes() {
    let hall = Hall::new(0);
    let header = json!({"alg": "EdDSA", "kid": hall.pair.public().key_id});
    let claims = claims_of(&hall.token(&agent("a"), 0));
    for (field, value) in [
        ("iss", json!("elsewhere")),
        ("sub", json!("../a")),
        ("tenant", json!("Not A Tenant")),
        ("kind", json!("god")),
        ("exp", json!("soon")),
        ("exp", Value::Null),
        ("epoch", json!(-1)),
        ("roles", json!(["hall"])),
        ("aud", json!("another service")),
    ] {
        let mut claims = claims.clone();
        claims[field] = value.clone();
        assert_eq!(hall.judge(&forged(&hall, &header, &claims)).unwrap_err(), Refusal::Malformed, "{field}: {value}");
    }
    for field in ["iss", "sub", "tenant", "kind", "roles", "jti", "iat", "exp", "epoch"] {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(field);
        assert_eq!(hall.judge(&forged(&hall, &header, &claims)).unwrap_err(), Refusal::Malformed, "without {field}");
    }
}

#[test]
fn what_must_not_be_in_a_token_is_not_signed() {
    let hall = Hall::new(0);
    let refused = |request: TokenRequest| {
        mint(&hall.pair, &request, 0, DAY, &hall.clock, &hall.entropy).map(|issued| issued.token_id).unwrap_err().code
    };
    let hall_role = BTreeSet::from(["hall".to_owned()]);
    for kind in [PrincipalKind::Agent, PrincipalKind::Person, PrincipalKind::Service] {
        let request = TokenRequest { roles: hall_role.clone(), kind, ..agent("gateway") };
        assert_eq!(refused(request), ErrorCode::InvalidParams);
    }
    assert_eq!(refused(agent("not an id")), ErrorCode::InvalidParams);
    assert_eq!(refused(agent("hall")), ErrorCode::InvalidParams);
    assert_eq!(refused(TokenRequest { kind: PrincipalKind::Person, ..agent("") }), ErrorCode::InvalidParams);
    for ttl in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(u64::MAX)] {
        assert_eq!(refused(TokenRequest { ttl: Some(ttl), ..agent("a") }), ErrorCode::InvalidParams);
    }
    let many = (0..2_000).map(|n| format!("role-{n}")).collect();
    assert_eq!(refused(TokenRequest { roles: many, ..agent("a") }), ErrorCode::InvalidParams);
}

#[test]
fn a_refusal_never_holds_the_token() {
    let hall = Hall::new(0);
    let token = hall.token(&agent("a"), 0);
    let expired = verify(&token, &hall.view, Timestamp::from_millis(i64::MAX)).unwrap_err();
    for refusal in [expired, hall.judge(&format!("{token}x")).unwrap_err(), hall.judge("hunter2").unwrap_err()] {
        let error = Error::from(refusal);
        assert_eq!(error.code, ErrorCode::AuthenticationError);
        assert!(!token.split('.').any(|part| format!("{error:?}").contains(part)), "{error:?}");
        assert!(!error.message.contains("hunter2"));
    }
}

#[test]
fn the_published_key_and_its_name_are_those_of_rfc_8037() {
    struct Appendix;
    impl Entropy for Appendix {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap());
        }
    }
    let pair = SigningPair::generate(&FixedClock::default(), &Appendix);
    let view = AccessView { keys: vec![pair.public().clone()], ..AccessView::default() };
    insta::assert_snapshot!(
        jwks(&view, Timestamp::default()),
        @r#"{"keys":[{"alg":"EdDSA","crv":"Ed25519","kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k","kty":"OKP","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#
    );
}

#[test]
fn a_signing_key_survives_the_database_and_only_in_its_own_row() {
    let hall = Hall::new(0);
    let ring = KeyRing::parse([&KeyRing::new_key_text("k", &hall.entropy).unwrap()]).unwrap();
    let mut sealed = hall.pair.seal(&ring, &hall.entropy);
    let opened = SigningPair::open(&ring, &sealed).unwrap();
    let issued = mint(&opened, &agent("a"), 0, DAY, &hall.clock, &hall.entropy).unwrap();
    assert!(hall.judge(issued.token.expose_secret()).is_ok());
    assert!(!format!("{:?} {:?}", opened, hall.pair).contains("private"));

    let other = Hall::new(1);
    sealed.public = other.pair.public().clone();
    assert!(SigningPair::open(&ring, &sealed).is_err(), "a private key was taken under another key's name");
    sealed.public = hall.pair.public().clone();
    sealed.public.public = other.pair.public().public;
    assert!(SigningPair::open(&ring, &sealed).is_err(), "a private key was taken with another public half");
}

proptest! {
    #[test]
    fn no_change_to_a_token_is_overlooked(at in 0_usize..1_000, byte in any::<u8>()) {
        let hall = Hall::new(0);
        let token = hall.token(&agent("a"), 0);
        let mut bytes = token.into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert!(hall.judge(&changed).is_err());
        }
    }

    #[test]
    fn no_text_whatever_is_taken_or_breaks_the_judge(text in "\\PC*", parts in proptest::collection::vec("[A-Za-z0-9_-]{0,40}", 0..5)) {
        let hall = Hall::new(0);
        prop_assert!(hall.judge(&text).is_err());
        prop_assert!(hall.judge(&parts.join(".")).is_err());
    }
}
