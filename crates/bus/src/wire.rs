//! What goes over the wire and onto the disk: the names of subjects and streams, and the envelope.
//!
//! An envelope is one byte of version, the length of its head (four bytes, big endian), the head as JSON (principal,
//! trace, time, headers) and the payload as it is. Both engines carry these same bytes. Unknown fields of the head are
//! passed over, so that replicas of two versions understand each other.

use bytes::Bytes;
use guildhall_domain::{
    Error, ErrorCode, Principal, Result, TenantId, Timestamp, TraceContext,
    ports::bus::{Envelope, Event, NodeName, Subject, Topic},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Streams that topics are spread over: more would cost memory of every server, fewer would make one of them hot.
/// Never to be changed: a topic would be looked for where it is not.
pub(crate) const PARTITIONS: u8 = 8;

/// Payload and headers of one message. An event has 64 KiB at most, and NATS takes 1 MiB with what it adds itself.
pub const CONTENT_MAX_BYTES: usize = 512 * 1024;

const VERSION: u8 = 1;
/// The version and the length of the head.
const PREFIX_BYTES: usize = 5;
/// Room for a head as most are; a larger one costs a second allocation.
const HEAD_BYTES: usize = 512;

pub(crate) fn hint_subject(subject: Subject) -> String {
    format!("gh.hint.{subject}")
}

/// Where one node is told things.
pub(crate) fn node_subject(node: &NodeName) -> String {
    format!("gh.node.{}", node.as_str())
}

/// Where a topic's events go. Tenants have no dots, and a topic's words between dots are never empty, so that one
/// topic's subject is never another's.
pub(crate) fn event_subject(tenant: &TenantId, topic: &Topic) -> String {
    place(tenant, topic).1
}

/// A topic's partition and subject.
pub(crate) fn place(tenant: &TenantId, topic: &Topic) -> (u8, String) {
    let partition = partition(tenant, topic);
    (partition, format!("gh.ev.{partition}.{tenant}.{topic}"))
}

pub(crate) fn stream_name(partition: u8) -> String {
    format!("GH_EV_{partition}")
}

pub(crate) fn stream_subjects(partition: u8) -> String {
    format!("gh.ev.{partition}.>")
}

/// The same on every machine and in every version of the program.
fn partition(tenant: &TenantId, topic: &Topic) -> u8 {
    digest(&[tenant.as_str(), topic.as_str()])[0] % PARTITIONS
}

/// What makes two publishes one: the same publisher's same key on the same topic.
pub(crate) fn duplicate_id(tenant: &TenantId, topic: &Topic, publisher: &Principal, key: &str) -> [u8; 32] {
    digest(&[tenant.as_str(), topic.as_str(), publisher.tenant.as_str(), publisher.kind.as_str(), &publisher.id, key])
}

/// Each part with its length, so that no two lists of parts are the same text.
fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[derive(Serialize, Deserialize)]
struct Head {
    principal: Principal,
    trace: TraceContext,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
}

pub(crate) fn check_size(envelope: &Envelope) -> Result<()> {
    let headers: usize = envelope.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let size = envelope.payload.len() + headers;
    if size <= CONTENT_MAX_BYTES {
        return Ok(());
    }
    let message = format!("a message of {size} bytes is too large for the bus: at most {CONTENT_MAX_BYTES}");
    Err(Error::new(ErrorCode::PayloadTooLarge, message))
}

pub(crate) fn encode(envelope: Envelope) -> Result<Bytes> {
    check_size(&envelope)?;
    let Envelope { principal, trace, at, headers, payload } = envelope;
    let head = Head { principal, trace, at, headers };
    let mut wire = Vec::with_capacity(PREFIX_BYTES + HEAD_BYTES + payload.len());
    wire.extend([VERSION, 0, 0, 0, 0]);
    serde_json::to_writer(&mut wire, &head)
        .map_err(|e| Error::internal(format!("an envelope cannot be written: {e}")))?;
    let head_length = u32::try_from(wire.len() - PREFIX_BYTES)
        .map_err(|_| Error::new(ErrorCode::PayloadTooLarge, "the principal of a message is too large for the bus"))?;
    wire[1..PREFIX_BYTES].copy_from_slice(&head_length.to_be_bytes());
    wire.extend_from_slice(&payload);
    Ok(wire.into())
}

pub(crate) fn decode(mut wire: Bytes) -> Result<Envelope> {
    let broken = |what: &str| Error::internal(format!("a message on the bus is not an envelope: {what}"));
    let [version, length @ ..] = *wire.first_chunk::<PREFIX_BYTES>().ok_or_else(|| broken("it is too short"))?;
    if version != VERSION {
        return Err(broken(&format!("its version is {version}, this program knows {VERSION}")));
    }
    let head_length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| broken("its head is too long"))?;
    let _prefix = wire.split_to(PREFIX_BYTES);
    if head_length > wire.len() {
        return Err(broken("its end is missing"));
    }
    let head: Head = serde_json::from_slice(&wire.split_to(head_length)).map_err(|e| broken(&e.to_string()))?;
    let Head { principal, trace, at, headers } = head;
    Ok(Envelope { principal, trace, at, headers, payload: wire })
}

