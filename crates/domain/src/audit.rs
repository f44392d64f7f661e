//! What was done, by whom, and the proof that nothing was changed afterwards.
//!
//! An [`AuditEntry`] is what someone records. In the database it becomes an [`AuditRecord`]: numbered by its
//! writer within an epoch, so that a missing one shows, and later chained by the tenant's sealer, a run of them at a
//! time.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Principal, PrincipalKind, TenantId, Timestamp};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Done,
    Refused,
    Failed,
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl std::str::FromStr for Outcome {
    type Err = crate::Error;
    fn from_str(word: &str) -> crate::Result<Self> {
        match word {
            "done" => Ok(Self::Done),
            "refused" => Ok(Self::Refused),
            "failed" => Ok(Self::Failed),
            _ => Err(crate::Error::invalid("outcome is one of done, refused, failed")),
        }
    }
}

/// An act worth remembering.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    pub tenant: TenantId,
    pub at: Timestamp,
    pub actor_kind: PrincipalKind,
    pub actor: String,
    /// Dotted, for example `agent.register` or `tool.call`.
    pub act: String,
    /// What it was done to, for example `agent:worker-1`.
    pub target: String,
    pub outcome: Outcome,
    /// Hashed with a salt of its own; never holds a secret.
    pub body: Value,
}

impl AuditEntry {
    pub fn done(by: &Principal, at: Timestamp, act: impl Into<String>, target: impl Into<String>, body: Value) -> Self {
        Self {
            tenant: by.tenant.clone(),
            at,
            actor_kind: by.kind,
            actor: by.id.to_string(),
            act: act.into(),
            target: target.into(),
            outcome: Outcome::Done,
            body,
        }
    }
}

/// An entry as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    pub tenant: TenantId,
    /// Its place in the tenant's chain, from 1; `None` until the sealer has been by.
    pub position: Option<u64>,
    /// Who wrote it (one process), its epoch, and its number within, from 1.
    pub writer: String,
    pub epoch: u64,
    pub number: u64,
    pub at: Timestamp,
    pub actor_kind: PrincipalKind,
    pub actor: String,
    pub act: String,
    pub target: String,
    pub outcome: Outcome,
    /// SHA-256 over the salt's bytes and [`canonical_body`], hex.
    pub body_hash: String,
    /// 16 random bytes, hex. Erased together with the body when a person is to be forgotten; the hash, and so the
    /// chain, stays, and without the salt nobody can try bodies against it.
    pub salt: Option<String>,
    pub body: Option<Value>,
    /// SHA-256 over the hash before it and this record, hex. Known at the end of each run of records that were sealed
    /// together, and from there to the next can be computed; `None` elsewhere.
    pub hash: Option<String>,
}

/// What of a body is hashed: its value, not its text. An engine may keep JSON in its own order and spelling (JSONB
/// sorts keys and writes 1e3 as 1000); the hash must not notice.
pub fn canonical_body(body: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_canonical(body, &mut bytes);
    bytes
}

fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    let length = |length: usize, out: &mut Vec<u8>| out.extend_from_slice(&(length as u64).to_be_bytes());
    match value {
        Value::Null => out.push(b'n'),
        Value::Bool(yes) => out.extend_from_slice(if *yes { b"t" } else { b"f" }),
        Value::Number(number) => {
            // Rust writes a float in plain digits, the fewest that mean it: 1e3 and 1000 become the same.
            let text = match number.as_f64() {
                Some(0.0) => "0".to_owned(),
                Some(float) if number.is_f64() => float.to_string(),
                _ => number.to_string(),
            };
            out.push(b'#');
            length(text.len(), out);
            out.extend_from_slice(text.as_bytes());
        }
        Value::String(text) => {
            out.push(b'"');
            length(text.len(), out);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Array(items) => {
            out.push(b'[');
            length(items.len(), out);
            items.iter().for_each(|item| write_canonical(item, out));
        }
        Value::Object(fields) => {
            out.push(b'{');
            length(fields.len(), out);
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            for (name, value) in fields {
                length(name.len(), out);
                out.extend_from_slice(name.as_bytes());
                write_canonical(value, out);
            }
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    pub actor: Option<String>,
    /// A prefix: `agent.` finds every act on agents.
    pub act: Option<String>,
    pub target: Option<String>,
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    /// Newest first; 0: 100, at most 1,000.
    pub limit: usize,
}

/// What `guildhall audit verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditVerdict {
    pub sealed: u64,
    pub unsealed: u64,
    pub epochs: u64,
    /// One sentence a fault, empty when the chain holds. At most 100 are named.
    pub faults: Vec<String>,
}

impl AuditVerdict {
    pub fn holds(&self) -> bool {
        self.faults.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> Vec<u8> {
        canonical_body(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_body_that_an_engine_respelled_still_has_its_hash() {
        for (written, kept) in [
            (r#"{"b":1,"a":[true,null]}"#, r#"{"a": [true, null], "b": 1}"#),
            ("1e3", "1000"),
            ("1.50", "1.5"),
            ("-0.0", "0"),
            ("1e16", "10000000000000000"),
            ("1.2345678901234567e19", "12345678901234567000"),
            ("1e300", &format!("1{}", "0".repeat(300))),
            ("1e-7", "0.0000001"),
        ] {
            assert_eq!(canonical(written), canonical(kept), "{written} and {kept}");
        }
    }

    #[test]
    fn bodies_that_differ_do_not_share_a_hash() {
        for (one, other) in [
            ("9007199254740993", "9007199254740992"),
            ("\"1\"", "1"),
            ("null", "false"),
            (r#"["ab"]"#, r#"["a","b"]"#),
            (r#"[[1],2]"#, r#"[[1,2]]"#),
            (r#"{"a":"b"}"#, r#"["a","b"]"#),
            (r#"{"a":{"b":1}}"#, r#"{"a":{},"b":1}"#),
            ("0.1", "0.10000000000000002"),
        ] {
            assert_ne!(canonical(one), canonical(other), "{one} and {other}");
        }
    }
}
