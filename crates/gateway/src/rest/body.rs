//! JSON bodies and query strings, refused in the contract's own shape when they do not fit.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use guildhall_domain::{Error, ErrorCode, Result};
use serde::de::DeserializeOwned;

use crate::error::Refusal;

/// Contract section 4: 1 MiB a request.
pub(crate) const BODY_MAX_BYTES: usize = 1024 * 1024;
/// A body that trickles in slower than this is not waited for.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Reads a whole body within the bounds of size and time.
pub(crate) async fn read(body: Body, max_bytes: usize) -> Result<Bytes> {
    match tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, max_bytes)).await {
        Err(_) => Err(Error::timeout("the request's body did not arrive within 30 s")),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(fault)) if is_too_long(&fault) => Err(Error::new(
            ErrorCode::PayloadTooLarge,
            format!("the request's body is larger than {max_bytes} bytes; nothing was done"),
        )),
        Ok(Err(_)) => Err(Error::invalid("the request's body broke off; nothing was done")),
    }
}

fn is_too_long(fault: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(fault);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A JSON body. The content type is not asked for: what is not JSON does not parse.
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> std::result::Result<Self, Refusal> {
        let bytes = read(request.into_body(), BODY_MAX_BYTES).await?;
        Ok(Self(parse(&bytes)?))
    }
}

/// A JSON body that may be left out, which then is the default.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> std::result::Result<Self, Refusal> {
        let bytes = read(request.into_body(), BODY_MAX_BYTES).await?;
        Ok(Self(if bytes.is_empty() { T::default() } else { parse(&bytes)? }))
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    // An array would be taken for the fields in their order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Error::invalid("the request's body does not fit: it must be a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|fault| {
        Error::invalid(match fault.classify() {
            serde_json::error::Category::Data => format!("the request's body does not fit: {fault}"),
            _ => format!("the request's body is not JSON: {fault}"),
        })
    })
}

/// A query string.
pub(crate) struct Asked<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Refusal> {
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(query)| Self(query))
            .map_err(|fault| Refusal(Error::invalid(format!("the query does not fit: {}", fault.body_text()))))
    }
}
