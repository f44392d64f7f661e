//! Tokens, signing keys and registration keys.

use std::time::Duration;

use futures::future::join_all;
use guildhall_domain::{
    AgentId, ErrorCode, RegistrationKey, SigningKey, TenantId, Timestamp,
    access::Revocation,
    ports::agent_store::{AccessRows, AgentEdit, SealedSigningKey},
};

use super::{
    NOW, Replica, Stage, act,
    agents::{edit, register_named, remove},
    hall, id, tenant,
};
use crate::contract::{eventually, insist};

const OVERLAP: Duration = Duration::from_secs(3_600);

fn signing_key(name: &str, byte: u8, created_at: Timestamp) -> SealedSigningKey {
    let public = SigningKey { key_id: name.into(), public: [byte; 32], created_at, retires_at: None };
    SealedSigningKey { public, sealed_private: vec![byte, 0, 255] }
}

async fn add(replica: &Replica, key: &SealedSigningKey, expected: Option<&str>) -> Result<(), ErrorCode> {
    let added =
        insist(async || replica.agents.add_signing_key(key, expected, OVERLAP, act("key.rotate", "hall")).await).await;
    added.map_err(|error| error.code)
}

async fn revoke(replica: &Replica, what: &Revocation) -> Result<(), ErrorCode> {
    let revoked = insist(async || replica.agents.revoke(what, NOW, act("token.revoke", "token")).await).await;
    revoked.map_err(|error| error.code)
}

fn token(name: &str, expires_at: Timestamp) -> Revocation {
    Revocation::Token { token_id: name.into(), expires_at }
}

/// The view once it fits, however stale the first looks at it are.
async fn view(replica: &Replica, now: Timestamp, what: &str, fits: impl Fn(&AccessRows) -> bool) -> AccessRows {
    eventually(what, async || Ok(replica.agents.access(None, now).await?.filter(|view| fits(view)))).await
}

fn epoch_of(view: &AccessRows, agent: &str) -> u32 {
    let found = view.epochs.iter().find(|(tenant, id, _)| (tenant.as_str(), id.as_str()) == ("default", agent));
    found.map_or(0, |(_, _, epoch)| *epoch)
}

pub async fn access_is_given_once_a_version_and_shows_what_ended(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    register_named(&one, "ada").await;
    register_named(&one, "bob").await;
    let mut known = view(&other, NOW, "a first view", |_| true).await.version;

    type Step<'a> = (&'a str, Box<dyn Fn(&AccessRows) -> bool>);
    let paused: Vec<(TenantId, AgentId, String)> = vec![(hall(), id("ada"), "late".into())];
    let steps: [Step<'_>; 5] = [
        ("a pause", Box::new(move |view| view.paused == paused)),
        ("its end", Box::new(|view| view.paused.is_empty())),
        ("an agent's tokens ended", Box::new(|view| epoch_of(view, "ada") > 0)),
        ("an agent that left", Box::new(|view| epoch_of(view, "bob") > 0)),
        ("a token revoked", Box::new(|view| view.revoked == ["token-1"])),
    ];
    for (n, (what, fits)) in steps.iter().enumerate() {
        match n {
            0 => drop(edit(&one, "ada", AgentEdit::Pause("late".into())).await),
            1 => drop(edit(&one, "ada", AgentEdit::Resume).await),
            2 => revoke(&one, &Revocation::Agent { tenant: hall(), agent_id: id("ada") }).await.unwrap(),
            3 => drop(remove(&one, "bob").await),
            _ => revoke(&one, &token("token-1", NOW + OVERLAP)).await.unwrap(),
        }
        let look = async || Ok(other.agents.access(Some(known), NOW).await?.filter(|view| fits(view)));
        let seen = eventually(what, look).await;
        assert!(seen.version > known, "{what}: {} is not after {known}", seen.version);
        known = seen.version;
        let settled = async || Ok(other.agents.access(Some(known), NOW).await?.is_none().then_some(()));
        eventually("nothing is given twice", settled).await;
    }
}

pub async fn revoking_twice_is_no_error_and_an_unknown_agent_is_not_found(stage: &Stage) {
    let replica = stage.replica("one");
    for _ in 0..2 {
        assert_eq!(revoke(&replica, &token("token-1", NOW + OVERLAP)).await, Ok(()));
    }
    let unknown = Revocation::Agent { tenant: hall(), agent_id: id("nobody") };
    assert_eq!(revoke(&replica, &unknown).await, Err(ErrorCode::NotFound));
    register_named(&replica, "ada").await;
    let foreign = Revocation::Agent { tenant: tenant("other"), agent_id: id("ada") };
    assert_eq!(revoke(&replica, &foreign).await, Err(ErrorCode::NotFound));
    let view = view(&replica, NOW, "the revoked token", |view| !view.revoked.is_empty()).await;
    assert_eq!((view.revoked, view.epochs), (vec!["token-1".to_owned()], vec![]));
}

pub async fn an_expired_revocation_leaves_the_view(stage: &Stage) {
    let replica = stage.replica("one");
    let soon = NOW + Duration::from_secs(1);
    revoke(&replica, &token("short", soon)).await.unwrap();
    revoke(&replica, &token("long", NOW + OVERLAP)).await.unwrap();
    let both = view(&replica, NOW, "both tokens", |view| view.revoked.len() == 2).await;
    assert!(both.revoked.contains(&"short".to_owned()));
    let later = view(&replica, soon, "the token that has expired is gone", |view| view.revoked.len() == 1).await;
    assert_eq!(later.revoked, ["long"]);
    // The next revocation forgets it for good, and must not forget the other.
    let sweep = async || {
        replica
            .agents
            .revoke(
                &Revocation::Token { token_id: "next".into(), expires_at: NOW + OVERLAP },
                soon,
                act("token.revoke", "next"),
            )
            .await
    };
    insist(sweep).await.unwrap();
    let swept = view(&replica, NOW, "what is left", |view| view.revoked.contains(&"next".to_owned())).await;
    assert!(!swept.revoked.contains(&"short".to_owned()) && swept.revoked.contains(&"long".to_owned()), "{swept:?}");
}

