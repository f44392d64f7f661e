//! The address of an engine, which may hold its password: only [`EngineUrl::expose`] gives it whole.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use crate::secret::MASK;

#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct EngineUrl(SecretString);

impl EngineUrl {
    pub fn new(url: impl Into<String>) -> Self {
        Self(SecretString::from(url.into()))
    }

    /// The whole address, password included: for the engine's client alone.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// `postgres`, `sqlite`, `nats` …; empty for what is no URL.
    pub fn scheme(&self) -> &str {
        self.expose().split_once(':').map_or("", |(scheme, _)| scheme)
    }

    /// What stands after the scheme of an embedded engine: its path, empty for the default one.
    pub fn path(&self) -> &str {
        self.expose().split_once(':').map_or("", |(_, path)| path)
    }

    /// Several servers of one engine are divided by commas.
    pub(crate) fn servers(&self) -> impl Iterator<Item = Result<Url, url::ParseError>> {
        self.expose().split(',').map(|server| Url::parse(server.trim()))
    }
}

/// With the password masked.
impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, server) in self.expose().split(',').enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            f.write_str(&masked(server.trim()))?;
        }
        Ok(())
    }
}

/// What stands before the last `@` of the authority may be a password or a token (`nats://token@host`).
fn masked(server: &str) -> String {
    let masked = masked_login(server);
    // Postgres takes the password as a parameter as well.
    let Some(from) = masked.find("password=").map(|at| at + "password=".len()) else { return masked };
    let to = masked[from..].find('&').map_or(masked.len(), |end| from + end);
    format!("{}{MASK}{}", &masked[..from], &masked[to..])
}

fn masked_login(server: &str) -> String {
    let Some((scheme, rest)) = server.split_once("://") else { return server.to_owned() };
    let authority_ends = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password with an unescaped `/` or `?` hides the `@` behind it: then everything up to that `@` is masked.
    let Some(at) = rest[..authority_ends].rfind('@').or_else(|| rest.rfind('@')) else { return server.to_owned() };
    let (login, place) = rest.split_at(at);
    match login.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:{MASK}{place}"),
        None if scheme.starts_with("postgres") => server.to_owned(),
        None => format!("{scheme}://{MASK}{place}"),
    }
}

impl fmt::Debug for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for EngineUrl {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_address_is_never_shown() {
        let shown = |url: &str| EngineUrl::new(url).to_string();
        assert_eq!(
            shown("postgres://hall:pa55@db/hall?sslmode=require"),
            "postgres://hall:***@db/hall?sslmode=require"
        );
        assert_eq!(shown("redis://:pa55@cache:6379/0"), "redis://:***@cache:6379/0");
        assert_eq!(shown("nats://t0ken@bus:4222"), "nats://***@bus:4222");
        assert_eq!(shown("nats://a:b@one:4222,nats://a:b@two:4222"), "nats://a:***@one:4222,nats://a:***@two:4222");
        assert_eq!(shown("postgres://hall:pa/5@5@db/hall"), "postgres://hall:***@db/hall");
        assert_eq!(shown("postgres://db/hall?user=u&password=pa55&x=y"), "postgres://db/hall?user=u&password=***&x=y");
        assert_eq!(shown("sqlite:/data/hall.db"), "sqlite:/data/hall.db");
        assert_eq!(format!("{:?}", EngineUrl::new("redis://:pa55@cache")), "redis://:***@cache");
    }
}
