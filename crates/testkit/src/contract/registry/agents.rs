//! Agents come, change, are listed and leave.

use std::{collections::BTreeSet, time::Duration};

use futures::StreamExt;
use guildhall_domain::{
    Agent, AgentQuery, Call, Clock, ErrorCode, NewAgent, Presence, PublicKey,
    agent::{Delivery, METADATA_MAX_BYTES, PAGE_DEFAULT, subject},
    audit::AuditQuery,
    ports::{
        agent_registry::RegistrationRight,
        bus::{Hint, Subject},
    },
};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::{Stage, admin, admin_of, agent as by_itself, found, hall, id, named, refused};
use crate::contract::insist;

fn full(name: &str) -> NewAgent {
    let metadata = json!({ "deep": { "list": [1, null, "ä", 1.5] }, "big": u64::MAX });
    NewAgent {
        session_id: Some("s-1".into()),
        capabilities: Some(BTreeSet::from(["code:rust".into(), "review".into()])),
        roles: Some(BTreeSet::from(["agent".into(), "observer".into()])),
        pool: Some("builders".into()),
        delivery: Some(Delivery::Webhook),
        webhook_url: Some("https://agent.example.org/mail".into()),
        metadata: metadata.as_object().cloned(),
        public_key: Some(PublicKey { algorithm: "x25519".into(), key: "AAAA".into() }),
        ..named(name)
    }
}

pub async fn a_whole_record_travels_and_comes_back_as_it_was(stage: &Stage) {
    let said = full("whole");
    let registered = stage.register(&admin(), &said).await.unwrap().agent;
    let here = stage.sees(&*stage.here, "whole", "the record here", |_| true).await;
    let there = stage.sees(&*stage.there, "whole", "the record there", |_| true).await;
    let listed = stage
        .finds("the record in the list", || async {
            let page = stage.here.list(&admin(), AgentQuery::default()).await?;
            Ok(page.agents.iter().find(|agent| agent.agent_id == said.agent_id).cloned())
        })
        .await;
    for agent in [&registered, &here, &there, &listed] {
        assert_eq!(Some(&agent.name), said.name.as_ref());
        assert_eq!(agent.session_id, said.session_id);
        assert_eq!(Some(&agent.capabilities), said.capabilities.as_ref());
        assert_eq!(Some(&agent.roles), said.roles.as_ref());
        assert_eq!(agent.pool, said.pool);
        assert_eq!(Some(agent.delivery), said.delivery);
        assert_eq!(Some(&agent.metadata), said.metadata.as_ref());
        assert_eq!(agent.public_key, said.public_key);
        assert_eq!((agent.status, &agent.paused), (Presence::Active, &None));
        assert_eq!(agent.registered_at, stage.clock.now());
        assert_eq!(agent.last_heartbeat, Some(stage.clock.now()));
    }
}

pub async fn registering_again_updates_what_is_said_and_keeps_the_rest(stage: &Stage) {
    let first = stage.register(&admin(), &full("again")).await.unwrap();
    assert!(first.created || stage.is_faulty);
    stage.clock.advance(Duration::from_secs(1));
    let change = NewAgent { name: Some("Renamed".into()), ..NewAgent::named(id("again"), "") };
    let second = stage.register(&admin(), &change).await.unwrap();
    assert!(!second.created, "an id that was there before counts as new");
    let agent = stage.sees(&*stage.there, "again", "the new name", |agent| agent.name == "Renamed").await;
    assert_eq!(Some(&agent.capabilities), full("again").capabilities.as_ref());
    assert_eq!(Some(&agent.metadata), full("again").metadata.as_ref());
    assert_eq!(agent.roles, first.agent.roles);
    assert_eq!(agent.registered_at, first.agent.registered_at);

    let own = by_itself("again");
    let key = PublicKey { algorithm: "ed25519".into(), key: "BBBB".into() };
    let set = insist(|| async { stage.here.set_key(&own, &id("again"), key.clone()).await }).await.unwrap();
    assert_eq!(set.public_key.as_ref(), Some(&key));
    stage.sees(&*stage.there, "again", "the new key", |agent| agent.public_key.as_ref() == Some(&key)).await;
}

pub async fn who_registers_on_one_replica_is_listed_by_the_other_at_once(stage: &Stage) {
    for round in 0..5 {
        let name = format!("a-{round}");
        insist(|| async { stage.here.register(&admin(), named(&name), RegistrationRight::Caller).await })
            .await
            .unwrap();
        let looks = [&stage.there, &stage.here];
        for registry in looks {
            let listed = || async {
                let page = registry.list(&admin(), AgentQuery::default()).await?;
                Ok((page.total == round + 1 && page.agents.iter().any(|agent| agent.agent_id == id(&name)))
                    .then_some(()))
            };
            stage.finds("who registered on another replica is in the list", listed).await;
        }
    }
}

