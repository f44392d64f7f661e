//! `database.url`: which engine, and where.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use guildhall_domain::{Error, Result};
use sqlx::postgres::PgConnectOptions;

/// The file of an embedded hall, in its data directory.
const FILE: &str = "guildhall.db";

/// Where the hall's database is. Prints without the password.
#[derive(Clone)]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
    Postgres(Box<PgConnectOptions>),
}

impl DatabaseUrl {
    /// `sqlite:` is a file in `data_dir`, `sqlite:<path>` another one (a relative path begins in `data_dir`);
    /// `postgres://user:password@host:port/database?sslmode=…` is a Postgres server.
    pub fn parse(url: &str, data_dir: &Path) -> Result<Self> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.contains('?') || path.starts_with(":memory:") {
                return Err(Error::invalid(
                    "database.url: sqlite: takes the path of a file and no parameters, for example sqlite:hall.db",
                ));
            }
            return Ok(Self::Sqlite(data_dir.join(if path.is_empty() { FILE } else { path })));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let options = PgConnectOptions::from_str(url).map_err(|_| {
                Error::invalid("database.url: write it as postgres://user:password@host:port/database?sslmode=require")
            })?;
            return Ok(Self::Postgres(Box::new(options)));
        }
        Err(Error::invalid("database.url begins with sqlite: or postgres://"))
    }

    /// The engine's name as `/health` and messages say it.
    pub fn engine(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(options) => {
                let (host, port) = (options.get_host(), options.get_port());
                write!(f, "postgres://{host}:{port}/{}", options.get_database().unwrap_or_default())
            }
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<String> {
        DatabaseUrl::parse(url, Path::new("/data")).map(|url| format!("{url:?}"))
    }

    #[test]
    fn a_bare_scheme_is_a_file_in_the_data_directory_and_a_path_is_taken_as_said() {
        assert_eq!(parse("sqlite:").unwrap(), "sqlite:/data/guildhall.db");
        assert_eq!(parse("sqlite:sub/hall.db").unwrap(), "sqlite:/data/sub/hall.db");
        assert_eq!(parse("sqlite:///tmp/hall.db").unwrap(), "sqlite:/tmp/hall.db");
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(parse("postgres://me:hush@db:6543/hall").unwrap(), "postgres://db:6543/hall");
        let error = parse("postgres://me:hush@db:notaport/hall").unwrap_err();
        assert!(!error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn another_engine_or_a_database_that_forgets_is_refused() {
        for bad in ["mysql://x", "", "hall.db", "sqlite::memory:", "sqlite:hall.db?mode=memory"] {
            assert!(parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
