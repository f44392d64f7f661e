//! Errors of the hall as gRPC statuses, and back. The whole error travels in the status details; code and message of
//! the status are for whoever reads the wire without knowing the hall.

use std::time::Duration;

use guildhall_domain::{Error, ErrorCode};
use guildhall_proto::call::v1::ErrorDetail;
use prost::Message;
use tonic::{Code, Status};

/// Details above this are left out: with base64 they still fit the header list ([`HEADER_LIST_MAX_BYTES`](guildhall_runtime::listener::HEADER_LIST_MAX_BYTES)).
const DETAIL_MAX_BYTES: usize = 32 * 1024;
/// The message and the guidance are cut to this when the details would be too large with them.
const TEXT_MAX_BYTES: usize = 8 * 1024;
/// The status' own message is a copy for foreign readers: percent-encoded, it may grow threefold.
const PLAIN_MESSAGE_MAX_BYTES: usize = 1024;

fn code_of(code: ErrorCode) -> Code {
    match code {
        ErrorCode::ConnectionError | ErrorCode::CircuitOpen | ErrorCode::Unavailable => Code::Unavailable,
        ErrorCode::AuthenticationError => Code::Unauthenticated,
        ErrorCode::PermissionDenied => Code::PermissionDenied,
        ErrorCode::InvalidParams => Code::InvalidArgument,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::Conflict => Code::Aborted,
        ErrorCode::LockHeld => Code::FailedPrecondition,
        ErrorCode::MailboxFull | ErrorCode::RateLimited => Code::ResourceExhausted,
        // What tonic itself says of a message over the limit.
        ErrorCode::PayloadTooLarge => Code::OutOfRange,
        ErrorCode::Timeout => Code::DeadlineExceeded,
        ErrorCode::Cancelled => Code::Cancelled,
        ErrorCode::UpstreamError => Code::Unknown,
        ErrorCode::Unsupported => Code::Unimplemented,
        ErrorCode::Internal => Code::Internal,
    }
}

pub fn to_status(error: Error) -> Status {
    let plain = cut(&error.message, PLAIN_MESSAGE_MAX_BYTES).to_owned();
    let code = code_of(error.code);
    Status::with_details(code, plain, to_detail(error).encode_to_vec().into())
}

/// For a call that is done and answers with errors among its results.
pub fn to_detail(error: Error) -> ErrorDetail {
    let mut detail = ErrorDetail {
        code: error.code.as_str().to_owned(),
        message: error.message.into_owned(),
        retry_after_ms: error.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        details_json: error.details.map(|details| details.to_string()),
        guidance: error.guidance.map(String::from),
        retryable: error.retryable,
    };
    if detail.encoded_len() > DETAIL_MAX_BYTES {
        detail.details_json = None;
        detail.message = cut(&detail.message, TEXT_MAX_BYTES).to_owned();
        detail.guidance = detail.guidance.map(|guidance| cut(&guidance, TEXT_MAX_BYTES).to_owned());
    }
    detail
}

pub fn from_status(status: Status) -> Error {
    let detail = if status.details().is_empty() { None } else { ErrorDetail::decode(status.details()).ok() };
    detail.and_then(from_detail).unwrap_or_else(|| foreign(&status))
}

/// `None` for details that are not the hall's.
pub fn from_detail(detail: ErrorDetail) -> Option<Error> {
    let code = ErrorCode::from_name(&detail.code)?;
    Some(Error {
        retry_after: detail.retry_after_ms.map(Duration::from_millis),
        details: detail.details_json.and_then(|json| serde_json::from_str(&json).ok()).map(Box::new),
        guidance: detail.guidance.map(String::into_boxed_str),
        retryable: detail.retryable,
        ..Error::new(code, detail.message)
    })
}

/// A status that no part of the hall made: tonic's own, or a proxy's between two services.
fn foreign(status: &Status) -> Error {
    let message = if status.message().is_empty() { status.code().description() } else { status.message() }.to_owned();
    match status.code() {
        Code::Cancelled => Error::new(ErrorCode::Cancelled, message),
        Code::InvalidArgument => Error::invalid(message),
        Code::DeadlineExceeded => Error::timeout(message),
        Code::NotFound => Error::not_found(message),
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Error::conflict(message),
        Code::PermissionDenied => Error::denied(message),
        Code::Unauthenticated => Error::unauthenticated(message),
        Code::ResourceExhausted => Error { retryable: true, ..Error::new(ErrorCode::RateLimited, message) },
        Code::OutOfRange => Error::new(ErrorCode::PayloadTooLarge, message),
        Code::Unimplemented => Error::unsupported(message),
        Code::Unavailable => Error::unavailable(message),
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Error::internal(message),
    }
}

/// At most `max` bytes of `text`, whole characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use guildhall_domain::ErrorCode;
    use serde_json::json;

    use super::*;

    fn full(code: ErrorCode, retryable: bool) -> Error {
        let error = Error::new(code, "what happened, and what to do: ä\n%")
            .with_retry_after(Duration::from_millis(1234))
            .with_details(json!({"field": ["a", 1, null]}))
            .with_guidance("try this");
        Error { retryable, ..error }
    }

    /// Over the header map, as the wire has it.
    fn over_the_wire(error: Error) -> Error {
        let mut headers = http::HeaderMap::new();
        to_status(error).add_header(&mut headers).unwrap();
        from_status(Status::from_header_map(&headers).unwrap())
    }

    #[test]
    fn every_error_arrives_whole() {
        for code in ErrorCode::ALL {
            for retryable in [false, true] {
                assert_eq!(over_the_wire(full(code, retryable)), full(code, retryable));
                let bare = Error { retryable, ..Error::new(code, "x") };
                assert_eq!(over_the_wire(bare.clone()), bare);
            }
        }
    }

    #[test]
    fn an_error_too_large_for_the_trailers_loses_its_details_and_not_its_code() {
        let huge = Error::conflict("ä".repeat(100_000))
            .with_details(json!("x".repeat(100_000)))
            .with_guidance("g".repeat(100_000));
        let mut headers = http::HeaderMap::new();
        to_status(huge.clone()).add_header(&mut headers).unwrap();
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(bytes < guildhall_runtime::listener::HEADER_LIST_MAX_BYTES as usize, "{bytes}");
        let arrived = over_the_wire(huge);
        assert_eq!(arrived.code, ErrorCode::Conflict);
        assert!(arrived.message.starts_with("ää") && arrived.details.is_none());
    }

    #[test]
    fn a_status_of_someone_else_keeps_its_meaning() {
        let arrived = from_status(Status::unavailable("upstream connect error"));
        assert_eq!((arrived.code, arrived.retryable), (ErrorCode::Unavailable, true));
        assert_eq!(arrived.message, "upstream connect error");
        let odd = Status::with_details(Code::NotFound, "gone", bytes::Bytes::from_static(b"\xff\xff\xff"));
        assert_eq!(from_status(odd).code, ErrorCode::NotFound);
        assert_eq!(from_status(Status::out_of_range("")).code, ErrorCode::PayloadTooLarge);
    }
}
