//! One message to one receiver, as the Standard Webhooks specification has it, and what its answer means.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use guildhall_domain::{Agent, Clock, Error, ErrorCode, Result, Timestamp, mail::Message};
use guildhall_guard::{KeyRing, webhook};
use guildhall_outbound::{Outbound, Request};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Serialize;

/// From the first byte out to the last byte back.
pub(super) const POST_WITHIN: Duration = Duration::from_secs(10);
/// Of a reason, which may name what a receiver is called. Those of the port may be a little longer.
const REASON_MAX_BYTES: usize = 400;

#[derive(Serialize)]
struct Payload<'a> {
    r#type: &'static str,
    timestamp: Timestamp,
    data: &'a Message,
}

pub(super) struct Postman {
    pub(super) outbound: Outbound,
    pub(super) key_ring: Arc<KeyRing>,
    pub(super) clock: Arc<dyn Clock>,
}

pub(super) enum Posted {
    Taken,
    /// The receiver wants nothing any more.
    Gone {
        reason: String,
    },
    NotTaken(NotTaken),
}

pub(super) struct NotTaken {
    pub(super) reason: String,
    pub(super) retry_after: Option<Duration>,
    /// It is the receiver and not this message: what comes next would not be taken either.
    pub(super) is_trouble: bool,
}

impl Posted {
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Gone { .. } => "gone",
            Self::NotTaken(_) => "not_taken",
        }
    }
}

impl Postman {
    pub(super) async fn post(&self, to: &Agent, message: &Message) -> Posted {
        match self.try_post(to, message).await {
            Ok(posted) => posted,
            Err(error) => Posted::NotTaken(NotTaken {
                reason: one_line(&format!("the webhook was not reached: {}", error.message)),
                retry_after: error.retry_after,
                is_trouble: error.code != ErrorCode::Internal,
            }),
        }
    }

    async fn try_post(&self, to: &Agent, message: &Message) -> Result<Posted> {
        let url = to.webhook_url.clone().ok_or_else(|| Error::invalid("the agent has said no address"))?;
        let payload = Payload { r#type: "message.new", timestamp: message.sent_at, data: message };
        let body = serde_json::to_vec(&payload)
            .map_err(|error| Error::internal(format!("a message cannot be written as JSON: {error}")))?;
        let request = Request {
            headers: self.headers(to, message, &body)?,
            body: Bytes::from(body),
            // Its target is not the address that the agent gave, and a POST may become a GET on the way.
            follows_redirects: false,
            ..Request::new(Method::POST, url)
        };
        let answer = self.outbound.send(request, POST_WITHIN).await?;
        let (status, retry_after) = (answer.status, retry_after(&answer.headers, self.clock.now()));
        answer.discard().await;
        Ok(judge(status, retry_after))
    }

    fn headers(&self, to: &Agent, message: &Message, body: &[u8]) -> Result<HeaderMap> {
        let (id, now) = (message.message_id.to_string(), self.clock.now());
        let signature = webhook::signatures(&self.key_ring, to, &id, now, body);
        let headers = [
            (header::CONTENT_TYPE, "application/json".to_owned()),
            (HeaderName::from_static("webhook-id"), id),
            (HeaderName::from_static("webhook-timestamp"), webhook::seconds(now).to_string()),
            (HeaderName::from_static("webhook-signature"), signature),
        ];
        let value = |text: String| {
            HeaderValue::try_from(text).map_err(|_| Error::internal("a webhook's header holds what no header can"))
        };
        headers.into_iter().map(|(name, text)| Ok((name, value(text)?))).collect()
    }
}

fn judge(status: StatusCode, retry_after: Option<Duration>) -> Posted {
    if status.is_success() {
        return Posted::Taken;
    }
    let reason = format!("the webhook answered {}", status.as_u16());
    if status == StatusCode::GONE {
        return Posted::Gone { reason };
    }
    let is_trouble =
        status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    Posted::NotTaken(NotTaken { reason, retry_after, is_trouble })
}

/// In seconds, or until a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp::from_millis(until.as_millisecond()).since(now))
}

fn one_line(reason: &str) -> String {
    let plain: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain[..plain.floor_char_boundary(REASON_MAX_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(text: &str) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
        retry_after(&headers, Timestamp::from_millis(1_445_412_420_000))
    }

    #[test]
    fn a_receiver_says_when_to_come_again_in_seconds_or_by_a_date() {
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:00:00 GMT"), Some(Duration::ZERO));
        for odd in ["", "soon", "-1", "1.5"] {
            assert_eq!(wait(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn only_what_every_message_would_meet_is_trouble_of_the_receiver() {
        let trouble = |status| match judge(StatusCode::from_u16(status).unwrap(), None) {
            Posted::NotTaken(not_taken) => Some(not_taken.is_trouble),
            Posted::Taken | Posted::Gone { .. } => None,
        };
        for status in [408, 429, 500, 503, 599] {
            assert_eq!(trouble(status), Some(true), "{status}");
        }
        for status in [302, 307, 400, 401, 404, 422] {
            assert_eq!(trouble(status), Some(false), "{status}");
        }
        for status in [200, 201, 204, 410] {
            assert_eq!(trouble(status), None, "{status}");
        }
    }

    #[test]
    fn a_reason_is_one_line_and_not_too_long() {
        assert_eq!(one_line("a\r\nb"), "a  b");
        assert!(one_line(&"ä".repeat(1_000)).len() <= REASON_MAX_BYTES);
    }
}
