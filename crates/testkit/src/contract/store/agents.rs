//! Agents and their changes.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use guildhall_domain::{
    Agent, AgentChange, AgentId, ErrorCode, NewAgent, PublicKey, TenantId,
    agent::Delivery,
    audit::AuditQuery,
    ports::{
        AgentStore,
        agent_store::{AgentEdit, IfPresent, StoredAgent},
    },
};
use serde_json::{Value, json};

use super::{NOW, Replica, Stage, act, act_in, hall, id, tenant};
use crate::contract::{eventually, insist};

pub(super) async fn register(replica: &Replica, tenant: &TenantId, new: &NewAgent) -> StoredAgent {
    let audit = act_in(tenant, "agent.register", new.agent_id.as_str());
    insist(async || replica.agents.register(tenant, new, IfPresent::Update, NOW, audit.clone()).await).await.unwrap()
}

pub(in crate::contract) async fn register_named(replica: &Replica, name: &str) -> Agent {
    register(replica, &hall(), &NewAgent::named(id(name), name)).await.agent
}

pub(super) async fn edit(replica: &Replica, agent: &str, edit: AgentEdit) -> Option<Agent> {
    let agent = id(agent);
    insist(async || replica.agents.edit(&hall(), &agent, edit.clone(), act("agent.edit", agent.as_str())).await)
        .await
        .unwrap()
}

pub(super) async fn remove(replica: &Replica, agent: &str) -> Option<u64> {
    let agent = id(agent);
    insist(async || replica.agents.remove(&hall(), &agent, act("agent.remove", agent.as_str())).await).await.unwrap()
}

async fn agent_becomes(replica: &Replica, tenant: &TenantId, agent: &str, wanted: Option<&Agent>) {
    let (what, agent) = (format!("{agent} of {tenant} becomes {wanted:?}"), id(agent));
    let matches = async || Ok((replica.agents.agent(tenant, &agent).await?.as_ref() == wanted).then_some(()));
    eventually(&what, matches).await;
}

/// All changes, read as a replica does: from the last one seen, page by page, until there is nothing new.
async fn follow(store: &Arc<dyn AgentStore>, from: u64, page: usize) -> Vec<AgentChange> {
    let mut changes: Vec<AgentChange> = Vec::new();
    loop {
        let after = changes.last().map_or(from, AgentChange::version);
        let next = insist(async || store.changes(after, page).await).await.unwrap();
        assert!(next.len() <= page, "a page of {page} held {}", next.len());
        if next.is_empty() {
            return changes;
        }
        for change in next {
            let last = changes.last().map_or(from, AgentChange::version);
            assert!(change.version() > last, "{change:?} came after version {last}");
            changes.push(change);
        }
    }
}

fn name_of(change: &AgentChange) -> (TenantId, AgentId) {
    match change {
        AgentChange::Present(agent) => (agent.tenant.clone(), agent.agent_id.clone()),
        AgentChange::Gone { tenant, agent_id, .. } => (tenant.clone(), agent_id.clone()),
    }
}

/// Says everything an agent can say, with what SQL and JSON find hard.
fn talkative(agent: &str) -> NewAgent {
    let metadata = json!({ "quote": "'; DROP TABLE agents; --", "ü": ["\u{1F600}", 1.5, null, { "deep": true }] });
    let Value::Object(metadata) = metadata else { unreachable!("it is written as an object") };
    NewAgent {
        agent_id: id(agent),
        name: Some("Ada \"the\" Ünïcode".into()),
        session_id: Some("s-1".into()),
        capabilities: Some(["code.rust".to_owned(), "review".into()].into()),
        roles: Some(["builder".to_owned()].into()),
        pool: Some("builders".into()),
        delivery: Some(Delivery::Webhook),
        webhook_url: Some("https://agent.example.org/mail".into()),
        metadata: Some(metadata),
        public_key: Some(PublicKey { algorithm: "x25519".into(), key: "AAAA".into() }),
    }
}

pub async fn an_agent_reads_back_as_it_registered(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    let said = talkative("ada");
    let StoredAgent { agent, created } = register(&one, &hall(), &said).await;
    assert!(created || !stage.answers_once());
    let echoed = NewAgent {
        agent_id: agent.agent_id.clone(),
        name: Some(agent.name.clone()),
        session_id: agent.session_id.clone(),
        capabilities: Some(agent.capabilities.clone()),
        roles: Some(agent.roles.clone()),
        pool: agent.pool.clone(),
        delivery: Some(agent.delivery),
        webhook_url: agent.webhook_url.clone(),
        metadata: Some(agent.metadata.clone()),
        public_key: agent.public_key.clone(),
    };
    assert_eq!(echoed, said);
    assert_eq!((agent.registered_at, agent.last_heartbeat, agent.token_epoch), (NOW, Some(NOW), 0));
    agent_becomes(&other, &hall(), "ada", Some(&agent)).await;

    let quiet = NewAgent { name: None, ..NewAgent::named(id("bob"), "") };
    let agent = register(&one, &hall(), &quiet).await.agent;
    assert_eq!((agent.name.as_str(), agent.delivery), ("bob", Delivery::Poll));
    assert_eq!(agent.roles, BTreeSet::from(["agent".to_owned()]));
    agent_becomes(&other, &hall(), "bob", Some(&agent)).await;
    agent_becomes(&other, &hall(), "nobody", None).await;
}

