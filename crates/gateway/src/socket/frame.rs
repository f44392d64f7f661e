//! What a client may say on its socket: one JSON object a text frame, told apart by `type`. A frame that does not fit
//! is refused with the fields that it may have, and nothing is done.

use std::{borrow::Cow, time::Duration};

use guildhall_domain::{
    AgentId, Error, Result, Timestamp,
    mail::{Body, Lease, MessageId, NewMessage, Priority, Recipient},
    ports::bus::Topic,
};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::value::RawValue;

use super::streams::Credit;

/// Larger ones end the socket, as the protocol has it: close code 1009.
pub(super) const FRAME_MAX_BYTES: usize = 1024 * 1024;
/// What a client writes to know an answer again.
const REFERENCE_MAX_BYTES: usize = 128;

/// What a frame is answered with, letter for letter: a string or a number of the client's choice.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Reference(Option<Box<RawValue>>);

impl Reference {
    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    fn check(raw: Option<&RawValue>) -> Result<Self> {
        let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(Self(None)) };
        let fits = raw.get().len() <= REFERENCE_MAX_BYTES && !raw.get().starts_with(['{', '[', 't', 'f']);
        if !fits {
            return Err(Error::invalid(format!("ref is a string or a number, at most {REFERENCE_MAX_BYTES} bytes")));
        }
        Ok(Self(Some(raw.to_owned())))
    }
}

/// A frame as it was heard.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) reference: Reference,
    pub(super) said: Result<Said>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(rename = "ref", borrow, default)]
    reference: Option<&'a RawValue>,
}

macro_rules! frames {
    ($($(#[$doc:meta])* $word:literal $name:ident { $($(#[$attr:meta])* $field:ident: $type:ty),* $(,)? })+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub(super) struct $name {
                #[serde(rename = "type")]
                _type: IgnoredAny,
                #[serde(rename = "ref", default)]
                _ref: IgnoredAny,
                $($(#[$attr])* pub(super) $field: $type,)*
            }
        )+

        #[derive(Debug)]
        pub(super) enum Said {
            $($name($name)),+
        }

        const WORDS: &[&str] = &[$($word),+];

        fn read(word: &str, text: &str) -> Result<Said> {
            match word {
                $($word => fit(word, &[$(stringify!($field)),*], text).map(Said::$name),)+
                _ => Err(Error::invalid(format!(
                    "there is no frame of type {word:.40?}; there are {}",
                    WORDS.join(", ")
                ))),
            }
        }
    };
}

frames! {
    "heartbeat" Heartbeat { busy: Option<bool> }
    /// As `POST /api/v1/messages`, but that the message's own type is called `kind`, for `type` is the frame's.
    "message" Send {
        to: Recipient,
        message: Body,
        from: Option<AgentId>,
        kind: Option<String>,
        priority: Option<Priority>,
        idempotency_key: Option<String>,
        reply_to: Option<MessageId>,
        correlation_id: Option<String>,
        conversation_id: Option<String>,
        expires_in_ms: Option<u64>,
        requires_response: Option<bool>,
    }
    "ack" Ack { message_id: MessageId, lease: Lease }
    "nack" Nack { message_id: MessageId, lease: Lease, delay_ms: Option<u64>, reason: Option<String> }
    "renew" Renew { message_id: MessageId, lease: Lease }
    "subscribe" Subscribe { topic: Topic, filter: Option<String>, after: Option<u64>, from: Option<Timestamp> }
    "unsubscribe" Unsubscribe { topic: Topic }
    "stream_open" StreamOpen {
        to: AgentId,
        stream: Option<String>,
        credit: Option<Credit>,
        metadata: Option<Body>,
    }
    "stream_accept" StreamAccept { stream: String, credit: Option<Credit> }
    "stream_refuse" StreamRefuse { stream: String, reason: Option<String> }
    "stream_data" StreamData { stream: String, seq: Option<u64>, data: Body }
    "stream_credit" StreamCredit {
        stream: String,
        #[serde(default)]
        frames: u32,
        #[serde(default)]
        bytes: u32,
    }
    "stream_close" StreamClose { stream: String, reason: Option<String> }
}

/// Reads one text frame.
pub(super) fn hear(text: &str) -> Heard {
    let nothing = |error| Heard { reference: Reference::default(), said: Err(error) };
    let envelope: Envelope<'_> = match serde_json::from_str(text) {
        // An array would be taken for the fields in their order.
        Ok(envelope) if text.trim_ascii_start().starts_with('{') => envelope,
        Ok(_) => return nothing(Error::invalid("a frame is one JSON object")),
        Err(fault) if fault.is_data() => {
            return nothing(Error::invalid(format!(
                "a frame is one JSON object with a type, which is one of {}: {fault}",
                WORDS.join(", ")
            )));
        }
        Err(fault) => return nothing(Error::invalid(format!("the frame is not JSON: {fault}"))),
    };
    match Reference::check(envelope.reference) {
        Ok(reference) => Heard { reference, said: read(&envelope.kind, text) },
        Err(error) => nothing(error),
    }
}

fn fit<T: DeserializeOwned>(word: &str, fields: &[&str], text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|fault| {
        let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
        Error::invalid(format!("the frame does not fit: {fault}; beside type and ref, {word} has: {fields}"))
    })
}

