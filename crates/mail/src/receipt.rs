//! How a sender's key is remembered: as hashes, so that a row is small and says nothing.

use guildhall_domain::{
    AgentId, TenantId, Timestamp,
    audit::canonical_body,
    mail::NewMessage,
    ports::mail_store::{ReceiptKey, RequestTerms},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// `None` without a key: then nothing is hashed. `asked` is a request's terms, as of `now`.
pub(crate) fn of(
    tenant: &TenantId,
    sender: &AgentId,
    new: &NewMessage,
    asked: Option<&RequestTerms>,
    now: Timestamp,
) -> Option<ReceiptKey> {
    let mut key = Parts::default();
    key.add(tenant.as_str());
    key.add(sender.as_str());
    key.add(new.idempotency_key.as_deref()?);

    let mut said = Parts::default();
    said.add(new.to.to_string());
    said.add(&new.kind);
    said.add([new.priority.rank(), u8::from(new.requires_response)]);
    match new.body.parse::<Value>() {
        // What it means and not how it was spelled: a repeat may have been written anew.
        Ok(body) => said.add(canonical_body(&body)),
        // Nested deeper than can be read: then its text.
        Err(_) => said.add(new.body.as_text()),
    }
    said.add_maybe(new.reply_to.map(|id| id.bytes()));
    said.add_maybe(new.correlation_id.as_ref());
    said.add_maybe(new.conversation_id.as_ref());
    said.add_maybe(new.expires_in.map(|time| time.as_millis().to_be_bytes()));
    // Its deadline is another each time that it is sent.
    let terms = |terms: &RequestTerms| [terms.deadline.since(now).as_millis(), u128::from(terms.waits)];
    said.add_maybe(asked.map(|asked| terms(asked).map(u128::to_be_bytes).concat()));
    Some(ReceiptKey { key: key.hash(), fingerprint: said.hash() })
}

/// Each part goes in with its length, so that no two lists of parts are the same bytes.
#[derive(Default)]
struct Parts(Sha256);

impl Parts {
    fn add(&mut self, part: impl AsRef<[u8]>) {
        self.0.update((part.as_ref().len() as u64).to_be_bytes());
        self.0.update(part);
    }

    /// A part that is left out is not an empty one.
    fn add_maybe(&mut self, part: Option<impl AsRef<[u8]>>) {
        match part {
            Some(part) => self.add(part),
            None => self.0.update(u64::MAX.to_be_bytes()),
        }
    }

    fn hash(self) -> [u8; 16] {
        *self.0.finalize().first_chunk().expect("SHA-256 gives 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use guildhall_domain::mail::{Body, MessageId, Priority};

    use super::*;

    fn said(body: &str) -> NewMessage {
        let new = NewMessage::new("b".parse().unwrap(), Body::from_text(body).unwrap());
        NewMessage { idempotency_key: Some("k".into()), ..new }
    }

    fn receipt(new: &NewMessage) -> ReceiptKey {
        of(&TenantId::default(), &"a".parse().unwrap(), new, None, Timestamp::default()).unwrap()
    }

    #[test]
    fn the_same_body_spelled_anew_is_the_same_message() {
        assert_eq!(receipt(&said(r#"{"a":1,"b":[1.50]}"#)), receipt(&said(r#"{ "b": [1.5], "a": 1 }"#)));
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        assert_eq!(receipt(&said(&deep)), receipt(&said(&deep)));
    }

    #[test]
    fn whatever_else_was_said_is_another_message_under_the_same_key() {
        let first = said("1");
        let others = [
            said("2"),
            NewMessage { to: "c".parse().unwrap(), ..said("1") },
            NewMessage { kind: "other".into(), ..said("1") },
            NewMessage { priority: Priority::Low, ..said("1") },
            NewMessage { requires_response: true, ..said("1") },
            NewMessage { reply_to: Some(MessageId::from_bytes([0; 16])), ..said("1") },
            NewMessage { correlation_id: Some("x".into()), ..said("1") },
            NewMessage { conversation_id: Some("x".into()), ..said("1") },
            NewMessage { expires_in: Some(Duration::from_secs(1)), ..said("1") },
        ];
        let mut seen = vec![receipt(&first).fingerprint];
        for other in &others {
            assert_eq!(receipt(other).key, receipt(&first).key);
            seen.push(receipt(other).fingerprint);
        }
        let asked = |waits, timeout_ms, now_ms| {
            let (now, sender) = (Timestamp::from_millis(now_ms), "a".parse().unwrap());
            let terms = RequestTerms { deadline: now + Duration::from_millis(timeout_ms), waits };
            of(&TenantId::default(), &sender, &first, Some(&terms), now).unwrap().fingerprint
        };
        assert_eq!(asked(true, 1, 5), asked(true, 1, 6), "when it is asked again says nothing");
        seen.extend([asked(false, 1, 5), asked(true, 1, 5), asked(true, 2, 5)]);
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count, "two messages share a fingerprint");
    }

    #[test]
    fn tenants_senders_and_keys_never_run_into_each_other() {
        let key = |tenant: &str, sender: &str, key: &str| {
            let new = NewMessage { idempotency_key: Some(key.into()), ..said("1") };
            of(&TenantId::new(tenant).unwrap(), &sender.parse().unwrap(), &new, None, Timestamp::default()).unwrap().key
        };
        let first = key("t", "ab", "c");
        for other in [key("t", "a", "bc"), key("ta", "b", "c"), key("t", "ab", "d"), key("u", "ab", "c")] {
            assert_ne!(first, other);
        }
        let keyless = NewMessage { idempotency_key: None, ..said("1") };
        assert_eq!(of(&TenantId::default(), &"a".parse().unwrap(), &keyless, None, Timestamp::default()), None);
    }
}
