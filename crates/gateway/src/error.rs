//! A domain error as HTTP and MCP tell it: one exhaustive match each.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use guildhall_domain::{Error, ErrorCode};
use rmcp::model::{CallToolResult, ContentBlock, ErrorData, RequestId};
use serde::Serialize;
use serde_json::{Value, json};

pub(crate) fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidParams => StatusCode::BAD_REQUEST,
        ErrorCode::AuthenticationError => StatusCode::UNAUTHORIZED,
        ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::LockHeld => StatusCode::LOCKED,
        ErrorCode::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::RateLimited | ErrorCode::MailboxFull => StatusCode::TOO_MANY_REQUESTS,
        // The client closed the request; nobody reads this status, but logs and metrics do.
        ErrorCode::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::ConnectionError | ErrorCode::UpstreamError => StatusCode::BAD_GATEWAY,
        ErrorCode::Unavailable | ErrorCode::CircuitOpen => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The one shape of an error: contract section 6.
#[derive(Serialize)]
struct Body<'a> {
    success: bool,
    #[serde(flatten)]
    error: &'a Error,
}

pub(crate) fn body(error: &Error) -> Value {
    // The derived body holds strings, numbers and JSON values only: it always serializes.
    serde_json::to_value(Body { success: false, error }).unwrap_or_else(|_| json!({"success": false}))
}

/// Headers that go with an error whatever carries its body.
fn set_headers(error: &Error, response: &mut Response) {
    let headers = response.headers_mut();
    if let Some(wait) = error.retry_after {
        // Whole seconds, rounded up: repeating earlier would only be refused again.
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
            headers.insert(header::RETRY_AFTER, value);
        }
    }
    match error.code {
        ErrorCode::AuthenticationError => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"guildhall\""));
        }
        ErrorCode::PermissionDenied => {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"guildhall\", error=\"insufficient_scope\""),
            );
        }
        _ => {}
    }
}

/// An error as a REST answer.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (status(self.0.code), Json(body(&self.0))).into_response();
        set_headers(&self.0, &mut response);
        response
    }
}

/// An error that met an MCP message before any tool or handler saw it: an HTTP status and a JSON-RPC error.
pub(crate) fn rpc_refusal(error: &Error, id: Option<RequestId>) -> Response {
    let answer = json!({"jsonrpc": "2.0", "id": id, "error": rpc_error(error)});
    let mut response = (status(error.code), Json(answer)).into_response();
    set_headers(error, &mut response);
    response
}

/// JSON-RPC has codes for what it knows; all else is the HTTP status, outside the range that JSON-RPC reserves.
pub(crate) fn rpc_error(error: &Error) -> ErrorData {
    let code = match error.code {
        ErrorCode::InvalidParams => rmcp::model::ErrorCode::INVALID_PARAMS,
        ErrorCode::NotFound => rmcp::model::ErrorCode::RESOURCE_NOT_FOUND,
        ErrorCode::Internal => rmcp::model::ErrorCode::INTERNAL_ERROR,
        ErrorCode::ConnectionError
        | ErrorCode::AuthenticationError
        | ErrorCode::PermissionDenied
        | ErrorCode::Conflict
        | ErrorCode::LockHeld
        | ErrorCode::MailboxFull
        | ErrorCode::RateLimited
        | ErrorCode::PayloadTooLarge
        | ErrorCode::Timeout
        | ErrorCode::Cancelled
        | ErrorCode::CircuitOpen
        | ErrorCode::Unavailable
        | ErrorCode::UpstreamError
        | ErrorCode::Unsupported => rmcp::model::ErrorCode(i32::from(status(error.code).as_u16())),
    };
    ErrorData::new(code, error.message.clone(), Some(body(error)))
}

/// An error that a tool's run met: text only, no structured content.
pub(crate) fn tool_failure(error: &Error) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(body(error).to_string())])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn retry_after_is_rounded_up_to_a_whole_second() {
        let response = Refusal(Error::rate_limited(Duration::from_millis(1001))).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }

    #[test]
    fn own_json_rpc_codes_stay_out_of_the_reserved_range() {
        for code in ErrorCode::ALL {
            let own = rpc_error(&Error::new(code, "x")).code.0;
            assert!(own == -32602 || own == -32002 || own == -32603 || own > 0, "{code}: {own}");
        }
    }

    #[test]
    fn a_tool_failure_is_one_json_object_without_structured_content() {
        let failure = tool_failure(&Error::not_found("no agent \"x\""));
        assert_eq!(failure.is_error, Some(true));
        assert!(failure.structured_content.is_none());
        let text = failure.content[0].as_text().unwrap().text.clone();
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({"success": false, "error": "NotFound", "message": "no agent \"x\""})
        );
    }
}