impl Send {
    /// As the port of mail takes it; a foreign `from` is refused.
    pub(super) fn into_message(self, sender: &AgentId) -> Result<NewMessage> {
        if self.from.is_some_and(|from| from != *sender) {
            return Err(Error::denied(format!(
                "you are {sender}: the sender of a message is always its caller; leave from out"
            )));
        }
        let mut message = NewMessage::new(self.to, self.message);
        if let Some(kind) = self.kind {
            message.kind = kind;
        }
        message.priority = self.priority.unwrap_or_default();
        message.idempotency_key = self.idempotency_key;
        message.reply_to = self.reply_to;
        message.correlation_id = self.correlation_id;
        message.conversation_id = self.conversation_id;
        message.expires_in = self.expires_in_ms.map(Duration::from_millis);
        message.requires_response = self.requires_response.unwrap_or_default();
        message.check()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        hear(text).said.expect_err(text).message.into_owned()
    }

    #[test]
    fn a_frame_is_answered_under_the_reference_it_came_with_letter_for_letter() {
        for reference in ["7", "\"a\\u00e9\"", "-1.50"] {
            let heard = hear(&format!("{{\"type\":\"heartbeat\",\"ref\":{reference}}}"));
            assert_eq!(serde_json::to_string(&heard.reference).unwrap(), reference);
            assert!(heard.said.is_ok());
        }
        assert!(hear(r#"{"type":"heartbeat","ref":null}"#).reference.is_none());
        assert!(refusal(r#"{"type":"heartbeat","ref":{"a":1}}"#).contains("ref is a string or a number"));
        let long = "x".repeat(REFERENCE_MAX_BYTES);
        assert!(hear(&format!("{{\"type\":\"heartbeat\",\"ref\":\"{long}\"}}")).said.is_err());
    }

    #[test]
    fn what_does_not_fit_is_told_what_would() {
        for (text, told) in [
            ("{", "the frame is not JSON: EOF while parsing an object at line 1 column 1"),
            (r#"["ack"]"#, "a frame is one JSON object"),
            (
                r#"{"type":"ack","message_id":"01ARZ3NDEKTSV4RRFFQ69G5FAV"}"#,
                "the frame does not fit: missing field `lease` at line 1 column 56; beside type and ref, ack has: \
                 message_id, lease",
            ),
            (
                r#"{"type":"unsubscribe","topic":"a b"}"#,
                "the frame does not fit: InvalidParams: a topic is 1 to 128 letters, digits, _ - or single dots, the first \
                 a letter or digit at line 1 column 36; beside type and ref, unsubscribe has: topic",
            ),
        ] {
            assert_eq!(refusal(text), told);
        }
        assert!(refusal(r#"{"ref":1}"#).contains("missing field `type`"));
        assert!(
            refusal(r#"{"type":"shout"}"#).starts_with("there is no frame of type \"shout\"; there are heartbeat, ")
        );
        assert!(
            refusal(r#"{"type":"message","to":"b","message":1,"colour":"red"}"#).contains("unknown field `colour`")
        );
    }

    #[test]
    fn a_refused_frame_still_says_which_it_was() {
        let heard = hear(r#"{"type":"ack","ref":"r1"}"#);
        assert!(heard.said.is_err());
        assert_eq!(serde_json::to_string(&heard.reference).unwrap(), "\"r1\"");
    }

    #[test]
    fn a_message_keeps_every_field_and_its_body_letter_for_letter() {
        let text = r#"{"type":"message","to":"pool:b","message":{"a":1.0},"kind":"note","priority":"high",
            "idempotency_key":"k","reply_to":"01ARZ3NDEKTSV4RRFFQ69G5FAV","correlation_id":"c","conversation_id":"v",
            "expires_in_ms":5,"requires_response":true,"from":"a"}"#;
        let Ok(Said::Send(send)) = hear(text).said else { panic!("no message") };
        let sender = AgentId::new("a").unwrap();
        let message = send.into_message(&sender).unwrap();
        assert_eq!(
            message,
            NewMessage {
                kind: "note".into(),
                priority: Priority::High,
                idempotency_key: Some("k".into()),
                reply_to: Some("01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap()),
                correlation_id: Some("c".into()),
                conversation_id: Some("v".into()),
                expires_in: Some(Duration::from_millis(5)),
                requires_response: true,
                ..NewMessage::new("pool:b".parse().unwrap(), Body::from_text(r#"{"a":1.0}"#).unwrap())
            }
        );
        let Ok(Said::Send(foreign)) = hear(&text.replace("\"from\":\"a\"", "\"from\":\"c\"")).said else { panic!() };
        assert_eq!(foreign.into_message(&sender).unwrap_err().code, guildhall_domain::ErrorCode::PermissionDenied);
    }
}
