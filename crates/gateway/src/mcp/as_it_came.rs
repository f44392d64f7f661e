//! What rmcp's model of a message does not keep: its arguments letter for letter, and what its answer hands over.

use axum::http::request::Parts;
use bytes::Bytes;
use guildhall_domain::{Error, Result};
use rmcp::model::CallToolRequestParams;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::handover::Handover;

/// Travels in the HTTP request's extensions.
#[derive(Clone)]
pub(super) struct AsItCame {
    pub(super) message: Bytes,
    pub(super) handover: Handover,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    params: Params<'a>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

impl AsItCame {
    pub(super) fn of(parts: &Parts) -> Result<&Self> {
        parts
            .extensions
            .get()
            .ok_or_else(|| Error::internal("the message came without its text; this is a fault of the hall, report it"))
    }

    /// The arguments of a tool call. `params` are the same, read by rmcp.
    pub(super) fn arguments(&self, params: &CallToolRequestParams) -> Result<Box<RawValue>> {
        let written = match params.arguments {
            None => RawValue::from_string("{}".to_owned()),
            Some(_) => serde_json::from_slice::<Call<'_>>(&self.message)
                .map(|call| call.params.arguments.map_or_else(|| RawValue::NULL.to_owned(), RawValue::to_owned)),
        };
        written.map_err(|error| Error::invalid(format!("the tool's arguments cannot be read: {error}")))
    }
}
