//! What is recorded, and how it is found and counted.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use guildhall_domain::{
    AuditEntry, AuditRecord, ErrorCode, NewAgent, PrincipalKind, TenantId,
    audit::{AuditQuery, Outcome, canonical_body},
    ports::{agent_store::IfPresent, audit_store::Written},
};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    NOW, Replica, Stage, act, act_in,
    agents::{register_named, remove},
    hall, id, tenant,
};
use crate::contract::{eventually, insist};

pub(super) async fn record(replica: &Replica, entries: &[AuditEntry]) {
    insist(async || replica.audit.record(entries.to_vec()).await).await.unwrap();
}

async fn query(replica: &Replica, tenant: &TenantId, query: &AuditQuery) -> Vec<AuditRecord> {
    insist(async || replica.audit.query(tenant, query).await).await.unwrap()
}

/// What the epochs promise, once it is what is there: nothing else is being written.
async fn counted(replica: &Replica, tenant: &TenantId) -> Vec<Written> {
    let agree = async || {
        let (epochs, written) = (replica.audit.epochs(tenant).await?, replica.audit.written(tenant).await?);
        let promised = epochs.iter().map(|epoch| (epoch.writer.as_str(), epoch.epoch, epoch.last_number));
        let found = written.iter().map(|there| (there.writer.as_str(), there.epoch, there.records));
        let complete = written.iter().all(|there| there.records == there.last_number);
        Ok((complete && promised.eq(found)).then_some(written))
    };
    eventually("each epoch holds the records that it counts, without a gap", agree).await
}

pub async fn an_act_and_its_record_are_stored_together_or_not_at_all(stage: &Stage) {
    let replica = stage.replica("one");
    register_named(&replica, "ada").await;
    let acts = AuditQuery { act: Some("agent.register".into()), ..Default::default() };
    let found = query(&replica, &hall(), &acts).await;
    assert!(!found.is_empty(), "an agent is there, and no record of how it came");

    for (n, name) in ["ada", "nobody"].iter().enumerate() {
        let audit = act("agent.fail", name);
        let failed = insist(|| {
            let (replica, audit, name) = (&replica, audit.clone(), id(name));
            async move {
                match n {
                    0 => {
                        let thief = NewAgent::named(name, "Thief");
                        replica.agents.register(&hall(), &thief, IfPresent::Refuse, NOW, audit).await.map(drop)
                    }
                    _ => replica.agents.remove(&hall(), &name, audit).await.map(drop),
                }
            }
        });
        let failed = failed.await;
        assert_eq!(failed.is_err_and(|error| error.code == ErrorCode::PermissionDenied), n == 0);
    }
    let acts = AuditQuery { act: Some("agent.fail".into()), ..Default::default() };
    assert_eq!(query(&replica, &hall(), &acts).await, [], "a record of what was never done");
}

