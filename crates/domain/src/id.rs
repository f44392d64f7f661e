//! Names that were checked once: whoever holds an [`AgentId`] holds a well-formed one.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Agents may not take the name that addresses everyone.
pub const EVERYONE: &str = "ALL";
/// Whom mail is from that no agent sent, such as an event that a person published. It is read as a sender; no agent
/// may take it, or speak under it.
pub const HALL: &str = "hall";

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(name: impl AsRef<str>) -> Result<Self> {
                let name = name.as_ref();
                $check(name)?;
                Ok(Self(name.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(name: String) -> Result<Self> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    };
}

checked_name! {
    /// An agent's id: `[A-Za-z0-9][A-Za-z0-9_-]{0,127}`, and not `ALL`.
    AgentId, check_agent_id
}

impl AgentId {
    pub fn hall() -> Self {
        Self(HALL.into())
    }

    /// Whether an agent may be called so.
    pub fn check_free(&self) -> Result<()> {
        if self.as_str() == HALL {
            return Err(Error::invalid(
                "the agent id hall is reserved: mail that no agent sent comes from it; choose another id",
            ));
        }
        Ok(())
    }
}

checked_name! {
    /// A tenant's id: `[a-z0-9][a-z0-9-]{0,62}`. Nothing crosses a tenant.
    TenantId, check_tenant_id
}

impl Default for TenantId {
    fn default() -> Self {
        Self("default".into())
    }
}

fn check_agent_id(id: &str) -> Result<()> {
    let first_is_plain = id.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest_is_plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if id == EVERYONE {
        return Err(Error::invalid("the agent id ALL is reserved: it addresses everyone; choose another id"));
    }
    if !first_is_plain || !rest_is_plain || id.len() > 128 {
        return Err(Error::invalid(format!(
            "agent id {} is not valid: use 1 to 128 letters, digits, _ or -, the first a letter or digit",
            shown(id)
        )));
    }
    Ok(())
}

fn check_tenant_id(id: &str) -> Result<()> {
    let first_is_plain = id.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let rest_is_plain = id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !first_is_plain || !rest_is_plain || id.len() > 63 {
        return Err(Error::invalid(format!(
            "tenant {} is not valid: use 1 to 63 lower-case letters, digits or -, the first a letter or digit",
            shown(id)
        )));
    }
    Ok(())
}

/// A name as an error may show it: quoted, control characters escaped, never longer than a line.
fn shown(name: &str) -> String {
    let short: String = name.chars().take(60).collect();
    if short.len() < name.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_id_outside_the_contract_is_refused() {
        for bad in ["", "-a", "_a", "a b", "a/b", "ä", "ALL", &"x".repeat(129)] {
            assert!(AgentId::new(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["a", "9", "A_b-C", "all", &"x".repeat(128)] {
            assert!(AgentId::new(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn the_halls_own_name_is_read_as_a_sender_and_free_to_nobody() {
        assert_eq!(AgentId::new("hall").unwrap(), AgentId::hall());
        assert!(AgentId::hall().check_free().is_err());
        assert!(AgentId::new("Hall").unwrap().check_free().is_ok());
    }

    #[test]
    fn a_bad_id_cannot_enter_through_json() {
        assert!(serde_json::from_str::<AgentId>("\"a/../b\"").is_err());
        assert!(serde_json::from_str::<TenantId>("\"Big\"").is_err());
    }
}
