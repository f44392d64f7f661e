//! The contracts of the store, of mail's store and of topics' on SQLite and on a real Postgres, bare and behind faults;
//! then what is this crate's own: migrations, the shared commit, what an engine that is away looks like, and what tampering leaves behind, in the
//! counts and for whoever verifies the chain.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

mod chain;
mod commits;
mod engines;
mod migrations;
mod sends;
mod subscribers;
mod tampering;

use guildhall_testkit::{mail_store_contract, store_contract, topic_store_contract};

store_contract!(on_sqlite, super::super::engines::sqlite);
store_contract!(on_postgres, super::super::engines::postgres);

mod mail {
    use super::*;

    mail_store_contract!(on_sqlite, super::super::super::engines::sqlite);
    mail_store_contract!(on_postgres, super::super::super::engines::postgres);
}

mod topics {
    use super::*;

    topic_store_contract!(on_sqlite, super::super::super::engines::sqlite);
    topic_store_contract!(on_postgres, super::super::super::engines::postgres);
}
