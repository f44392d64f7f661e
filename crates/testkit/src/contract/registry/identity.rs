//! Tokens, keys, roles: who gets in, and who no longer does.

use std::{collections::BTreeSet, time::Duration};

use guildhall_domain::{
    AgentQuery, Call, ErrorCode, NewAgent, Principal, PrincipalKind, PublicKey, Result, TokenRequest,
    access::Revocation, audit::AuditQuery, ports::agent_registry::RegistrationRight, principal::roles,
};
use secrecy::{ExposeSecret, SecretString};

use super::{Stage, admin, admin_of, agent, agent_with, found, hall, id, named, refused, tenant};
use crate::contract::{eventually, insist};

fn is_good(judged: &Result<Principal>) -> bool {
    judged.is_ok()
}

fn is_bad(judged: &Result<Principal>) -> bool {
    judged.is_err()
}

fn request(name: &str, granted: &[&str]) -> TokenRequest {
    TokenRequest {
        tenant: tenant("default"),
        kind: PrincipalKind::Agent,
        id: name.to_owned(),
        roles: granted.iter().map(|role| (*role).to_owned()).collect(),
        toolsets: None,
        ttl: None,
    }
}

fn role_set(roles: &[&str]) -> BTreeSet<String> {
    roles.iter().map(|role| (*role).to_owned()).collect()
}

/// Nobody yet: the key says whose the call is.
fn nobody() -> Call {
    Call::new(Principal::new::<String>(tenant("default"), PrincipalKind::Service, "registration-key", []))
}

async fn new_key(stage: &Stage, by: &Call, roles: &[&str], ttl: Option<Duration>) -> (String, SecretString) {
    let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
    let (key, secret) =
        insist(|| async { stage.here.create_registration_key(by, roles.clone(), ttl).await }).await.unwrap();
    (key.key_id, secret)
}

