//! One small vocabulary of errors. Every protocol maps it in one exhaustive `match` of its own.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong. The names are the wire names of contract section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorCode {
    ConnectionError,
    AuthenticationError,
    PermissionDenied,
    InvalidParams,
    NotFound,
    Conflict,
    LockHeld,
    MailboxFull,
    RateLimited,
    PayloadTooLarge,
    Timeout,
    Cancelled,
    CircuitOpen,
    Unavailable,
    UpstreamError,
    Unsupported,
    Internal,
}

impl ErrorCode {
    pub const ALL: [ErrorCode; 17] = [
        Self::ConnectionError,
        Self::AuthenticationError,
        Self::PermissionDenied,
        Self::InvalidParams,
        Self::NotFound,
        Self::Conflict,
        Self::LockHeld,
        Self::MailboxFull,
        Self::RateLimited,
        Self::PayloadTooLarge,
        Self::Timeout,
        Self::Cancelled,
        Self::CircuitOpen,
        Self::Unavailable,
        Self::UpstreamError,
        Self::Unsupported,
        Self::Internal,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionError => "ConnectionError",
            Self::AuthenticationError => "AuthenticationError",
            Self::PermissionDenied => "PermissionDenied",
            Self::InvalidParams => "InvalidParams",
            Self::NotFound => "NotFound",
            Self::Conflict => "Conflict",
            Self::LockHeld => "LockHeld",
            Self::MailboxFull => "MailboxFull",
            Self::RateLimited => "RateLimited",
            Self::PayloadTooLarge => "PayloadTooLarge",
            Self::Timeout => "Timeout",
            Self::Cancelled => "Cancelled",
            Self::CircuitOpen => "CircuitOpen",
            Self::Unavailable => "Unavailable",
            Self::UpstreamError => "UpstreamError",
            Self::Unsupported => "Unsupported",
            Self::Internal => "Internal",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened, and what to do about it. Serializes to the contract's body, less `success: false`.
///
/// Whether a repeat can help is decided where the error is born ([`Error::retryable`]), because only
/// there it is known whether anything took effect.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Error {
    #[serde(rename = "error")]
    pub code: ErrorCode,
    /// One or two sentences for the caller. Never holds a secret.
    pub message: Cow<'static, str>,
    #[serde(rename = "retry_after_ms", default, skip_serializing_if = "Option::is_none", with = "millis")]
    pub retry_after: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<Box<str>>,
    #[serde(skip)]
    pub retryable: bool,
}

impl Error {
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), retry_after: None, details: None, guidance: None, retryable: false }
    }

    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidParams, message)
    }

    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    pub fn denied(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::PermissionDenied, message)
    }

    pub fn unauthenticated(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::AuthenticationError, message)
    }

    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Unsupported, message)
    }

    /// A part of the hall is away for now and nothing took effect: a repeat is safe and may help.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self { retryable: true, ..Self::new(ErrorCode::Unavailable, message) }
    }

    /// The answer did not come in time. Whether the call took effect is not known.
    pub fn timeout(message: impl Into<Cow<'static, str>>) -> Self {
        Self { retryable: true, ..Self::new(ErrorCode::Timeout, message) }
    }

    /// A fault of the hall itself. The message must make sense to someone who cannot see the code.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    pub fn rate_limited(retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            retryable: true,
            ..Self::new(ErrorCode::RateLimited, "too many requests: wait for retry_after_ms, then repeat")
        }
    }

    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    pub fn with_guidance(mut self, guidance: impl Into<Box<str>>) -> Self {
        self.guidance = Some(guidance.into());
        self
    }

    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        if let Some(details) = &self.details {
            write!(f, " {details}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(wait: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        wait.map(|w| u64::try_from(w.as_millis()).unwrap_or(u64::MAX)).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(d)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_the_contracts_fields_and_no_others() {
        let error = Error::rate_limited(Duration::from_millis(1500));
        let body = serde_json::to_value(&error).unwrap();
        assert_eq!(body["error"], "RateLimited");
        assert_eq!(body["retry_after_ms"], 1500);
        assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
    }

    #[test]
    fn every_code_has_its_own_name() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.as_str()), Some(code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
