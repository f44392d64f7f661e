//! What was done is written down, and the chain shows that it still is.

use guildhall_domain::{
    AuditEntry, Call, Clock, ErrorCode, Principal, Result,
    audit::{AuditQuery, Outcome},
    ports::agent_registry::RegistrationRight,
};
use secrecy::SecretString;
use serde_json::json;

use super::{Stage, admin, admin_of, agent, hall, id, named, refused, tenant};
use crate::contract::{eventually, insist};

fn acts(prefix: &str) -> AuditQuery {
    AuditQuery { act: Some(prefix.to_owned()), limit: 1_000, ..AuditQuery::default() }
}

async fn come_to_be(
    stage: &Stage,
    by: &Call,
    what: &str,
    query: AuditQuery,
    is: impl Fn(&[(String, Outcome)]) -> bool,
) {
    let look = || async {
        let records = stage.there.audit(by, query.clone()).await?;
        let found: Vec<_> = records.into_iter().map(|record| (record.target, record.outcome)).collect();
        Ok(is(&found).then_some(()))
    };
    eventually(what, look).await;
}

pub async fn acts_and_refused_attempts_are_in_a_chain_that_holds(stage: &Stage) {
    stage.register(&admin(), &named("worker")).await.unwrap();
    insist(|| async { stage.there.pause(&admin(), &id("worker"), "tea").await }).await.unwrap();
    insist(|| async { stage.here.resume(&admin(), &id("worker")).await }).await.unwrap();
    drop(insist(|| async { stage.here.remove(&admin(), &id("worker")).await }).await);
    refused(stage.register(&agent("thief"), &named("victim")).await, ErrorCode::PermissionDenied);
    let made_up = RegistrationRight::Key(SecretString::from("ghr_made-up"));
    let by_key = insist(|| async { stage.here.register(&agent("x"), named("by-key"), made_up.clone()).await }).await;
    refused(by_key, ErrorCode::AuthenticationError);

    for act in ["agent.register", "agent.pause", "agent.resume", "agent.remove"] {
        come_to_be(stage, &admin(), act, acts(act), |found| {
            found.contains(&("agent:worker".to_owned(), Outcome::Done))
        })
        .await;
    }
    for target in ["agent:victim", "agent:by-key"] {
        come_to_be(stage, &admin(), target, acts("agent."), |found| {
            found.contains(&(target.to_owned(), Outcome::Refused))
        })
        .await;
    }
    let holds = || async {
        let verdict = stage.here.verify_audit(&admin()).await?;
        assert!(verdict.holds(), "{:?}", verdict.faults);
        Ok((verdict.unsealed == 0 && verdict.sealed >= 6).then_some(()))
    };
    eventually("every record is sealed", holds).await;
}

pub async fn entries_of_a_service_are_kept_for_their_tenant(stage: &Stage) {
    let by = Principal::hall(tenant("acme"), "gateway");
    let entry =
        |n: usize| AuditEntry::done(&by, stage.clock.now(), "tool.call", format!("tool:{n}"), json!({ "n": n }));
    let entries: Vec<_> = (0..3).map(entry).collect();
    insist(|| async { stage.here.record_audit(&hall(), entries.clone()).await }).await.unwrap();
    for n in 0..3 {
        let query = AuditQuery { target: Some(format!("tool:{n}")), ..acts("tool.") };
        come_to_be(stage, &admin_of("acme"), "the entry", query, |found| !found.is_empty()).await;
    }
    let ours: Result<Vec<_>> = insist(|| async { stage.there.audit(&admin(), acts("tool.")).await }).await;
    assert!(ours.unwrap().is_empty(), "another tenant reads them");
    let many: Vec<_> = (0..1_001).map(entry).collect();
    refused(insist(|| async { stage.here.record_audit(&hall(), many.clone()).await }).await, ErrorCode::InvalidParams);
}
