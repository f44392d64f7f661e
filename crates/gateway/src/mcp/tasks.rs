//! Requests as tasks of the tasks extension: a client that speaks it gets one for an async request, and asks here how it
//! stands. The task is the request's row: any replica knows it, a restart loses none, and it belongs to whoever asked.

use std::time::Duration;

use guildhall_domain::{
    Call, Error, ErrorCode, Result,
    mail::{MessageId, Progress, Request, RequestState},
};
use rmcp::model::{CallToolResult, ContentBlock, DetailedTask, JsonObject, Task, TaskPayload, TaskStatus};
use serde_json::Value;

use crate::{error::tool_failure, hall::Hall, tools::requests::outcome};

/// A hint of the hall's own would come sooner, but there is none for this to a client.
const POLL_INTERVAL_MS: u64 = 1_000;

/// A request that has just been sent.
pub(super) fn begun(request: &Request) -> Task {
    base(request)
}

pub(super) async fn get(hall: &Hall, call: &Call, id: &str) -> Result<DetailedTask> {
    let request = own(hall, call, id).await?;
    let task = base(&request);
    let payload = match request.state {
        RequestState::Pending => TaskPayload::Working,
        RequestState::Cancelled => TaskPayload::Cancelled,
        // As the call would have answered had it waited: that there is no answer is a result, too.
        RequestState::Answered | RequestState::Failed | RequestState::TimedOut => {
            let result = match outcome(request) {
                Ok(text) => success(text.get()),
                Err(error) => tool_failure(&error),
            };
            TaskPayload::Completed { result: as_object(&result) }
        }
    };
    Ok(DetailedTask::new(task, payload))
}

pub(super) async fn cancel(hall: &Hall, call: &Call, id: &str) -> Result<()> {
    let request = own(hall, call, id).await?;
    hall.mail.cancel_request(call, request.request_id, "the requester cancelled it").await.map(drop)
}

/// Nothing of a request can be asked for in between.
pub(super) async fn update(hall: &Hall, call: &Call, id: &str) -> Result<()> {
    own(hall, call, id).await?;
    Err(Error::invalid("this task asks for no input"))
}

/// Whoever was asked sees the request, but the task is that of whoever asks.
async fn own(hall: &Hall, call: &Call, id: &str) -> Result<Request> {
    let unknown = || Error::invalid(format!("you have no task {id:.64?}"));
    let id: MessageId = id.parse().map_err(|_| unknown())?;
    match hall.mail.request_state(call, id, None, Duration::ZERO).await {
        Ok(request) if call.principal.agent().as_ref() == Some(&request.from) => Ok(request),
        Ok(_) => Err(unknown()),
        Err(error) if error.code == ErrorCode::NotFound => Err(unknown()),
        Err(error) => Err(error),
    }
}

fn base(request: &Request) -> Task {
    let updated = request.ended_at.unwrap_or(request.asked_at);
    let task = Task::new(
        request.request_id.to_string(),
        TaskStatus::Working,
        request.asked_at.to_string(),
        updated.to_string(),
    );
    let task = task.with_poll_interval_ms(POLL_INTERVAL_MS);
    match &request.progress {
        Some(progress) => task.with_status_message(how_far(progress)),
        None => task,
    }
}

/// Figures alone: the note is another agent's words, and this text has no place that says so.
fn how_far(progress: &Progress) -> String {
    match progress.total {
        Some(total) => format!("{} of {total}", progress.progress),
        None => progress.progress.to_string(),
    }
}

/// A tool's result as its call answers it.
pub(super) fn success(text: &str) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    // The text is exact; here numbers beyond 64 bits lose digits, as they do in most clients.
    result.structured_content = serde_json::from_str(text).ok();
    result
}

fn as_object(result: &CallToolResult) -> JsonObject {
    match serde_json::to_value(result) {
        Ok(Value::Object(object)) => object,
        // A result is an object, always.
        _ => JsonObject::default(),
    }
}
