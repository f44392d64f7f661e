//! JSON bodies and query strings, refused in the contract's own shape when they do not fit.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use bytes::{Bytes, BytesMut};
use guildhall_domain::{Error, ErrorCode, Result};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use crate::error::Refusal;

/// Contract section 4: 1 MiB a request.
pub(crate) const BODY_MAX_BYTES: usize = 1024 * 1024;
/// A body that trickles in slower than this is not waited for.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What is read and thrown away after a body turned out too large: a client that is still sending would otherwise see
/// its connection break, and not the answer.
const DISCARDED_MAX_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Reads a whole body within the bounds of size and time.
pub(crate) async fn read(mut body: Body, max_bytes: usize) -> Result<Bytes> {
    match tokio::time::timeout(BODY_TIME, collect(&mut body, max_bytes)).await {
        Err(_) => Err(Error::timeout("the request's body did not arrive within 30 s")),
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => {
            let _ = tokio::time::timeout(DISCARD_TIME, discard(&mut body)).await;
            Err(Error::new(
                ErrorCode::PayloadTooLarge,
                format!("the request's body is larger than {max_bytes} bytes; nothing was done"),
            ))
        }
        Ok(Err(_)) => Err(Error::invalid("the request's body broke off; nothing was done")),
    }
}

/// `None`: it is longer than `max_bytes`.
async fn collect(body: &mut Body, max_bytes: usize) -> std::result::Result<Option<Bytes>, axum::Error> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if collected.len() + data.len() > max_bytes {
                return Ok(None);
            }
            collected.extend_from_slice(&data);
        }
    }
    Ok(Some(collected.freeze()))
}

async fn discard(body: &mut Body) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARDED_MAX_BYTES {
            return;
        }
    }
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