pub async fn a_record_reads_back_with_a_hash_of_its_own_salt(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    let entry = AuditEntry {
        tenant: hall(),
        at: NOW + Duration::from_millis(123),
        actor_kind: PrincipalKind::Person,
        actor: "Zoë O'Neil".into(),
        act: "tool.call".into(),
        target: "tool:a%_b".into(),
        outcome: Outcome::Refused,
        body: json!({ "z": 1, "a": [1.5, null, "\u{1F600}"] }),
    };
    record(&one, &[entry.clone(), entry.clone()]).await;
    let found = query(&other, &hall(), &AuditQuery::default()).await;
    assert!(found.len() >= 2, "{found:?}");
    let mut salts = BTreeSet::new();
    for record in &found {
        let there = AuditEntry {
            tenant: record.tenant.clone(),
            at: record.at,
            actor_kind: record.actor_kind,
            actor: record.actor.clone(),
            act: record.act.clone(),
            target: record.target.clone(),
            outcome: record.outcome,
            body: record.body.clone().expect("a body that nobody erased"),
        };
        assert_eq!(there, entry);
        assert_eq!((record.writer.as_str(), record.position, &record.hash), ("one", None, &None));
        let salt = record.salt.clone().expect("a salt that nobody erased");
        let bytes: Vec<u8> = salt.as_bytes().chunks(2).map(byte_of_hex).collect();
        assert_eq!(bytes.len(), 16);
        let hash = Sha256::new().chain_update(&bytes).chain_update(canonical_body(&entry.body)).finalize();
        assert_eq!(record.body_hash, hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        assert!(salts.insert(salt), "two records share a salt: equal bodies could be told");
    }
}

fn byte_of_hex(digits: &[u8]) -> u8 {
    let digits = std::str::from_utf8(digits).expect("hex is ASCII");
    u8::from_str_radix(digits, 16).expect("a salt is hex")
}

pub async fn a_query_narrows_by_each_of_its_words(stage: &Stage) {
    let replica = stage.replica("one");
    for n in 0..6_u64 {
        let at = NOW + Duration::from_secs(n);
        let kind = if n % 2 == 0 { "agent.pause" } else { "token.issue" };
        let actor = if n < 3 { "ann" } else { "ben" };
        record(&replica, &[AuditEntry { at, actor: actor.into(), ..act(kind, &format!("agent:{n}")) }]).await;
    }
    record(&replica, &[act_in(&tenant("other"), "agent.pause", "agent:0")]).await;
    let at = |seconds| Some(NOW + Duration::from_secs(seconds));
    let all = AuditQuery::default;
    for (asked, wanted) in [
        (all(), vec![5, 4, 3, 2, 1, 0]),
        (AuditQuery { actor: Some("ann".into()), ..all() }, vec![2, 1, 0]),
        (AuditQuery { act: Some("agent.".into()), ..all() }, vec![4, 2, 0]),
        (AuditQuery { act: Some("token.issue".into()), ..all() }, vec![5, 3, 1]),
        (AuditQuery { act: Some("agent_".into()), ..all() }, vec![]),
        (AuditQuery { act: Some("gent.".into()), ..all() }, vec![]),
        (AuditQuery { target: Some("agent:4".into()), ..all() }, vec![4]),
        (AuditQuery { target: Some("agent".into()), ..all() }, vec![]),
        (AuditQuery { from: at(2), to: at(4), ..all() }, vec![4, 3, 2]),
        (AuditQuery { actor: Some("ben".into()), act: Some("agent.".into()), to: at(3), ..all() }, vec![]),
    ] {
        let found = query(&replica, &hall(), &asked).await;
        let mut seconds: Vec<_> = found.iter().map(|record| record.at.since(NOW).as_secs()).collect();
        // A call that was repeated has recorded twice: at least once is what is promised.
        seconds.dedup();
        assert_eq!(seconds, wanted, "{asked:?}");
    }
    let two = query(&replica, &hall(), &AuditQuery { limit: 2, ..all() }).await;
    assert_eq!(two.len(), 2);
    assert_eq!(two[0].at, NOW + Duration::from_secs(5), "the newest comes first");
}

pub async fn numbers_have_no_gap_whatever_was_undone(stage: &Stage) {
    let replica = stage.replica("one");
    register_named(&replica, "ada").await;
    let work = (0..40).map(|n| {
        let replica = &replica;
        async move {
            match n % 4 {
                0 => drop(register_named(replica, &format!("agent-{n}")).await),
                1 => drop(remove(replica, &format!("unknown-{n}")).await),
                2 => record(replica, &[act("tool.call", "a"), act("tool.call", "b")]).await,
                _ => {
                    let (thief, audit) = (NewAgent::named(id("ada"), "Thief"), act("agent.steal", "ada"));
                    let steal = || {
                        let (thief, audit) = (thief.clone(), audit.clone());
                        async move { replica.agents.register(&hall(), &thief, IfPresent::Refuse, NOW, audit).await }
                    };
                    assert_eq!(insist(steal).await.unwrap_err().code, ErrorCode::PermissionDenied);
                }
            }
        }
    });
    futures::future::join_all(work).await;
    let written = counted(&replica, &hall()).await;
    assert_eq!(written.len(), 1, "one process writes one epoch: {written:?}");
    assert!(written[0].records >= 31, "{written:?}");
    let mut numbers: Vec<_> = query(&replica, &hall(), &AuditQuery { limit: 1_000, ..Default::default() })
        .await
        .iter()
        .map(|record| record.number)
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=written[0].records).collect::<Vec<_>>());
}

