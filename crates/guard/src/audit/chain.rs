//! The hash of a record: over every field, each with its length before it, and over the hash before.

use guildhall_domain::{AuditRecord, audit::canonical_body};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Stands before everything that is hashed, so that a later form of the chain cannot be taken for this one.
const FORM: &str = "guildhall audit 1";

/// The hash of `record` at `position`, after the record with the hash `before` (empty for the first).
///
/// The body is covered by its hash, so that it can be erased. The salt is covered by nothing, for the same reason.
pub fn record_hash(before: &str, position: u64, record: &AuditRecord) -> String {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    // Every field by name: a new one does not compile until it is decided whether the chain covers it.
    let AuditRecord {
        tenant,
        position: _,
        writer,
        epoch,
        number,
        at,
        actor_kind,
        actor,
        act,
        target,
        outcome,
        body_hash,
        salt: _,
        body: _,
        hash: _,
    } = record;
    field(FORM.as_bytes());
    field(before.as_bytes());
    field(&position.to_be_bytes());
    field(tenant.as_str().as_bytes());
    field(writer.as_bytes());
    field(&epoch.to_be_bytes());
    field(&number.to_be_bytes());
    field(&at.as_millis().to_be_bytes());
    field(actor_kind.as_str().as_bytes());
    field(actor.as_bytes());
    field(act.as_bytes());
    field(target.as_bytes());
    field(outcome.as_str().as_bytes());
    field(body_hash.as_bytes());
    hex(&hash.finalize())
}

/// What a record keeps of its body for ever.
pub fn body_hash(salt: &[u8], body: &Value) -> String {
    hex(&Sha256::new().chain_update(salt).chain_update(canonical_body(body)).finalize())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all that is written");
        text
    })
}

/// The bytes of a hex text, `None` when it is none.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