pub async fn registering_again_keeps_what_is_not_said(stage: &Stage) {
    let replica = stage.replica("one");
    let first = register(&replica, &hall(), &talkative("ada")).await.agent;
    edit(&replica, "ada", AgentEdit::Pause("late".into())).await.unwrap();
    let renamed = NewAgent::named(id("ada"), "Ada again");
    let later = NOW + Duration::from_secs(5);
    let again = insist(async || {
        let audit = act("agent.register", "ada");
        replica.agents.register(&hall(), &renamed, IfPresent::Update, later, audit).await
    });
    let StoredAgent { agent: again, created } = again.await.unwrap();
    assert!(!created);
    assert!(again.version > first.version);
    let expected = Agent {
        name: "Ada again".into(),
        last_heartbeat: Some(later),
        paused: Some("late".into()),
        version: again.version,
        ..first
    };
    assert_eq!(again, expected, "registering again is no way out of a pause, and loses nothing");
}

pub async fn a_taken_id_is_refused_and_nothing_changes(stage: &Stage) {
    let replica = stage.replica("one");
    let ada = register(&replica, &hall(), &talkative("ada")).await.agent;
    let thief = NewAgent::named(id("ada"), "Thief");
    let refused = insist(async || {
        let audit = act("agent.steal", "ada");
        replica.agents.register(&hall(), &thief, IfPresent::Refuse, NOW, audit).await
    });
    assert_eq!(refused.await.unwrap_err().code, ErrorCode::PermissionDenied);
    agent_becomes(&replica, &hall(), "ada", Some(&ada)).await;
    let thefts = AuditQuery { act: Some("agent.steal".into()), ..Default::default() };
    assert_eq!(insist(async || replica.audit.query(&hall(), &thefts).await).await.unwrap(), []);
}

pub async fn a_removed_agent_is_gone_and_comes_back_with_its_tokens_still_dead(stage: &Stage) {
    let replica = stage.replica("one");
    let ada = register(&replica, &hall(), &talkative("ada")).await.agent;
    let removed = remove(&replica, "ada").await;
    assert!(removed.is_some_and(|version| version > ada.version) || !stage.answers_once());
    agent_becomes(&replica, &hall(), "ada", None).await;
    assert_eq!(remove(&replica, "ada").await, None);

    let back = insist(|| {
        let audit = act("agent.register", "ada");
        let quiet = NewAgent { name: None, ..NewAgent::named(id("ada"), "") };
        let (tenant, replica) = (hall(), &replica);
        async move { replica.agents.register(&tenant, &quiet, IfPresent::Update, NOW, audit).await }
    });
    let StoredAgent { agent: back, created } = back.await.unwrap();
    assert!(created || !stage.answers_once());
    assert!(back.token_epoch > ada.token_epoch, "tokens from before its removal are good again");
    assert_eq!((back.name.as_str(), &back.pool, back.metadata.len()), ("ada", &None, 0), "it is made anew");
}

pub async fn every_edit_shows_and_an_unknown_agent_is_none(stage: &Stage) {
    let replica = stage.replica("one");
    let mut ada = register_named(&replica, "ada").await;
    let key = PublicKey { algorithm: "x25519".into(), key: "BBBB".into() };
    for step in
        [AgentEdit::Pause("audit".into()), AgentEdit::Resume, AgentEdit::Key(key.clone()), AgentEdit::NextTokenEpoch]
    {
        let after = edit(&replica, "ada", step.clone()).await.expect("ada is there");
        assert!(after.version > ada.version, "{step:?} is no change");
        match step {
            AgentEdit::Pause(reason) => assert_eq!(after.paused, Some(reason)),
            AgentEdit::Resume => assert_eq!(after.paused, None),
            AgentEdit::Key(key) => assert_eq!(after.public_key, Some(key)),
            AgentEdit::NextTokenEpoch => assert!(after.token_epoch > ada.token_epoch),
        }
        agent_becomes(&replica, &hall(), "ada", Some(&after)).await;
        ada = after;
    }
    assert_eq!(edit(&replica, "nobody", AgentEdit::Resume).await, None);
    let acts = AuditQuery { target: Some("nobody".into()), ..Default::default() };
    assert_eq!(
        insist(async || replica.audit.query(&hall(), &acts).await).await.unwrap(),
        [],
        "nothing was done, nothing is recorded"
    );
}