/// More than fit into one statement, too.
pub async fn one_call_records_for_many_tenants(stage: &Stage) {
    let replica = stage.replica("one");
    let tenants = ["red", "blue", "green"].map(tenant);
    let entries: Vec<_> =
        (0..3_300).map(|n| act_in(&tenants[if n < 3_000 { 0 } else { n % 3 }], "tool.call", &format!("{n}"))).collect();
    record(&replica, &entries).await;
    record(&replica, &[]).await;
    for (tenant, at_least) in tenants.iter().zip([3_100, 100, 100]) {
        let written = counted(&replica, tenant).await;
        let [there] = &written[..] else { panic!("one process writes one epoch a tenant: {written:?}") };
        assert_eq!((there.writer.as_str(), there.epoch), ("one", 1));
        assert!(there.records >= at_least && there.records % at_least == 0, "{tenant}: {there:?}");
        assert_eq!(there.unsealed, there.records);
    }
}

pub async fn replicas_of_one_name_do_not_share_an_epoch(stage: &Stage) {
    let replicas = [stage.replica("twin"), stage.replica("twin")];
    for round in 0..3 {
        for replica in &replicas {
            record(replica, &[act("tool.call", &format!("{round}"))]).await;
        }
    }
    let written = counted(&replicas[0], &hall()).await;
    let epochs: Vec<_> = written.iter().map(|there| (there.writer.as_str(), there.epoch)).collect();
    assert_eq!(epochs, [("twin", 1), ("twin", 2)]);
    assert!(written.iter().all(|there| there.records >= 3), "{written:?}");

    // Nor is one refused because another begins at the same moment.
    for n in 0..8 {
        let entry = act_in(&tenant(&format!("t{n}")), "tool.call", "first");
        let at_once = replicas.iter().map(|replica| replica.audit.record(vec![entry.clone()]));
        for recorded in join_all(at_once).await {
            assert!(recorded.is_ok() || !stage.answers_once(), "{recorded:?}");
        }
    }
}

pub async fn an_epoch_that_is_closed_is_followed_by_the_next(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    insist(async || one.audit.close_epochs().await).await.expect("nothing was opened yet");
    for replica in [&one, &other] {
        record(replica, &[act("tool.call", "before"), act_in(&tenant("red"), "tool.call", "before")]).await;
    }
    insist(async || one.audit.close_epochs().await).await.unwrap();
    for tenant in [hall(), tenant("red")] {
        let closed = eventually("one's epoch is closed, the other's is not", async || {
            let epochs = other.audit.epochs(&tenant).await?;
            let closed: Vec<_> = epochs.iter().map(|epoch| (epoch.writer.clone(), epoch.closed)).collect();
            Ok((closed == [("one".to_owned(), true), ("other".to_owned(), false)]).then_some(epochs))
        });
        let promised = closed.await[0].last_number;
        record(&one, &[act_in(&tenant, "tool.call", "after")]).await;
        let written = counted(&one, &tenant).await;
        let epochs: Vec<_> = written.iter().map(|there| (there.writer.as_str(), there.epoch)).collect();
        assert_eq!(epochs, [("one", 1), ("one", 2), ("other", 1)]);
        assert_eq!(written[0].records, promised, "a closed epoch has grown");
    }
}
