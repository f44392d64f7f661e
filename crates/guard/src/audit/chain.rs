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
    hex::encode(hash.finalize())
}

/// What a record keeps of its body for ever.
pub fn body_hash(salt: &[u8], body: &Value) -> String {
    hex::encode(Sha256::new().chain_update(salt).chain_update(canonical_body(body)).finalize())
}

#[cfg(test)]
mod tests {
    use guildhall_domain::{PrincipalKind, TenantId, Timestamp, audit::Outcome};
    use serde_json::json;

    use super::*;

    fn record() -> AuditRecord {
        let salt = [7; 16];
        let body = json!({"name": "Worker", "roles": ["agent"]});
        AuditRecord {
            tenant: TenantId::default(),
            position: None,
            writer: "hall-1".to_owned(),
            epoch: 2,
            number: 3,
            at: Timestamp::from_millis(1_767_225_600_000),
            actor_kind: PrincipalKind::Agent,
            actor: "worker-1".to_owned(),
            act: "agent.register".to_owned(),
            target: "agent:worker-1".to_owned(),
            outcome: Outcome::Done,
            body_hash: body_hash(&salt, &body),
            salt: Some(hex::encode(salt)),
            body: Some(body),
            hash: None,
        }
    }

    #[test]
    fn the_form_of_the_chain_does_not_change_unnoticed_or_every_old_chain_would_break() {
        insta::assert_snapshot!(record().body_hash, @"20cfe8bdef94475f1d15bafcfae3efd3521345c6d435a04152cf845f7a5ff77b");
        insta::assert_snapshot!(record_hash("", 1, &record()), @"4edc7137877c6a559091c721f3fb10ebefeb3e10ab4d2222f64f8e1001851c43");
    }

    #[test]
    fn every_field_is_covered() {
        let seal = |record: &AuditRecord| record_hash("before", 9, record);
        let sealed = seal(&record());
        assert_ne!(record_hash("Before", 9, &record()), sealed);
        assert_ne!(record_hash("before", 10, &record()), sealed);
        for change in [
            (|r| r.tenant = TenantId::new("acme").unwrap()) as fn(&mut AuditRecord),
            |r| r.writer.push('x'),
            |r| r.epoch += 1,
            |r| r.number += 1,
            |r| r.at = r.at + std::time::Duration::from_millis(1),
            |r| r.actor_kind = PrincipalKind::Person,
            |r| r.actor.push('x'),
            |r| r.act.push('x'),
            |r| r.target.push('x'),
            |r| r.outcome = Outcome::Failed,
            |r| r.body_hash.push('x'),
        ] {
            let mut changed = record();
            change(&mut changed);
            assert_ne!(seal(&changed), sealed, "{changed:?}");
        }
    }

    #[test]
    fn text_moved_from_one_field_into_the_next_changes_the_hash() {
        let mut moved = record();
        let last = moved.actor.pop().unwrap();
        moved.act.insert(0, last);
        assert_ne!(record_hash("", 1, &moved), record_hash("", 1, &record()));
    }

    #[test]
    fn erasing_a_person_leaves_the_chain_whole() {
        let erased = AuditRecord { body: None, salt: None, ..record() };
        assert_eq!(record_hash("", 1, &erased), record_hash("", 1, &record()));
    }
}