pub async fn an_id_of_one_tenant_is_nobody_in_another(stage: &Stage) {
    let replica = stage.replica("one");
    let (red, blue) = (tenant("red"), tenant("blue"));
    let ada = register(&replica, &red, &NewAgent::named(id("ada"), "Red Ada")).await.agent;
    agent_becomes(&replica, &blue, "ada", None).await;
    let other = register(&replica, &blue, &NewAgent::named(id("ada"), "Blue Ada")).await.agent;
    insist(async || replica.agents.remove(&blue, &other.agent_id, act_in(&blue, "agent.remove", "ada")).await)
        .await
        .unwrap();
    agent_becomes(&replica, &blue, "ada", None).await;
    agent_becomes(&replica, &red, "ada", Some(&ada)).await;
    let acts = insist(async || replica.audit.query(&red, &AuditQuery::default()).await).await.unwrap();
    assert!(acts.iter().all(|record| record.tenant == red), "{acts:?}");
}

pub async fn changes_come_in_order_and_show_who_left(stage: &Stage) {
    let replica = stage.replica("one");
    for n in 0..10 {
        register_named(&replica, &format!("agent-{n}")).await;
    }
    remove(&replica, "agent-3").await;
    let renamed = register(&replica, &hall(), &NewAgent::named(id("agent-0"), "renamed")).await.agent;
    let all = eventually("both late changes are seen", async || {
        let all = follow(&replica.agents, 0, 4).await;
        Ok((all.last().map(AgentChange::version) == Some(renamed.version)).then_some(all))
    });
    let all = all.await;
    assert_eq!(all.len(), 10, "each agent has one place in the order, its last: {all:?}");
    assert_eq!(all[9], AgentChange::Present(renamed.clone()));
    assert!(matches!(&all[8], AgentChange::Gone { agent_id, .. } if *agent_id == id("agent-3")), "{:?}", all[8]);
    assert_eq!(follow(&replica.agents, all[7].version(), 100).await, all[8..]);
    assert_eq!(follow(&replica.agents, renamed.version, 100).await, []);
}

/// The order of versions must be the order in which they become visible: else the reader passes one that commits late.
pub async fn changes_skip_none_while_replicas_write(stage: &Stage) {
    const WRITERS: usize = 8;
    const AGENTS: usize = 20;
    let replicas = [stage.replica("one"), stage.replica("other")];
    let reader = stage.replica("reader");
    let written = AtomicBool::new(false);
    let write = async {
        let writers = (0..WRITERS).map(|writer| {
            let replica = &replicas[writer % replicas.len()];
            async move {
                for n in 0..AGENTS {
                    register_named(replica, &format!("agent-{writer}-{n}")).await;
                }
            }
        });
        join_all(writers).await;
        written.store(true, Ordering::SeqCst);
    };
    let read = async {
        let (mut seen, mut last) = (BTreeSet::new(), 0);
        loop {
            let was_written = written.load(Ordering::SeqCst);
            let changes = follow(&reader.agents, last, 7).await;
            last = changes.last().map_or(last, AgentChange::version);
            let nothing_new = changes.is_empty();
            seen.extend(changes.iter().map(name_of));
            // A stale read may say that there is nothing: then the reader would have asked again later.
            if was_written
                && nothing_new
                && insist(async || reader.agents.changes(last, 8).await).await.unwrap().is_empty()
            {
                return seen;
            }
        }
    };
    let ((), seen) = tokio::join!(write, read);
    let missed: Vec<_> = (0..WRITERS)
        .flat_map(|writer| (0..AGENTS).map(move |n| format!("agent-{writer}-{n}")))
        .filter(|name| !seen.contains(&(hall(), id(name))))
        .collect();
    assert!(missed.is_empty(), "a reader of changes never saw {missed:?}");
}

pub async fn the_last_sign_of_life_only_rises_and_is_no_change(stage: &Stage) {
    let replica = stage.replica("one");
    let (ada, bob) = (register_named(&replica, "ada").await, register_named(&replica, "bob").await);
    let later = NOW + Duration::from_secs(90);
    let earlier = NOW - Duration::from_secs(90);
    let seen = [
        (hall(), id("ada"), later),
        (hall(), id("ada"), NOW),
        (hall(), id("bob"), earlier),
        (hall(), id("nobody"), later),
        (tenant("other"), id("bob"), later),
    ];
    insist(async || replica.agents.save_last_seen(&seen).await).await.unwrap();
    insist(async || replica.agents.save_last_seen(&[]).await).await.unwrap();
    let ada = Agent { last_heartbeat: Some(later), ..ada };
    agent_becomes(&replica, &hall(), "ada", Some(&ada)).await;
    agent_becomes(&replica, &hall(), "bob", Some(&bob)).await;
    assert_eq!(follow(&replica.agents, bob.version, 10).await, []);
}
