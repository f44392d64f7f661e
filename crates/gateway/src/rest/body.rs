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
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{error::Category, value::RawValue};

use crate::error::Refusal;

/// Contract section 4: 1 MiB a request.
pub(crate) const BODY_MAX_BYTES: usize = 1024 * 1024;
/// And 4 MiB a list of messages.
const LIST_MAX_BYTES: usize = 4 * 1024 * 1024;
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
            Err(too_large(max_bytes))
        }
        Ok(Err(_)) => Err(Error::invalid("the request's body broke off; nothing was done")),
    }
}

fn too_large(max_bytes: usize) -> Error {
    Error::new(
        ErrorCode::PayloadTooLarge,
        format!("the request's body is larger than {max_bytes} bytes; nothing was done"),
    )
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

/// A JSON body that is one, or a list of them.
pub(crate) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for OneOrMany<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> std::result::Result<Self, Refusal> {
        let bytes = read(request.into_body(), LIST_MAX_BYTES).await?;
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Ok(Self::Many(fitting("the request's body", &bytes)?));
        }
        if bytes.len() > BODY_MAX_BYTES {
            return Err(too_large(BODY_MAX_BYTES).into());
        }
        Ok(Self::One(parse(&bytes)?))
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

/// A JSON object as it was written; `{}` when the body is left out.
pub(crate) struct Arguments(pub(crate) Box<RawValue>);

impl<S: Send + Sync> FromRequest<S> for Arguments {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> std::result::Result<Self, Refusal> {
        let bytes = read(request.into_body(), BODY_MAX_BYTES).await?;
        Ok(Self(parse(if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes[..] })?))
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    // An array would be taken for the fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::invalid("the request's body does not fit: it must be a JSON object"));
    }
    fitting("the request's body", bytes)
}

/// What `bytes` say, or which field of `what` does not fit, and what would.
pub(crate) fn fitting<'de, T: Deserialize<'de>>(what: &str, bytes: &'de [u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let said = serde_path_to_error::deserialize(&mut json).map_err(|fault| {
        let place = fault.path().to_string();
        let fault = fault.into_inner();
        let category = fault.classify();
        // A name that is not one says so in an error of its own.
        let text = fault.to_string();
        let fault = text.strip_prefix("InvalidParams: ").unwrap_or(&text);
        Error::invalid(match category {
            Category::Data if place == "." => format!("{what} does not fit: {fault}"),
            Category::Data => format!("{what} does not fit: {place}: {fault}"),
            _ => format!("{what} is not JSON: {fault}"),
        })
    })?;
    json.end().map_err(|fault| Error::invalid(format!("{what} is not JSON: {fault}")))?;
    Ok(said)
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