/// A kept event. One that cannot be read is passed over: an error would end every replay there, for ever.
pub(crate) fn read(sequence: u64, published_at: Timestamp, envelope: Bytes) -> Option<Event> {
    match decode(envelope) {
        Ok(envelope) => Some(Event { sequence, published_at, envelope }),
        Err(error) => {
            tracing::warn!(sequence, %error, "passed over event {sequence}, which cannot be read: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_domain::PrincipalKind;

    use super::*;

    fn envelope() -> Envelope {
        let mut principal = Principal::new(TenantId::default(), PrincipalKind::Person, "Ä\n\"x", ["admin"]);
        principal.toolsets = Some(std::sync::Arc::new(["mail".to_owned()].into()));
        Envelope {
            principal,
            trace: TraceContext { traceparent: "00-1-2-01".into(), tracestate: "a=b".into() },
            at: Timestamp::from_millis(1_763_632_800_123),
            headers: vec![("filter".into(), "x".into()), ("filter".into(), "y".into())],
            payload: Bytes::from_static(b"\0\xff{}"),
        }
    }

    #[test]
    fn an_envelope_comes_off_the_wire_as_it_went_on() {
        assert_eq!(decode(encode(envelope()).unwrap()).unwrap(), envelope());
        let bare = Envelope { headers: vec![], payload: Bytes::new(), trace: TraceContext::default(), ..envelope() };
        assert_eq!(decode(encode(bare.clone()).unwrap()).unwrap(), bare);
    }

    #[test]
    fn what_is_cut_short_or_of_a_later_version_is_an_error_and_no_panic() {
        let head_ends = encode(Envelope { payload: Bytes::new(), ..envelope() }).unwrap().len();
        let wire = encode(envelope()).unwrap();
        for end in 0..head_ends {
            assert!(decode(wire.slice(..end)).is_err(), "{end} of {head_ends} bytes were taken for an envelope");
        }
        let mut later = wire.to_vec();
        later[0] = 2;
        assert!(decode(later.into()).unwrap_err().message.contains("version is 2"));
        assert!(decode(Bytes::from_static(b"\x01\xff\xff\xff\xff{}")).is_err());
        assert!(decode(Bytes::from_static(b"\x01\0\0\0\x02{}")).is_err());
    }

    #[test]
    fn a_field_of_a_later_version_is_passed_over() {
        let head = br#"{"principal":{"tenant":"t","kind":"agent","id":"a","roles":[]},"trace":{"traceparent":""},"at":"2026-01-01T00:00:00Z","new":1}"#;
        let mut wire = vec![1, 0, 0, 0, u8::try_from(head.len()).unwrap()];
        wire.extend(head);
        wire.extend(b"payload");
        assert_eq!(decode(wire.into()).unwrap().payload, "payload");
    }

    #[test]
    fn what_is_too_large_for_an_engine_is_refused_before_it_is_sent() {
        let large = Envelope { payload: vec![0; CONTENT_MAX_BYTES + 1].into(), headers: vec![], ..envelope() };
        assert_eq!(encode(large).unwrap_err().code, ErrorCode::PayloadTooLarge);
        let most = Envelope { payload: vec![0; CONTENT_MAX_BYTES].into(), headers: vec![], ..envelope() };
        assert!(encode(most).unwrap().len() < 1_000_000);
    }

    /// Stored events are looked for by these names: a change here loses them.
    #[test]
    fn a_topic_stays_in_the_partition_it_was_first_put_into() {
        let subject =
            |tenant: &str, topic: &str| event_subject(&TenantId::new(tenant).unwrap(), &Topic::new(topic).unwrap());
        assert_eq!(subject("default", "build.done"), "gh.ev.5.default.build.done");
        assert_eq!(subject("a-b", "x"), "gh.ev.6.a-b.x");
    }

    #[test]
    fn publishers_topics_and_keys_never_run_into_each_other() {
        let id = |topic: &str, publisher: &str, key: &str| {
            let publisher = Principal::new(TenantId::default(), PrincipalKind::Agent, publisher, ["agent"]);
            duplicate_id(&TenantId::default(), &Topic::new(topic).unwrap(), &publisher, key)
        };
        let first = id("a", "bc", "d");
        assert_eq!(id("a", "bc", "d"), first);
        for other in [id("ab", "c", "d"), id("a", "b", "cd"), id("a", "bcd", ""), id("a", "bc", "D")] {
            assert_ne!(other, first);
        }
    }
}
