//! Batches: several messages in one request, which the revision of 2025-03-26 has and no other. Each message goes its
//! own way as if it had come alone; the answers come back together.

use axum::{
    Json,
    body::Body,
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use guildhall_domain::Error;
use http_body_util::BodyExt as _;
use rmcp::{
    model::{ErrorCode, ErrorData, ProtocolVersion},
    transport::streamable_http_server::session::SessionStore as _,
};
use serde_json::value::RawValue;
use sse_stream::SseStream;

use super::{McpDoor, malformed, session_id};
use crate::{error::rpc_refusal, handover::Handover, identity::Caller};

/// Messages in one batch.
const BOUND: usize = 64;
/// Messages of one batch that are answered side by side.
const SIDE_BY_SIDE: usize = 8;

impl McpDoor {
    pub(super) async fn batch(&self, caller: Caller, parts: Parts, bytes: Bytes, handover: &Handover) -> Response {
        let refused = |what: &str| malformed(ErrorData::new(ErrorCode::INVALID_REQUEST, what.to_owned(), None), None);
        match self.may_batch(&caller, &parts).await {
            Ok(true) => {}
            Ok(false) => return refused("batches are of revision 2025-03-26 alone: send one message a request"),
            Err(error) => return rpc_refusal(&error, None),
        }
        let messages: Vec<Box<RawValue>> = match serde_json::from_slice(&bytes) {
            Ok(messages) => messages,
            Err(_) => return malformed(ErrorData::parse_error("the batch is not JSON", None), None),
        };
        if messages.is_empty() || messages.len() > BOUND {
            return refused(&format!("a batch holds 1 to {BOUND} messages"));
        }
        let answers: Vec<Vec<Box<RawValue>>> = stream::iter(messages)
            .map(|message| {
                let (caller, parts) = (caller.clone(), parts.clone());
                async move {
                    said(self.one(caller, parts, Bytes::from(message.get().to_owned()), handover).await).await
                }
                .boxed()
            })
            .buffered(SIDE_BY_SIDE)
            .collect()
            .await;
        let answers = answers.concat();
        // Notifications are not answered, and a batch of nothing else is only accepted.
        if answers.is_empty() { StatusCode::ACCEPTED.into_response() } else { Json(answers).into_response() }
    }

    /// Whether this is a session of the one revision; a request's header, where there is one, must not say otherwise.
    async fn may_batch(&self, caller: &Caller, parts: &Parts) -> Result<bool, Error> {
        let old = ProtocolVersion::V_2025_03_26;
        let header = parts.headers.get("mcp-protocol-version");
        let Some(id) = session_id(&parts.headers).filter(|_| header.is_none_or(|said| said == old.as_str())) else {
            return Ok(false);
        };
        if !self.sessions.belongs(id, &caller.principal).await? {
            return Ok(false);
        }
        let state = self.sessions.load(id).await.map_err(|error| {
            tracing::debug!(%error, "the revision of a session cannot be read");
            Error::unavailable("the hall cannot tell this session's revision at the moment; repeat in a few seconds")
        })?;
        Ok(state.is_some_and(|state| state.initialize_params.protocol_version == old))
    }
}

/// Every message of an answer, streamed or not.
async fn said(answer: Response) -> Vec<Box<RawValue>> {
    let streamed = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    let body: Body = answer.into_body();
    if streamed {
        let (mut events, mut messages) = (SseStream::new(body), Vec::new());
        // A stream that breaks off has said what it has said.
        while let Some(Ok(event)) = events.next().await {
            messages.extend(event.data.and_then(|data| RawValue::from_string(data).ok()));
        }
        return messages;
    }
    match body.collect().await {
        Ok(whole) => serde_json::from_slice(&whole.to_bytes()).into_iter().collect(),
        Err(_) => Vec::new(),
    }
}
