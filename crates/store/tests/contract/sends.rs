//! The lane of sends: a call that fails in the midst of a group, one that nobody waits for, and the end of the store.

use std::time::Duration;

use futures::future::join_all;
use guildhall_domain::{
    AgentId, AuditEntry, ErrorCode, Principal, Result, TenantId, Timestamp,
    mail::{Body, Mailbox, Message, MessageId, Priority, Recipient},
    ports::mail_store::{Accepted, Addressees, MailboxBound, Outgoing, ReceiptKey},
};
use guildhall_store::{DatabaseUrl, Store};
use sqlx::{Connection, SqliteConnection};
use tokio::time::{sleep, timeout};

use crate::engines::{execute, open, postgres_url, sqlite_in};

fn hall() -> TenantId {
    TenantId::default()
}

fn bob() -> AgentId {
    "bob".parse().unwrap()
}

fn letter(n: u128, kind: &str) -> Outgoing {
    let (now, message_id) = (Timestamp::from_millis(1), MessageId::from_bytes(n.to_be_bytes()));
    let message = Message {
        message_id,
        from: "ada".parse().unwrap(),
        to: Recipient::Agent(bob()),
        kind: kind.to_owned(),
        priority: Priority::Normal,
        body: Body::from_value(&n.to_string()).unwrap(),
        sent_at: now,
        expires_at: None,
        reply_to: None,
        correlation_id: None,
        conversation_id: None,
        requires_response: false,
    };
    let audit = AuditEntry::done(&Principal::hall(hall(), "test"), now, "message.send", "bob", Default::default());
    let receipt = Some(ReceiptKey { key: n.to_be_bytes(), fingerprint: [0; 16] });
    Outgoing { to: Addressees::One(Mailbox::Agent(bob())), receipt, request: None, audit, message }
}

async fn send(store: &Store, n: u128, kind: &str) -> Result<Accepted> {
    store.mail().send(&hall(), vec![letter(n, kind)], MailboxBound::default()).await
}

async fn is_there(store: &Store, n: u128) -> bool {
    store.mail().message(&hall(), MessageId::from_bytes(n.to_be_bytes()), None).await.unwrap().is_some()
}

async fn waiting(store: &Store) -> u64 {
    store.mail().unread(&hall(), &[Mailbox::Agent(bob())]).await.unwrap()[0].waiting
}

async fn migrated(url: &DatabaseUrl) -> Store {
    let store = open(url, "one");
    store.migrate().await.unwrap();
    store
}

/// The engine refuses one in ten.
async fn a_call_that_the_engine_refuses_fails_alone(url: &DatabaseUrl, refuse_bad: &'static str) {
    let store = migrated(url).await;
    execute(url, refuse_bad).await;
    let is_bad = |n: u128| n % 10 == 3;
    let sends = (0..100).map(|n| {
        let store = &store;
        async move { send(store, n, if is_bad(n) { "bad" } else { "good" }).await }
    });
    for (n, sent) in (0..).zip(join_all(sends).await) {
        match sent {
            Ok(accepted) => assert!(!is_bad(n) && !accepted.receipts[0].duplicate),
            Err(refused) => assert!(is_bad(n) && refused.code == ErrorCode::Internal, "{n}: {refused}"),
        }
        assert_eq!(is_there(&store, n).await, !is_bad(n));
    }
    assert_eq!(waiting(&store).await, 90);
    let written = store.audit().written(&hall()).await.unwrap();
    assert_eq!((written[0].records, written[0].last_number), (90, 90), "what failed has taken a number with it");
}

#[tokio::test]
async fn a_call_that_sqlite_refuses_leaves_its_neighbours_in_the_group_alone() {
    let folder = tempfile::tempdir().unwrap();
    let refuse_bad = "CREATE TRIGGER refuse_bad BEFORE INSERT ON messages WHEN NEW.kind = 'bad'
                      BEGIN SELECT RAISE(ABORT, 'bad'); END";
    a_call_that_the_engine_refuses_fails_alone(&sqlite_in(folder.path()), refuse_bad).await;
}

#[tokio::test]
async fn a_call_that_postgres_refuses_leaves_its_neighbours_in_the_group_alone() {
    let Some(url) = postgres_url().await else { return };
    let refuse_bad = "ALTER TABLE messages ADD CONSTRAINT refuse_bad CHECK (kind <> 'bad')";
    a_call_that_the_engine_refuses_fails_alone(&url, refuse_bad).await;
}

/// Another process's transaction on the same file, held until it is dropped.
async fn hold(url: &DatabaseUrl) -> SqliteConnection {
    let DatabaseUrl::Sqlite(path) = url else { panic!("only SQLite is held by its file") };
    let mut other = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    other
}

#[tokio::test]
async fn what_waits_while_the_file_is_held_goes_in_one_group_without_those_who_went_away() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_in(folder.path());
    let store = migrated(&url).await;
    let other = hold(&url).await;
    timeout(Duration::from_millis(100), join_all((0..4).map(|n| send(&store, n, "gone")))).await.unwrap_err();
    let released = async {
        sleep(Duration::from_millis(50)).await;
        other.close().await.unwrap();
    };
    let (sent, ()) = tokio::join!(join_all((10..20).map(|n| send(&store, n, "good"))), released);
    assert!(sent.iter().all(Result::is_ok), "{sent:?}");
    assert_eq!(waiting(&store).await, 10);
    for n in 0..4 {
        assert!(!is_there(&store, n).await, "it was sent though nobody waited for it");
    }
}

#[tokio::test]
async fn a_file_that_stays_held_fails_those_who_wait_and_nothing_of_them_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_in(folder.path());
    let store = migrated(&url).await;
    send(&store, 0, "good").await.unwrap();
    let other = hold(&url).await;
    for failed in join_all((1..9).map(|n| send(&store, n, "good"))).await {
        let failed = failed.unwrap_err();
        assert_eq!((failed.code, failed.retryable), (ErrorCode::Unavailable, true), "{failed}");
    }
    other.close().await.unwrap();
    assert!(!send(&store, 5, "good").await.unwrap().receipts[0].duplicate);
    assert_eq!(waiting(&store).await, 2);
}

#[tokio::test]
async fn closing_stores_the_sends_that_wait_and_refuses_later_ones() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_in(folder.path());
    let store = migrated(&url).await;
    let other = hold(&url).await;
    let close = async {
        sleep(Duration::from_millis(50)).await;
        tokio::join!(store.close(), async {
            sleep(Duration::from_millis(50)).await;
            other.close().await.unwrap();
        });
    };
    let (stored, ()) = tokio::join!(join_all((0..8).map(|n| send(&store, n, "good"))), close);
    assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    assert_eq!(send(&store, 9, "late").await.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(waiting(&open(&url, "two")).await, 8);
}
