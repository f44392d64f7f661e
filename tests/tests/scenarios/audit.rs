//! What was done is remembered, and whoever changes the memory is found out.

use std::time::Duration;

use guildhall_tests::{Hall, Setup, eventually, scenarios};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

scenarios! {
    acts_of_policy_are_remembered_with_their_actor(Setup::required());
    the_chain_holds_and_an_edited_record_is_found(Setup::required());
    a_deleted_record_is_found(Setup::required());
}

async fn acts(hall: &Hall) {
    for agent in ["one", "two", "three"] {
        hall.admin().register(agent).await;
    }
    hall.admin().post("/api/v1/agents/two/pause", json!({"reason": "because"})).await.ok();
    hall.admin().delete("/api/v1/agents/three").await.ok();
}

/// Waits until the sealer has been by.
async fn sealed(hall: &Hall, at_least: u64) {
    eventually("the acts are sealed", Duration::from_secs(20), async || {
        let verdict = hall.run(&["audit", "verify", "--json"]).await.json();
        assert_eq!(verdict["faults"], json!([]), "{verdict}");
        (verdict["sealed"].as_u64().unwrap() >= at_least && verdict["unsealed"] == 0).then_some(())
    })
    .await;
}

async fn acts_of_policy_are_remembered_with_their_actor(hall: &Hall) {
    acts(hall).await;
    let list = hall.admin().get("/api/v1/audit?act=agent.pause").await.ok();
    let record = &list["records"][0];
    assert_eq!((&record["actor"], &record["target"]), (&json!("admin"), &json!("agent:two")), "{list}");
    assert_eq!(record["outcome"], "done");
    let queried = hall.run(&["audit", "query", "--act", "agent.", "--json"]).await.ok().json();
    let acts: Vec<&str> =
        queried["records"].as_array().unwrap().iter().map(|record| record["act"].as_str().unwrap()).collect();
    assert_eq!(acts.iter().filter(|act| **act == "agent.register").count(), 3, "{acts:?}");
    let exported = hall.run(&["audit", "export"]).await.ok();
    assert!(exported.stdout.lines().count() >= 5, "{}", exported.stdout);
    for line in exported.stdout.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(record["body_hash"].is_string(), "{record}");
    }
    // Not for everyone's eyes.
    let agent = hall.caller().token(&hall.admin().register("nosy").await);
    agent.get("/api/v1/audit").await.refused(403, "PermissionDenied");
}

/// Straight into the database, as someone with its password would.
async fn tamper(hall: &Hall, statement: &'static str) {
    let done = if hall.database_url().starts_with("sqlite:") {
        let mut connection = SqliteConnection::connect(hall.database_url()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap().rows_affected()
    } else {
        let mut connection = PgConnection::connect(hall.database_url()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap().rows_affected()
    };
    assert_eq!(done, 1, "{statement}");
}

async fn the_chain_holds_and_an_edited_record_is_found(hall: &Hall) {
    acts(hall).await;
    sealed(hall, 5).await;
    let exported = hall.run(&["audit", "export"]).await.ok();
    let records = exported.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let mut places: Vec<(u64, Value)> =
        records.filter_map(|record| Some((record["position"].as_u64()?, record["hash"].clone()))).collect();
    places.sort_unstable_by_key(|(position, _)| *position);
    assert!(places.iter().map(|(position, _)| *position).eq(1..=places.len() as u64), "{places:?}");
    assert!(places.last().is_some_and(|(_, hash)| hash.is_string()), "what is sealed ends with a hash: {places:?}");
    tamper(hall, "UPDATE audit_records SET actor = 'innocent' WHERE act = 'agent.pause'").await;
    let verdict = hall.run(&["audit", "verify", "--json"]).await.failed().json();
    assert_eq!(verdict["faults"].as_array().unwrap().len(), 1, "{verdict}");
    let verdict = hall.admin().get("/api/v1/audit/verify").await.ok();
    assert_eq!(verdict["holds"], false, "{verdict}");
}

async fn a_deleted_record_is_found(hall: &Hall) {
    acts(hall).await;
    sealed(hall, 5).await;
    tamper(hall, "DELETE FROM audit_records WHERE act = 'agent.pause'").await;
    let verdict = hall.run(&["audit", "verify", "--json"]).await.failed().json();
    assert!(!verdict["faults"].as_array().unwrap().is_empty(), "{verdict}");
}