pub async fn a_list_is_filtered_counted_and_paged_in_the_order_of_ids(stage: &Stage) {
    let names: Vec<String> = (0..25).map(|n| format!("w-{n:02}")).collect();
    for (n, name) in names.iter().enumerate().rev() {
        let capability = if n % 5 == 0 { "rare" } else { "common" };
        let new = NewAgent { capabilities: Some(BTreeSet::from([capability.to_owned()])), ..named(name) };
        stage.register(&admin(), &new).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let query = AgentQuery { limit: 10, after: after.take(), ..AgentQuery::default() };
        let whole = |total: usize| total == names.len();
        let page = stage
            .finds("a page of the whole list", || async {
                Ok(Some(stage.there.list(&admin(), query.clone()).await?).filter(|page| whole(page.total)))
            })
            .await;
        assert!(page.agents.len() <= 10);
        seen.extend(page.agents.iter().map(|agent| agent.agent_id.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, names, "pages leave out, repeat or reorder agents");

    let count = async |query: AgentQuery, wanted: usize| {
        let look = || async {
            let page = stage.here.list(&admin(), query.clone()).await?;
            Ok((page.total == wanted && page.agents.len() == wanted.min(PAGE_DEFAULT)).then_some(()))
        };
        stage.finds(&format!("{wanted} agents for {query:?}"), look).await;
    };
    let all = AgentQuery::default;
    count(AgentQuery { capability: Some("rare".into()), ..all() }, 5).await;
    count(AgentQuery { capability: Some("none".into()), ..all() }, 0).await;
    count(AgentQuery { role: Some("agent".into()), ..all() }, 25).await;
    count(AgentQuery { role: Some("admin".into()), ..all() }, 0).await;
    count(AgentQuery { status: Some(Presence::Active), ..all() }, 25).await;
    count(AgentQuery { status: Some(Presence::Offline), ..all() }, 0).await;
    let rest = AgentQuery { capability: Some("rare".into()), limit: 2, after: Some(id("w-05")), ..all() };
    let page = stage
        .finds("the second page of a filter", || async {
            Ok(Some(stage.here.list(&admin(), rest.clone()).await?).filter(|page| page.total == 5))
        })
        .await;
    let ids: Vec<_> = page.agents.iter().map(|agent| agent.agent_id.as_str()).collect();
    assert_eq!((ids, page.next), (vec!["w-10", "w-15"], Some(id("w-15"))));
}

pub async fn nothing_of_one_tenant_is_seen_from_another(stage: &Stage) {
    stage.register(&admin(), &named("shared")).await.unwrap();
    let other = NewAgent { name: Some("Theirs".into()), ..named("shared") };
    stage.register(&admin_of("acme"), &other).await.unwrap();
    stage.register(&admin_of("acme"), &named("only-there")).await.unwrap();

    assert_eq!(
        insist(|| async { stage.there.get(&admin_of("acme"), &id("shared")).await }).await.unwrap().name,
        "Theirs"
    );
    stage.sees(&*stage.there, "shared", "our own", |agent| agent.name != "Theirs").await;
    counts(stage, &admin(), 1).await;
    refused(insist(|| async { stage.here.get(&admin(), &id("only-there")).await }).await, ErrorCode::NotFound);
    refused(insist(|| async { stage.here.remove(&admin(), &id("only-there")).await }).await, ErrorCode::NotFound);
    refused(insist(|| async { stage.here.pause(&admin(), &id("only-there"), "no").await }).await, ErrorCode::NotFound);
    counts(stage, &admin_of("acme"), 2).await;
}

async fn counts(stage: &Stage, by: &Call, wanted: usize) {
    let look = || async { Ok((stage.there.list(by, AgentQuery::default()).await?.total == wanted).then_some(())) };
    stage.finds("the agents of a tenant and no others", look).await;
}

pub async fn a_removed_agent_is_gone_from_every_replica(stage: &Stage) {
    stage.register(&admin(), &full("leaver")).await.unwrap();
    stage.sees(&*stage.there, "leaver", "it came", |_| true).await;
    // By itself: leaving needs no one's leave.
    match insist(|| async { stage.here.remove(&by_itself("leaver"), &id("leaver")).await }).await {
        Err(error) if stage.is_faulty && error.code == ErrorCode::NotFound => {}
        answer => answer.unwrap(),
    }
    for registry in [&stage.here, &stage.there] {
        let gone = || async { Ok(found(&**registry, "leaver").await?.is_none().then_some(())) };
        stage.finds("it is gone", gone).await;
        let unlisted =
            || async { Ok((registry.list(&admin(), AgentQuery::default()).await?.total == 0).then_some(())) };
        stage.finds("it is in no list", unlisted).await;
    }
    refused(insist(|| async { stage.here.remove(&admin(), &id("leaver")).await }).await, ErrorCode::NotFound);

    let back = stage.register(&admin(), &named("leaver")).await.unwrap();
    assert!(back.created || stage.is_faulty);
    assert!(back.agent.capabilities.is_empty(), "who left left something behind");
    stage.sees(&*stage.there, "leaver", "it came back", |agent| agent.capabilities.is_empty()).await;
}

pub async fn bad_input_is_refused_whole(stage: &Stage) {
    let big = Map::from_iter([("k".to_owned(), Value::String("x".repeat(METADATA_MAX_BYTES)))]);
    for (new, code) in [
        (NewAgent { name: Some("a\nb".into()), ..named("bad") }, ErrorCode::InvalidParams),
        (NewAgent { pool: Some("a b".into()), ..named("bad") }, ErrorCode::InvalidParams),
        (NewAgent { metadata: Some(big), ..named("bad") }, ErrorCode::PayloadTooLarge),
        (
            NewAgent { roles: Some(BTreeSet::from(["nobody-defined-it".into()])), ..named("bad") },
            ErrorCode::InvalidParams,
        ),
        (NewAgent { roles: Some(BTreeSet::from(["hall".into()])), ..named("bad") }, ErrorCode::InvalidParams),
        (named("hall"), ErrorCode::InvalidParams),
    ] {
        refused(stage.register(&admin(), &new).await, code);
    }
    assert!(insist(|| found(&*stage.here, "bad")).await.unwrap().is_none());

    stage.register(&admin(), &named("good")).await.unwrap();
    for reason in [String::new(), "x".repeat(513), "a\u{0}b".into()] {
        refused(
            insist(|| async { stage.here.pause(&admin(), &id("good"), &reason).await }).await,
            ErrorCode::InvalidParams,
        );
    }
    let key = PublicKey { algorithm: "x".into(), key: "not base64!".into() };
    refused(
        insist(|| async { stage.here.set_key(&admin(), &id("good"), key.clone()).await }).await,
        ErrorCode::InvalidParams,
    );
    let agent = stage.sees(&*stage.here, "good", "it is as it was", |_| true).await;
    assert_eq!((&agent.paused, &agent.public_key), (&None, &None));
}

pub async fn changes_are_announced_with_the_record(stage: &Stage) {
    let mut joined = listen(stage, subject::JOINED).await;
    let mut changed = listen(stage, subject::CHANGED).await;
    let mut left = listen(stage, subject::LEFT).await;
    stage.register(&admin(), &full("loud")).await.unwrap();
    let hint = next(&mut joined).await;
    assert_eq!(hint.envelope.principal.tenant.as_str(), "default");
    let payload: Value = serde_json::from_slice(&hint.envelope.payload).unwrap();
    assert_eq!((&payload["agent_id"], &payload["pool"]), (&json!("loud"), &json!("builders")));

    insist(|| async { stage.there.pause(&admin(), &id("loud"), "tea").await }).await.unwrap();
    loop {
        let hint = next(&mut changed).await;
        let payload: Value = serde_json::from_slice(&hint.envelope.payload).unwrap();
        if payload["paused"] == "tea" {
            break;
        }
        assert!(stage.is_faulty, "an unexpected change: {payload}");
    }
    drop(insist(|| async { stage.there.remove(&admin(), &id("loud")).await }).await);
    let payload: Value = serde_json::from_slice(&next(&mut left).await.envelope.payload).unwrap();
    assert_eq!(payload, json!({ "agent_id": "loud" }));
}

type Hints = futures::stream::BoxStream<'static, Hint>;

async fn listen(stage: &Stage, subject: Subject) -> Hints {
    stage.bus.hints(subject).await.unwrap()
}

async fn next(hints: &mut Hints) -> Hint {
    tokio::time::timeout(Duration::from_secs(60), hints.next()).await.expect("a hint within a minute").expect("a hint")
}

pub async fn where_mail_is_brought_is_shown_to_the_agent_itself_and_to_administrators_alone(stage: &Stage) {
    let secret = "https://agent.example.org/mail?key=hush";
    let hooked = |name| NewAgent {
        delivery: Some(Delivery::Webhook),
        webhook_url: Some(secret.to_owned()),
        roles: Some(BTreeSet::from(["agent".to_owned()])),
        ..named(name)
    };
    stage.register(&admin(), &hooked("own")).await.unwrap();
    stage.register(&admin(), &hooked("other")).await.unwrap();
    for (caller, sees) in [
        (admin(), [true, true]),
        (by_itself("own"), [true, false]),
        (by_itself("other"), [false, true]),
        (by_itself("third"), [false, false]),
        (hall(), [true, true]),
    ] {
        let shown = |agent: &Agent| agent.webhook_url.as_deref() == Some(secret);
        for (name, sees) in [("own", sees[0]), ("other", sees[1])] {
            let got = insist(|| async { stage.there.get(&caller, &id(name)).await }).await.unwrap();
            assert_eq!((shown(&got), got.webhook_url.is_some()), (sees, sees), "{:?} got {name}", caller.principal.id);
        }
        for query in [AgentQuery::default(), AgentQuery { role: Some("agent".into()), ..AgentQuery::default() }] {
            let both =
                || async { Ok(Some(stage.here.list(&caller, query.clone()).await?).filter(|page| page.total == 2)) };
            let page = stage.finds("both of them in the list", both).await;
            let listed: Vec<_> = page.agents.iter().map(|agent| (agent.agent_id.as_str(), shown(agent))).collect();
            assert_eq!(listed, [("other", sees[1]), ("own", sees[0])], "{:?} listed", caller.principal.id);
        }
    }
    let acts = || async { stage.here.audit(&admin(), AuditQuery { limit: 100, ..AuditQuery::default() }).await };
    let acts = insist(acts).await.unwrap();
    assert!(acts.iter().any(|record| record.act == "agent.register"), "{acts:?}");
    assert!(!format!("{acts:?}").contains("hush"), "{acts:?}");
}

pub async fn who_wants_webhooks_says_where_and_has_a_secret_of_its_own(stage: &Stage) {
    let hooked = |name, url: Option<&str>| NewAgent {
        delivery: Some(Delivery::Webhook),
        webhook_url: url.map(str::to_owned),
        ..named(name)
    };
    let nowhere = [None, Some("nowhere"), Some("ftp://example.org/"), Some("https://me:pw@example.org/")];
    for url in nowhere {
        refused(stage.register(&admin(), &hooked("hooked", url)).await, ErrorCode::InvalidParams);
    }
    refused(insist(|| async { stage.here.get(&admin(), &id("hooked")).await }).await, ErrorCode::NotFound);

    let url = Some("https://agent.example.org/mail");
    let registered = stage.register(&admin(), &hooked("hooked", url)).await.unwrap();
    let secret = registered.webhook_secret.expect("a secret").expose_secret().to_owned();
    assert!(secret.starts_with("whsec_") && secret.len() == 50, "{} characters", secret.len());
    assert!(stage.register(&admin(), &named("plain")).await.unwrap().webhook_secret.is_none());
    // Its address is known.
    let again = stage.register(&by_itself("hooked"), &hooked("hooked", None)).await.unwrap();
    assert_eq!(again.agent.webhook_url.as_deref(), url);
    for (caller, registry) in [(by_itself("hooked"), &stage.there), (admin(), &stage.here)] {
        let told = insist(|| async { registry.webhook_secret(&caller, &id("hooked")).await }).await.unwrap();
        assert_eq!(told.expose_secret(), secret);
    }
    let secret_for = |caller: Call, of: &'static str| async move {
        insist(|| async { stage.there.webhook_secret(&caller, &id(of)).await }).await
    };
    refused(secret_for(by_itself("plain"), "hooked").await, ErrorCode::PermissionDenied);
    refused(secret_for(admin_of("acme"), "hooked").await, ErrorCode::NotFound);

    stage.register(&admin_of("acme"), &hooked("elsewhere", url)).await.unwrap();
    refused(
        insist(|| async { stage.there.wanting(&admin(), Delivery::Webhook).await }).await,
        ErrorCode::PermissionDenied,
    );
    let wanting = |wanted: &'static [(&str, &str)]| async move {
        let look = || async {
            let agents = stage.there.wanting(&hall(), Delivery::Webhook).await?;
            let mut seen: Vec<_> =
                agents.iter().map(|agent| (agent.tenant.as_str(), agent.agent_id.as_str())).collect();
            seen.sort_unstable();
            Ok((seen == wanted).then_some(()))
        };
        stage.finds("those who want webhooks", look).await;
    };
    wanting(&[("acme", "elsewhere"), ("default", "hooked")]).await;
    stage.register(&admin(), &NewAgent { delivery: Some(Delivery::Poll), ..named("hooked") }).await.unwrap();
    wanting(&[("acme", "elsewhere")]).await;
}
