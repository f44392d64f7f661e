//! Migrations: by several processes at once, twice, and over a database that knows more than this program.

use std::path::Path;

use futures::future::join_all;
use guildhall_domain::{
    AuditEntry, AuditRecord, ErrorCode, NewAgent, Principal, PrincipalKind, TenantId, Timestamp,
    audit::Outcome,
    ports::{agent_store::IfPresent, audit_store::Head},
};
use guildhall_guard::audit::{
    chain::{body_hash, record_hash},
    seal_tenant, verify,
};
use guildhall_store::{DatabaseUrl, Migrated, SchemaState, Store};
use serde_json::json;
use sqlx::{ConnectOptions, migrate::Migrator, sqlite::SqliteConnectOptions};

use crate::{
    engines::{execute, open},
    on_both,
};

const NEWEST: i64 = 3;

on_both! {
    processes_that_migrate_at_once_all_succeed
    a_database_of_a_newer_program_is_refused_and_left_alone
    a_call_before_the_first_migration_says_what_to_run
    a_chain_that_was_sealed_record_by_record_is_carried_over
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

/// As a hall of that version would have left it.
async fn migrate_to(url: &DatabaseUrl, version: i64) {
    let engine = if matches!(url, DatabaseUrl::Sqlite(_)) { "sqlite" } else { "postgres" };
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(engine);
    let mut migrator = Migrator::new(migrations).await.unwrap();
    migrator.migrations.to_mut().retain(|migration| migration.version <= version);
    match url {
        DatabaseUrl::Sqlite(path) => {
            let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
            migrator.run(&mut options.connect().await.unwrap()).await.unwrap();
        }
        DatabaseUrl::Postgres(options) => migrator.run(&mut options.connect().await.unwrap()).await.unwrap(),
    }
}

/// A record of schema 2, and the SQL that puts it there under the position and the hash that a sealer gave it.
fn old_record(writer: &str, number: u64, sealed: Option<&mut Head>) -> String {
    let body = json!({ "n": number });
    let record = AuditRecord {
        tenant: TenantId::default(),
        position: None,
        writer: writer.to_owned(),
        epoch: 1,
        number,
        at: Timestamp::from_millis(1),
        actor_kind: PrincipalKind::Agent,
        actor: "ada".to_owned(),
        act: "tool.call".to_owned(),
        target: format!("tool:{writer}-{number}"),
        outcome: Outcome::Done,
        body_hash: body_hash(&[7; 16], &body),
        salt: None,
        body: None,
        hash: None,
    };
    let (position, hash) = match sealed {
        None => ("NULL".to_owned(), "NULL".to_owned()),
        Some(head) => {
            let position = head.position + 1;
            *head = Head { position, hash: record_hash(&head.hash, position, &record) };
            (position.to_string(), format!("'{}'", head.hash))
        }
    };
    let AuditRecord { target, body_hash, .. } = record;
    format!(
        "INSERT INTO audit_records (tenant, writer, epoch, number, recorded_at, at, actor_kind, actor, act, target,
             outcome, body_hash, position, hash)
         VALUES ('default', '{writer}', 1, {number}, 1, 1, 'agent', 'ada', 'tool.call', '{target}', 'done',
             '{body_hash}', {position}, {hash});"
    )
}

async fn a_chain_that_was_sealed_record_by_record_is_carried_over(url: &DatabaseUrl) {
    migrate_to(url, 2).await;
    // A long stretch of one writer's, then two who take turns, and what was not sealed yet.
    let mut head = Head::default();
    let mut rows: String = (1..=1_100).map(|number| old_record("one", number, Some(&mut head))).collect();
    for turn in 1..=50 {
        rows += &old_record("two", turn, Some(&mut head));
        rows += &old_record("one", 1_100 + turn, Some(&mut head));
    }
    rows.extend((1_151..=1_155).map(|number| old_record("one", number, None)));
    rows += &format!(
        "INSERT INTO audit_epochs (tenant, writer, epoch, run, last_number, last_at, closed)
             VALUES ('default', 'one', 1, 'x', 1155, 1, FALSE), ('default', 'two', 1, 'y', 50, 1, TRUE);
         INSERT INTO audit_heads (tenant, position, hash) VALUES ('default', {}, '{}');",
        head.position, head.hash
    );
    execute(url, rows).await;

    let store = open(url, "new");
    assert_eq!(store.migrate().await.unwrap(), Migrated { from: 2, to: NEWEST });
    let (audit, tenant) = (store.audit(), TenantId::default());
    let verdict = verify(&*audit, &tenant).await.unwrap();
    assert_eq!((verdict.sealed, verdict.unsealed, &verdict.faults[..]), (1_200, 5, &[][..]));
    let runs = audit.seals(&tenant, 0, 1_000).await.unwrap();
    let lengths: Vec<u64> = runs.iter().map(|seal| seal.numbers().count() as u64).collect();
    assert_eq!((lengths.len(), lengths[0], lengths[1], lengths.iter().sum::<u64>()), (102, 1_000, 100, 1_200));
    assert_eq!(audit.head(&tenant).await.unwrap(), head);

    // The old chain goes on, and what is done to its old part still shows.
    assert_eq!(seal_tenant(&*audit, &tenant).await.unwrap(), 5);
    let verdict = verify(&*audit, &tenant).await.unwrap();
    assert_eq!((verdict.sealed, verdict.unsealed, &verdict.faults[..]), (1_205, 0, &[][..]));
    execute(url, "UPDATE audit_records SET actor = 'mallory' WHERE target = 'tool:two-7'").await;
    let faults = verify(&*audit, &tenant).await.unwrap().faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("record 1113 (number 7 of writer two's epoch 1): this is not"), "{faults:?}");
}
