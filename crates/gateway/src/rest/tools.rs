//! `/tools/{name}`: every built-in tool for clients without MCP. JSON arguments in, the JSON result out.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{Path, State},
    http::Uri,
    response::{IntoResponse as _, Response},
};
use guildhall_domain::Error;

use super::{Weight, body::Arguments};
use crate::{
    error::Refusal,
    hall::Hall,
    handover::Handover,
    identity::Caller,
    tools::{Ask, Narrowed},
};

/// Calls a built-in tool. An error has the shape and status that REST gives it.
#[utoipa::path(post, path = "/tools/{name}", tag = "tools", params(("name" = String, Path)), request_body = Option<Object>,
    responses((status = 200, body = Object), (status = 404, description = "no such tool for this caller")))]
pub(super) async fn call(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(name): Path<String>,
    uri: Uri,
    Arguments(arguments): Arguments,
) -> Result<Response, Refusal> {
    let narrowed = Narrowed::by(uri.query());
    let tool = hall
        .tools
        .find(&name, &hall.policy, &caller.principal, &narrowed)
        .ok_or_else(|| Error::not_found(format!("there is no tool {name:?} that you may call")))?;
    if tool.weight() == Weight::Counts {
        hall.limits.pass(&caller.principal).await?;
    }
    let handover = Handover::default();
    let call = caller.call();
    let ask = Ask::new(&hall, &call, &handover);
    let result = crate::tools::call(&ask, tool, &arguments).await?;
    Ok(handover.with(Answer(result).into_response()))
}
