//! An answer whose body has a bound.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use guildhall_domain::Result;
use http::{HeaderMap, StatusCode};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::failure;

/// More costs more to read than a new connection.
const DISCARDED_MAX_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Where the answer came from, after redirects.
    pub url: Url,
    response: reqwest::Response,
    deadline: Instant,
    max_body_bytes: usize,
}

impl Answer {
    pub(crate) fn new(mut response: reqwest::Response, url: Url, deadline: Instant, max_body_bytes: usize) -> Self {
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        Self { status, headers, url, response, deadline, max_body_bytes }
    }

    /// Reads a short body to its end and keeps none of it, so that the connection can be used again. What is long or
    /// slow loses its connection.
    pub async fn discard(self) {
        let mut left = DISCARDED_MAX_BYTES;
        let mut chunks = self.response.bytes_stream();
        while let Ok(Some(Ok(chunk))) = timeout_at(self.deadline, chunks.next()).await {
            let Some(rest) = left.checked_sub(chunk.len()) else { return };
            left = rest;
        }
    }

    /// The whole body; an error as soon as it is known to be over the bound. Nothing is unpacked, so what is read is
    /// what was sent.
    pub async fn bytes(self) -> Result<Bytes> {
        let Self { url, response, deadline, max_body_bytes: bound, .. } = self;
        let too_large = || failure::upstream(&url, format!("its answer is larger than {bound} bytes"));
        if response.content_length().is_some_and(|length| length > bound as u64) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = timeout_at(deadline, chunks.next()).await.map_err(|_| failure::too_slow(&url))? {
            let chunk = chunk.map_err(|error| failure::of_request(error, &url))?;
            if body.len() + chunk.len() > bound {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}