pub async fn one_of_many_replicas_replaces_the_signing_key(stage: &Stage) {
    let replicas: Vec<_> = (0..4).map(|n| stage.replica(&format!("replica-{n}"))).collect();
    let first = signing_key("first", 1, NOW);
    add(&replicas[0], &first, None).await.unwrap();
    let attempts = (2..10).map(|n| {
        let replica = &replicas[n % replicas.len()];
        let key = signing_key(&format!("key-{n}"), u8::try_from(n).expect("small"), NOW);
        async move { add(replica, &key, Some("first")).await.map(|()| key) }
    });
    let (won, lost): (Vec<_>, Vec<_>) = join_all(attempts).await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1, "{won:?}");
    assert!(lost.iter().all(|attempt| attempt == &Err(ErrorCode::Conflict)), "{lost:?}");
    let winner = won[0].as_ref().unwrap();
    let keys = eventually("the winner's key signs", async || {
        let keys = replicas[3].agents.signing_keys(NOW).await?;
        Ok(keys.contains(winner).then_some(keys))
    });
    assert_eq!(keys.await.len(), 2, "the first and the winner's, no other");
    assert_eq!(add(&replicas[1], winner, Some("first")).await, Ok(()), "its own repeat is no conflict");
    assert_eq!(add(&replicas[1], &signing_key("late", 99, NOW), None).await, Err(ErrorCode::Conflict));
}

pub async fn a_signing_key_stays_good_for_the_overlap_and_then_goes(stage: &Stage) {
    let replica = stage.replica("one");
    let rotated = NOW + Duration::from_secs(60);
    let (old, new) = (signing_key("old", 1, NOW), signing_key("new", 2, rotated));
    add(&replica, &old, None).await.unwrap();
    add(&replica, &new, Some("old")).await.unwrap();
    let retired = SigningKey { retires_at: Some(rotated + OVERLAP), ..old.public.clone() };
    let before = rotated + OVERLAP - Duration::from_millis(1);
    let during = view(&replica, before, "both keys", |view| view.keys.len() == 2).await;
    assert_eq!(during.keys, [retired.clone(), new.public.clone()]);
    let after = view(&replica, rotated + OVERLAP, "the new key alone", |view| view.keys.len() == 1).await;
    assert_eq!(after.keys, std::slice::from_ref(&new.public));
    let sealed = insist(async || replica.agents.signing_keys(rotated).await).await.unwrap();
    assert_eq!(sealed, [SealedSigningKey { public: retired, ..old }, new], "the private halves come back as they went");
}

pub async fn a_registration_key_is_found_by_its_hash_and_belongs_to_its_tenant(stage: &Stage) {
    let replica = stage.replica("one");
    let red = tenant("red");
    let key = RegistrationKey {
        key_id: "k1".into(),
        tenant: red.clone(),
        roles: ["agent".to_owned(), "builder".into()].into(),
        created_at: NOW,
        expires_at: Some(NOW + OVERLAP),
        revoked: false,
    };
    let add = |key: &RegistrationKey, hash: [u8; 32]| {
        let (replica, key) = (&replica, key.clone());
        async move { insist(async || replica.agents.add_registration_key(&key, hash, act("key.add", "k")).await).await }
    };
    add(&key, [7; 32]).await.unwrap();
    add(&key, [7; 32]).await.expect("a repeat is no error");
    assert_eq!(add(&key, [8; 32]).await.unwrap_err().code, ErrorCode::Conflict, "another secret under the same id");
    let other = RegistrationKey { key_id: "k2".into(), expires_at: None, ..key.clone() };
    assert_eq!(add(&other, [7; 32]).await.unwrap_err().code, ErrorCode::Conflict, "another id with the same secret");
    add(&other, [9; 32]).await.unwrap();

    let find = async |hash| insist(async || replica.agents.registration_key(hash).await).await.unwrap();
    assert_eq!(find([7; 32]).await.as_ref(), Some(&key));
    assert_eq!(find([8; 32]).await, None);
    let listed =
        async |tenant: &TenantId| insist(async || replica.agents.registration_keys(tenant).await).await.unwrap();
    assert_eq!(listed(&red).await, [key.clone(), other.clone()]);
    assert_eq!(listed(&hall()).await, []);

    let revoke = async |tenant: &TenantId, key_id: &str| {
        insist(async || replica.agents.revoke_registration_key(tenant, key_id, act("key.revoke", key_id)).await)
            .await
            .unwrap()
    };
    assert!(!revoke(&hall(), "k1").await, "a key of another tenant was revoked");
    assert!(!revoke(&red, "k3").await);
    assert!(revoke(&red, "k1").await);
    let revoked = RegistrationKey { revoked: true, ..key };
    eventually("the key is revoked", async || {
        Ok((replica.agents.registration_key([7; 32]).await?.as_ref() == Some(&revoked)).then_some(()))
    })
    .await;
    assert_eq!(find([9; 32]).await, Some(other));
}
