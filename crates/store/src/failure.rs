//! What may go wrong in SQL, in the words of the house. Said where it is known whether anything took effect.

use guildhall_domain::Error;
use sqlx::error::DatabaseError;

/// Why a write was not done: the hall's own rules, or the engine.
#[derive(Debug)]
pub(crate) enum Failure {
    Refused(Error),
    Sql(sqlx::Error),
    /// Another transaction did the like at the same moment: begun anew, this one will see what that one did.
    Raced(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Refused(unreadable(error))
    }
}

impl Failure {
    /// Whether it was another transaction that stood in the way.
    pub(crate) fn is_race(&self) -> bool {
        match self {
            Self::Raced(_) => true,
            Self::Sql(error) => {
                let code = error.as_database_error().and_then(|said| said.code());
                matches!(code.as_deref(), Some("40P01" | "40001"))
            }
            Self::Refused(_) => false,
        }
    }

    /// For the caller of something that was rolled back, or that only read: nothing took effect.
    pub(crate) fn without_effect(self, engine: &str) -> Error {
        match self {
            Self::Refused(error) | Self::Raced(error) => error,
            Self::Sql(error) => without_effect(engine, &error),
        }
    }
}

/// A row holds what this program never writes.
pub(crate) fn unreadable(what: impl std::fmt::Display) -> Error {
    Error::internal(format!("the database holds a row that cannot be read ({what}); was it edited by hand?"))
}

/// A write that the engine has not answered in time.
pub(crate) fn silent(engine: &str) -> Error {
    Error::timeout(format!(
        "{engine} stays silent; whether it has stored this is not known. Check that it runs and has a disk that \
         writes; then look, or repeat the call if it is safe to repeat"
    ))
}

/// A commit that failed. An answer of the engine says that it was not done, unless it is that the disk failed midway.
pub(crate) fn at_commit(engine: &str, error: &sqlx::Error) -> Error {
    match error {
        sqlx::Error::Database(said) if sqlite_code(said.as_ref()) != Some(SQLITE_IOERR) => {
            without_effect(engine, error)
        }
        _ => Error::timeout(format!(
            "the connection to {engine} was lost while it stored this; whether it did is not known. \
             Look, or repeat the call if it is safe to repeat"
        )),
    }
}

pub(crate) fn without_effect(engine: &str, error: &sqlx::Error) -> Error {
    match error {
        sqlx::Error::Database(said) => refused_by_engine(engine, said.as_ref()),
        sqlx::Error::PoolTimedOut => Error::unavailable(format!(
            "{engine} gave no connection in time: check that it runs, that database.url is right and that \
             database.max_connections suffices; nothing was changed, repeat the call later"
        )),
        sqlx::Error::PoolClosed => Error::unavailable("the hall is shutting down; repeat the call on another replica"),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed | sqlx::Error::BeginFailed => {
            Error::unavailable(format!(
                "{engine} is away ({error}): check that it runs and that database.url is right; nothing was changed, \
                 repeat the call later"
            ))
        }
        _ => Error::internal(format!("{engine} and this program do not understand each other: {error}")),
    }
}

/// True when the engine has no such table: the database was never migrated.
pub(crate) fn is_missing_table(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(says_missing_table)
}

fn says_missing_table(said: &(dyn DatabaseError + 'static)) -> bool {
    said.code().as_deref() == Some("42P01") || said.message().starts_with("no such table")
}

const SQLITE_IOERR: u32 = 10;

/// SQLite's primary code, the low byte of what it says; `None` for Postgres, whose codes are five characters.
fn sqlite_code(said: &dyn DatabaseError) -> Option<u32> {
    let code = said.code()?;
    (code.len() < 5).then(|| code.parse::<u32>().ok()).flatten().map(|code| code & 0xff)
}

fn refused_by_engine(engine: &str, said: &(dyn DatabaseError + 'static)) -> Error {
    let code = said.code().unwrap_or_default();
    let message = said.message();
    match (sqlite_code(said), &*code) {
        _ if says_missing_table(said) => Error::unavailable("the database has no schema yet: run `guildhall migrate`"),
        (Some(13), _) | (_, "53100") => Error::unavailable(format!(
            "the disk of {engine} is full: free some space, then repeat the call; nothing was changed"
        )),
        (Some(5 | 6), _) | (_, "55P03" | "40001" | "40P01" | "57014") => Error::unavailable(format!(
            "{engine} is held up by other work ({message}); nothing was changed, repeat the call"
        )),
        (Some(8 | SQLITE_IOERR | 14), _) => Error::unavailable(format!(
            "the database file cannot be used ({message}): check that its folder exists and may be written, and the \
             disk; nothing was changed"
        )),
        (_, "53300" | "57P01" | "57P02" | "57P03" | "3D000") => Error::unavailable(format!(
            "{engine} takes no work now ({message}); nothing was changed, repeat the call later"
        )),
        (_, code) if code.starts_with("28") => Error::unavailable(format!(
            "{engine} refuses the user of database.url ({code}): check its name, password and rights"
        )),
        (Some(11 | 26), _) => {
            Error::internal(format!("the database file is damaged ({message}): restore it from a backup"))
        }
        _ => Error::internal(format!("{engine} refused a statement of this program: {message} ({code})")),
    }
}
