//! Migrations: by several processes at once, twice, and over a database that knows more than this program.

use futures::future::join_all;
use guildhall_domain::{
    AuditEntry, ErrorCode, NewAgent, Principal, TenantId, Timestamp, ports::agent_store::IfPresent,
};
use guildhall_store::{DatabaseUrl, Migrated, SchemaState, Store};

use crate::{
    engines::{execute, open},
    on_both,
};

const NEWEST: i64 = 2;

on_both! {
    processes_that_migrate_at_once_all_succeed
    a_database_of_a_newer_program_is_refused_and_left_alone
    a_call_before_the_first_migration_says_what_to_run
}

async fn processes_that_migrate_at_once_all_succeed(url: &DatabaseUrl) {
    let processes: Vec<Store> = (0..4).map(|n| open(url, &format!("process-{n}"))).collect();
    for outcome in join_all(processes.iter().map(Store::migrate)).await {
        assert_eq!(outcome.unwrap().to, NEWEST);
    }
    for process in &processes {
        assert_eq!(process.schema().await.unwrap(), SchemaState::Current { version: NEWEST });
        assert_eq!(process.migrate().await.unwrap(), Migrated { from: NEWEST, to: NEWEST });
    }
}

async fn a_database_of_a_newer_program_is_refused_and_left_alone(url: &DatabaseUrl) {
    let store = open(url, "old");
    store.migrate().await.unwrap();
    execute(
        url,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99, 'of the future', TRUE, 'x', 0)",
    )
    .await;
    let ahead = SchemaState::Ahead { version: 99, newest: NEWEST };
    assert_eq!(store.schema().await.unwrap(), ahead);
    let refused = store.migrate().await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unsupported);
    assert!(refused.message.contains("99") && refused.message.contains("newer guildhall"), "{refused}");
    assert_eq!(store.schema().await.unwrap(), ahead);
}

async fn a_call_before_the_first_migration_says_what_to_run(url: &DatabaseUrl) {
    let store = open(url, "early");
    assert_eq!(store.schema().await.unwrap(), SchemaState::Behind { version: 0, newest: NEWEST });
    let (tenant, now) = (TenantId::default(), Timestamp::default());
    let audit = AuditEntry::done(&Principal::hall(tenant.clone(), "test"), now, "a", "b", Default::default());
    let ada = NewAgent::named("ada".parse().unwrap(), "Ada");
    let write = store.agents().register(&tenant, &ada, IfPresent::Update, now, audit).await.unwrap_err();
    let read = store.agents().agent(&tenant, &ada.agent_id).await.unwrap_err();
    for refused in [write, read] {
        assert_eq!(refused.code, ErrorCode::Unavailable);
        assert!(refused.message.contains("guildhall migrate"), "{refused}");
    }
}
