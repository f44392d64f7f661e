//! Sealed secrets open where they were put, with the keys they were sealed with, and nowhere else.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use guildhall_domain::ErrorCode;
use guildhall_guard::{ExposeSecret, KeyRing, Secret};
use guildhall_testkit::entropy::SeededEntropy;
use proptest::prelude::*;

fn ring(entropy: &SeededEntropy, ids: &[&str]) -> (KeyRing, Vec<Secret>) {
    let texts: Vec<Secret> = ids.iter().map(|id| KeyRing::new_key_text(id, entropy).unwrap()).collect();
    (KeyRing::parse(&texts).unwrap(), texts)
}

#[test]
fn the_first_key_seals_and_older_ones_still_open() {
    let entropy = SeededEntropy::default();
    let (old, old_texts) = ring(&entropy, &["2025"]);
    let sealed = old.seal("connection:a", b"hunter2", &entropy);
    let new_text = KeyRing::new_key_text("2026", &entropy).unwrap();
    let both = KeyRing::parse([&new_text, &old_texts[0]]).unwrap();
    assert_eq!(both.open("connection:a", &sealed).unwrap().expose_secret(), b"hunter2");

    let again = both.seal("connection:a", b"hunter2", &entropy);
    let missing = old.open("connection:a", &again).unwrap_err();
    assert!(missing.message.contains("\"2026\"") && missing.message.contains("secrets.keys"), "{missing}");
}

#[test]
fn a_value_moved_to_another_place_does_not_open() {
    let entropy = SeededEntropy::default();
    let (ring, _) = ring(&entropy, &["k"]);
    let sealed = ring.seal("connection:a", b"hunter2", &entropy);
    assert!(ring.open("connection:b", &sealed).is_err());
    assert!(ring.open("connection:", &sealed).is_err());
}

#[test]
fn a_key_of_the_same_name_but_other_bytes_is_noticed_and_named() {
    let entropy = SeededEntropy::default();
    let (one, _) = ring(&entropy, &["k"]);
    let (other, _) = ring(&entropy, &["k"]);
    let error = other.open("x", &one.seal("x", b"hunter2", &entropy)).unwrap_err();
    assert!(error.message.contains("\"k\""), "{error}");
}

#[test]
fn the_same_secret_is_sealed_differently_each_time() {
    let entropy = SeededEntropy::default();
    let (ring, _) = ring(&entropy, &["k"]);
    assert_ne!(ring.seal("x", b"same", &entropy), ring.seal("x", b"same", &entropy));
}

#[test]
fn a_bad_key_text_is_refused_without_repeating_it() {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for bad in [
        key.to_owned(),
        format!("k:{}", &key[..20]),
        format!("k:{key}AAAA"),
        "k:not base64 hunter2".to_owned(),
        format!(":{key}"),
        format!("a b:{key}"),
        String::new(),
    ] {
        let error = KeyRing::parse([&Secret::from(bad.clone())]).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidParams);
        assert!(!error.message.contains("AAAA") && !error.message.contains("hunter2"), "{error}");
    }
    assert!(KeyRing::parse([]).is_err());
    let twice = [Secret::from(format!("k:{key}")), Secret::from(format!("k:{key}"))];
    assert!(KeyRing::parse(&twice).unwrap_err().message.contains("twice"));
}

#[test]
fn a_ring_prints_its_keys_names_only() {
    let (ring, texts) = ring(&SeededEntropy::default(), &["2026-11"]);
    let encoded = texts[0].expose_secret().split_once(':').unwrap().1;
    let printed = format!("{ring:?} {ring:#?} {texts:?}");
    assert!(printed.contains("2026-11") && !printed.contains(encoded), "{printed}");
}

proptest! {
    #[test]
    fn whatever_is_sealed_comes_back(secret in proptest::collection::vec(any::<u8>(), 0..200), purpose in "\\PC{0,40}") {
        let entropy = SeededEntropy::default();
        let (ring, _) = ring(&entropy, &["k"]);
        let sealed = ring.seal(&purpose, &secret, &entropy);
        let opened = ring.open(&purpose, &sealed).unwrap();
        prop_assert_eq!(opened.expose_secret(), &*secret);
    }

    #[test]
    fn no_change_to_a_sealed_value_is_overlooked(at in 0_usize..100, flip in 1_u8.., cut in 0_usize..100) {
        let entropy = SeededEntropy::default();
        let (ring, _) = ring(&entropy, &["k"]);
        let sealed = ring.seal("x", b"hunter2", &entropy);
        let mut changed = sealed.clone();
        changed[at % sealed.len()] ^= flip;
        prop_assert!(ring.open("x", &changed).is_err());
        prop_assert!(ring.open("x", &sealed[..cut % sealed.len()]).is_err());
    }
}