/// By key on the other replica. A repeat after a lost answer finds the id taken: then it is there all the same.
async fn register_by_key(stage: &Stage, new: &NewAgent, key: &SecretString) -> Result<Option<SecretString>> {
    let right = || RegistrationRight::Key(key.clone());
    match insist(|| async { stage.there.register(&nobody(), new.clone(), right()).await }).await {
        Ok(done) => Ok(Some(done.token.token)),
        Err(error) if stage.is_faulty && error.code == ErrorCode::PermissionDenied && new.roles.is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

pub async fn a_token_from_registration_is_good_at_every_replica(stage: &Stage) {
    let done = stage.register(&admin(), &named("worker")).await.unwrap();
    for registry in [&stage.here, &stage.there] {
        let principal = stage.judged(&**registry, done.token.token.expose_secret(), "good", is_good).await.unwrap();
        assert_eq!((principal.kind, &*principal.id), (PrincipalKind::Agent, "worker"));
        assert_eq!(*principal.roles, done.agent.roles);
        assert_eq!(*principal.roles, role_set(&[roles::AGENT]));
    }
}

pub async fn an_id_that_is_taken_is_not_stolen(stage: &Stage) {
    stage.register(&admin(), &named("victim")).await.unwrap();
    let theft = NewAgent { name: Some("Stolen".into()), ..named("victim") };
    refused(stage.register(&agent("thief"), &theft).await, ErrorCode::PermissionDenied);
    let (_, key) = new_key(stage, &admin(), &[], None).await;
    let by_key =
        insist(|| async { stage.there.register(&nobody(), theft.clone(), RegistrationRight::Key(key.clone())).await })
            .await;
    refused(by_key, ErrorCode::PermissionDenied);
    refused(
        insist(|| async { stage.here.remove(&agent("thief"), &id("victim")).await }).await,
        ErrorCode::PermissionDenied,
    );
    let key = PublicKey { algorithm: "x".into(), key: "AAAA".into() };
    let set = insist(|| async { stage.here.set_key(&agent("thief"), &id("victim"), key.clone()).await }).await;
    refused(set, ErrorCode::PermissionDenied);
    let victim = stage.sees(&*stage.here, "victim", "the victim", |_| true).await;
    assert_eq!((&*victim.name, &victim.public_key), ("The agent victim", &None));
}

pub async fn roles_are_granted_and_never_claimed(stage: &Stage) {
    let claim = NewAgent { roles: Some(role_set(&[roles::ADMIN])), ..named("climber") };
    refused(stage.register(&agent("climber"), &claim).await, ErrorCode::PermissionDenied);
    assert!(insist(|| found(&*stage.here, "climber")).await.unwrap().is_none());
    let what_it_has = NewAgent { roles: Some(role_set(&[roles::AGENT])), ..named("climber") };
    refused(stage.register(&agent("climber"), &what_it_has).await, ErrorCode::PermissionDenied);
    let (_, key) = new_key(stage, &admin(), &[], None).await;
    refused(register_by_key(stage, &claim, &key).await, ErrorCode::PermissionDenied);

    let granted = NewAgent { roles: Some(role_set(&[roles::AGENT, roles::OBSERVER])), ..named("climber") };
    stage.register(&admin(), &granted).await.unwrap();
    // It registers again without a word of roles, and keeps them.
    let own = agent_with("climber", &[roles::AGENT, roles::OBSERVER]);
    let again = stage.register(&own, &named("climber")).await.unwrap();
    assert_eq!(again.agent.roles, role_set(&[roles::AGENT, roles::OBSERVER]));
}

pub async fn a_narrow_token_does_not_widen_by_registering_again(stage: &Stage) {
    let wide = NewAgent { roles: Some(role_set(&[roles::ADMIN, roles::AGENT])), ..named("wide") };
    stage.register(&admin(), &wide).await.unwrap();
    let mut narrow = (*agent("wide").principal).clone();
    narrow.toolsets = Some(role_set(&["agents"]).into());
    let again = stage.register(&Call::new(narrow), &named("wide")).await.unwrap();
    assert_eq!(again.agent.roles, role_set(&[roles::ADMIN, roles::AGENT]), "the record keeps its roles");
    let token = again.token.token.expose_secret();
    let principal = stage.judged(&*stage.here, token, "good", is_good).await.unwrap();
    assert_eq!(*principal.roles, role_set(&[roles::AGENT]));
    assert_eq!(principal.toolsets.as_deref(), Some(&role_set(&["agents"])));

    let mut admin = (*admin().principal).clone();
    admin.toolsets = Some(role_set(&["agents"]).into());
    let issue =
        insist(|| async { stage.here.issue_token(&Call::new(admin.clone()), request("x", &[roles::AGENT])).await })
            .await;
    refused(issue, ErrorCode::PermissionDenied);
}

pub async fn a_registration_key_lets_new_agents_in_until_it_ends(stage: &Stage) {
    let (key_id, key) = new_key(stage, &admin_of("acme"), &[roles::OBSERVER], None).await;
    assert!(key.expose_secret().starts_with("ghr_"));
    if let Some(token) = register_by_key(stage, &named("newcomer"), &key).await.unwrap() {
        let principal = stage.judged(&*stage.here, token.expose_secret(), "good", is_good).await.unwrap();
        assert_eq!(principal.tenant.as_str(), "acme", "the key decides the tenant");
        assert_eq!(*principal.roles, role_set(&[roles::OBSERVER]));
    }
    let newcomer = insist(|| async { stage.here.get(&admin_of("acme"), &id("newcomer")).await }).await.unwrap();
    assert_eq!(newcomer.roles, role_set(&[roles::OBSERVER]));

    let listed = |by: Call| {
        let key_id = key_id.clone();
        async move { Ok(stage.there.registration_keys(&by).await?.into_iter().find(|key| key.key_id == key_id)) }
    };
    let known = eventually("the key is listed", || listed(admin_of("acme"))).await;
    assert!(!known.revoked && known.expires_at.is_none());
    assert!(insist(|| listed(admin())).await.unwrap().is_none(), "another tenant's key is listed");
    let foreign = insist(|| async { stage.here.revoke_registration_key(&admin(), &key_id).await }).await;
    refused(foreign, ErrorCode::NotFound);

    insist(|| async { stage.here.revoke_registration_key(&admin_of("acme"), &key_id).await }).await.unwrap();
    refused(register_by_key(stage, &named("too-late"), &key).await, ErrorCode::AuthenticationError);
    let (_, brief) = new_key(stage, &admin(), &[], Some(Duration::from_secs(60))).await;
    register_by_key(stage, &named("in-time"), &brief).await.unwrap();
    stage.clock.advance(Duration::from_secs(60));
    refused(register_by_key(stage, &named("too-late"), &brief).await, ErrorCode::AuthenticationError);
    let made_up = SecretString::from("ghr_made-up");
    refused(register_by_key(stage, &named("too-late"), &made_up).await, ErrorCode::AuthenticationError);
    assert!(insist(|| found(&*stage.here, "too-late")).await.unwrap().is_none());
}

pub async fn a_pause_reaches_every_replica_and_names_its_reason(stage: &Stage) {
    let token = stage.register(&admin(), &named("rogue")).await.unwrap().token.token;
    let token = token.expose_secret();
    for registry in [&stage.here, &stage.there] {
        stage.judged(&**registry, token, "good", is_good).await.unwrap();
    }
    insist(|| async { stage.here.pause(&admin(), &id("rogue"), "it talks too much").await }).await.unwrap();
    for registry in [&stage.here, &stage.there] {
        let error = refused(stage.judged(&**registry, token, "paused", is_bad).await, ErrorCode::PermissionDenied);
        assert!(error.message.contains("it talks too much"), "{error}");
    }
    stage.both_come_to_see("rogue", "the pause", |agent| agent.paused.as_deref() == Some("it talks too much")).await;
    let back = stage.register(&agent("rogue"), &named("rogue")).await;
    refused(back, ErrorCode::PermissionDenied);

    insist(|| async { stage.there.resume(&admin(), &id("rogue")).await }).await.unwrap();
    for registry in [&stage.here, &stage.there] {
        stage.judged(&**registry, token, "good again", is_good).await.unwrap();
    }
}

pub async fn removal_and_revocation_end_tokens_at_every_replica(stage: &Stage) {
    let first = stage.register(&admin(), &named("one")).await.unwrap().token;
    let second = stage.register(&admin(), &named("two")).await.unwrap().token;
    let third = stage.register(&admin(), &named("three")).await.unwrap().token;
    for token in [&first, &second, &third] {
        stage.judged(&*stage.there, token.token.expose_secret(), "good", is_good).await.unwrap();
    }
    drop(insist(|| async { stage.here.remove(&admin(), &id("one")).await }).await);
    let own = Revocation::Agent { tenant: tenant("default"), agent_id: id("two") };
    insist(|| async { stage.here.revoke(&agent("two"), own.clone()).await }).await.unwrap();
    let single = Revocation::Token { token_id: third.token_id.clone(), expires_at: third.expires_at };
    refused(
        insist(|| async { stage.here.revoke(&agent("two"), single.clone()).await }).await,
        ErrorCode::PermissionDenied,
    );
    refused(
        insist(|| async { stage.here.revoke(&agent("three"), own.clone()).await }).await,
        ErrorCode::PermissionDenied,
    );
    insist(|| async { stage.here.revoke(&admin(), single.clone()).await }).await.unwrap();
    for registry in [&stage.here, &stage.there] {
        for token in [&first, &second, &third] {
            let judged = stage.judged(&**registry, token.token.expose_secret(), "no longer good", is_bad).await;
            refused(judged, ErrorCode::AuthenticationError);
        }
    }
    // Who comes back gets a token that is good.
    for name in ["one", "two"] {
        let token = stage.register(&admin(), &named(name)).await.unwrap().token.token;
        stage.judged(&*stage.there, token.expose_secret(), "good", is_good).await.unwrap();
    }
}

pub async fn a_token_may_be_issued_to_an_agent_that_is_yet_to_come(stage: &Stage) {
    let reviewer = request("to-come", &[roles::AGENT, roles::OBSERVER]);
    let issued = insist(|| async { stage.here.issue_token(&admin(), reviewer.clone()).await }).await.unwrap();
    let judged = stage.judged(&*stage.there, issued.token.expose_secret(), "good", is_good).await.unwrap();
    let done = stage.register(&Call::new(judged), &named("to-come")).await.unwrap();
    assert_eq!(done.agent.roles, reviewer.roles, "it comes with the roles of its token");

    // Of an agent that left, every token until then is void, and one issued since is not.
    drop(insist(|| async { stage.here.remove(&admin(), &id("to-come")).await }).await);
    let token = insist(|| async { stage.there.issue_token(&admin(), reviewer.clone()).await }).await.unwrap().token;
    stage.judged(&*stage.here, token.expose_secret(), "good", is_good).await.unwrap();
    stage.judged(&*stage.here, issued.token.expose_secret(), "void", is_bad).await.unwrap_err();

    for (roles, code) in [(&["hall"][..], ErrorCode::InvalidParams), (&["undefined"], ErrorCode::InvalidParams)] {
        refused(insist(|| async { stage.here.issue_token(&admin(), request("x", roles)).await }).await, code);
    }
    let elsewhere = TokenRequest { tenant: tenant("acme"), ..request("x", &[]) };
    refused(
        insist(|| async { stage.here.issue_token(&admin(), elsewhere.clone()).await }).await,
        ErrorCode::PermissionDenied,
    );
}

pub async fn a_rotated_key_leaves_old_tokens_good_for_the_overlap(stage: &Stage) {
    let old = stage.register(&admin(), &named("old")).await.unwrap().token.token;
    match insist(|| async { stage.here.rotate_signing_key(&admin(), Duration::from_secs(600)).await }).await {
        // A write that arrived twice finds that someone was first: it was itself.
        Err(error) if stage.is_faulty && error.code == ErrorCode::Conflict => {}
        answer => answer.unwrap(),
    }
    let rotated = || async {
        let keys = stage.there.access(&hall(), None).await?.map_or(0, |view| view.keys.len());
        Ok((keys >= 2).then_some(()))
    };
    eventually("the other replica knows the new key", rotated).await;
    let new = insist(|| async { stage.there.register(&admin(), named("new"), RegistrationRight::Caller).await })
        .await
        .unwrap();
    let new = new.token.token;
    for registry in [&stage.here, &stage.there] {
        stage.judged(&**registry, old.expose_secret(), "good in the overlap", is_good).await.unwrap();
        stage.judged(&**registry, new.expose_secret(), "good", is_good).await.unwrap();
    }
    stage.clock.advance(Duration::from_secs(600));
    for registry in [&stage.here, &stage.there] {
        stage.judged(&**registry, old.expose_secret(), "its key has retired", is_bad).await.unwrap_err();
        stage.judged(&**registry, new.expose_secret(), "still good", is_good).await.unwrap();
    }
    let other_tenant =
        insist(|| async { stage.here.rotate_signing_key(&admin_of("acme"), Duration::ZERO).await }).await;
    refused(other_tenant, ErrorCode::PermissionDenied);
}

pub async fn an_access_view_is_given_once_and_then_only_when_it_changes(stage: &Stage) {
    stage.register(&admin(), &named("a")).await.unwrap();
    let quiet = || async {
        let Some(view) = stage.here.access(&hall(), None).await? else { return Ok(None) };
        let again = stage.here.access(&hall(), Some(view.version)).await?;
        Ok(again.is_none().then_some(view.version))
    };
    let version = eventually("the newest view is not sent again", quiet).await;
    insist(|| async { stage.there.pause(&admin(), &id("a"), "tea").await }).await.unwrap();
    let newer = || async { stage.here.access(&hall(), Some(version)).await };
    let view = eventually("a newer view", newer).await;
    assert!(view.version > version);
    assert_eq!(view.paused.len(), 1);
}

pub async fn nobody_does_what_its_roles_do_not_allow(stage: &Stage) {
    use ErrorCode::PermissionDenied;
    stage.register(&admin(), &named("target")).await.unwrap();
    let (target, here) = (id("target"), &stage.here);
    let observer = Call::new(Principal::new(tenant("default"), PrincipalKind::Person, "o", [roles::OBSERVER]));
    let nobody = Call::new(Principal::new::<String>(tenant("default"), PrincipalKind::Person, "n", []));
    insist(|| async { here.list(&observer, AgentQuery::default()).await }).await.unwrap();
    insist(|| async { here.get(&observer, &target).await }).await.unwrap();
    refused(insist(|| async { here.list(&nobody, AgentQuery::default()).await }).await, PermissionDenied);
    refused(insist(|| async { here.get(&nobody, &target).await }).await, PermissionDenied);
    for by in [&observer, &nobody, &agent("other")] {
        refused(stage.register(by, &named("target")).await, PermissionDenied);
        refused(insist(|| async { here.remove(by, &target).await }).await, PermissionDenied);
        refused(insist(|| async { here.pause(by, &target, "no").await }).await, PermissionDenied);
        refused(insist(|| async { here.resume(by, &target).await }).await, PermissionDenied);
        refused(insist(|| async { here.access(by, None).await }).await, PermissionDenied);
        refused(insist(|| async { here.issue_token(by, request("other", &[])).await }).await, PermissionDenied);
        refused(insist(|| async { here.rotate_signing_key(by, Duration::ZERO).await }).await, PermissionDenied);
        refused(
            insist(|| async { here.create_registration_key(by, vec![], None).await }).await.map(|(key, _)| key),
            PermissionDenied,
        );
        refused(insist(|| async { here.registration_keys(by).await }).await, PermissionDenied);
        refused(insist(|| async { here.revoke_registration_key(by, "k").await }).await, PermissionDenied);
        refused(insist(|| async { here.record_audit(by, vec![]).await }).await, PermissionDenied);
        refused(insist(|| async { here.audit(by, AuditQuery::default()).await }).await, PermissionDenied);
        refused(insist(|| async { here.verify_audit(by).await }).await, PermissionDenied);
    }
    // What is the hall's own no administrator does either.
    refused(insist(|| async { here.access(&admin(), None).await }).await, PermissionDenied);
    refused(insist(|| async { here.record_audit(&admin(), vec![]).await }).await, PermissionDenied);
}
