//! Asking, and waiting for the answer: the request is a row at its hall, so the wait here may end and go on elsewhere.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use guildhall_domain::{
    Call, Error, ErrorCode, Result,
    mail::{Body, MessageId, NewRequest, Progress, Request, RequestState},
    ports::Mail,
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa::ToSchema;

use crate::hall::Hall;

/// One look at a request lasts this long at most: half of what a call of a port has.
const LOOK: Duration = Duration::from_secs(15);
/// For a look's own way there and back.
const LOOK_TRAVELS: Duration = Duration::from_secs(15);
/// A part of the hall that is away for a moment ends no wait.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The hall ends a request at its deadline; should that be late, nobody waits longer than this for it.
const END_IS_LATE: Duration = Duration::from_secs(10);
const CANCELLING_TIME: Duration = Duration::from_secs(10);

/// Hears how far the answering side is.
pub(crate) trait Listener: Send + Sync {
    fn hear<'a>(&'a self, progress: &'a Progress) -> BoxFuture<'a, ()>;
}

/// A request whose caller waits. Cancelled when it is dropped before it has ended.
pub(crate) struct Waiting {
    mail: Arc<dyn Mail>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    call: Call,
    request: Request,
    over: bool,
}

impl Hall {
    /// Sends a request. Its caller may go at any moment: what was sent by then is cancelled.
    pub(crate) async fn ask(&self, call: &Call, new: NewRequest) -> Result<Waiting> {
        let (answer, sent) = oneshot::channel();
        let (mail, call, tasks, stopping) =
            (self.mail.clone(), call.clone(), self.settlings.clone(), self.stopping.clone());
        // On a task of its own: otherwise a request could be sent whose id nobody has.
        self.settlings.spawn(async move {
            let sent = mail.request(&call, new).await;
            // Nobody there any more: the request is dropped here, and with that cancelled.
            let _ = answer.send(sent.map(|request| Waiting { mail, tasks, stopping, call, request, over: false }));
        });
        sent.await.unwrap_or_else(|_| Err(Error::internal("sending the request broke off; report it")))
    }
}

impl Waiting {
    /// Lets the request go on without anyone waiting for it.
    pub(crate) fn leave(mut self) -> Request {
        self.over = true;
        self.request.clone()
    }

    /// The request, once it has ended.
    pub(crate) async fn ended(mut self, listener: Option<&dyn Listener>) -> Result<Request> {
        let left = self.request.deadline.since(self.request.asked_at);
        let until = Instant::now() + left + END_IS_LATE;
        while !self.request.state.is_final() {
            let wait = LOOK.min(until.saturating_duration_since(Instant::now()));
            if wait.is_zero() {
                return Err(Error::timeout(
                    "the request's time is over, and the hall has not said how it ended; ask for its state",
                )
                .with_details(json!({"request_id": self.request.request_id})));
            }
            let stopping = self.stopping.clone();
            tokio::select! {
                looked = self.look(wait) => {
                    if looked? && !self.request.state.is_final()
                        && let (Some(listener), Some(progress)) = (listener, &self.request.progress) {
                            listener.hear(progress).await;
                    }
                }
                () = stopping.cancelled() => {
                    self.over = true;
                    return Err(Error::unavailable("this gateway stops; the request goes on: ask for its state")
                        .with_details(json!({"request_id": self.request.request_id})));
                }
            }
        }
        self.over = true;
        Ok(self.request.clone())
    }

    /// Whether it has moved on.
    async fn look(&mut self, wait: Duration) -> Result<bool> {
        let call = Call { deadline: Instant::now() + wait + LOOK_TRAVELS, ..self.call.clone() };
        let known = self.request.progress.clone();
        match self.mail.request_state(&call, self.request.request_id, known, wait).await {
            Ok(now) => {
                let moved_on = now.progress != self.request.progress;
                self.request = now;
                Ok(moved_on)
            }
            Err(error) if error.retryable => {
                tokio::time::sleep(LOOK_AGAIN).await;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.over || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (mail, id) = (self.mail.clone(), self.request.request_id);
        let call = Call { deadline: Instant::now() + CANCELLING_TIME, ..self.call.clone() };
        self.tasks.spawn(async move {
            // It ends at its deadline otherwise.
            if let Err(error) = mail.cancel_request(&call, id, "whoever asked does not wait any more").await {
                tracing::debug!(%error, "a request that nobody waits for could not be cancelled");
            }
        });
    }
}

/// A request that has ended in an answer; why there is none otherwise.
pub(crate) fn answer(request: Request) -> Result<Answered> {
    let error = match request.state {
        RequestState::Answered => {
            return Ok(Answered {
                request_id: request.request_id.to_string(),
                state: request.state.as_str(),
                answered_by: request.answered_by.map(String::from),
                answer: request.answer,
            });
        }
        // Its own words stand in the details: they are data.
        RequestState::Failed => Error::new(
            ErrorCode::UpstreamError,
            format!("{} says that it cannot; details.reason has its words", request.to),
        ),
        RequestState::Cancelled => Error::new(ErrorCode::Cancelled, "the request was cancelled"),
        RequestState::TimedOut => Error::new(
            ErrorCode::Timeout,
            format!("{} did not answer in time; send the request again, or ask someone else", request.to),
        ),
        RequestState::Pending => Error::internal("a request that goes on was taken for one that ended"),
    };
    Err(error.with_details(json!({
        "request_id": request.request_id,
        "state": request.state,
        "answered_by": request.answered_by,
        "reason": request.reason,
    })))
}

#[derive(Serialize, JsonSchema, ToSchema)]
pub(crate) struct Answered {
    pub(crate) request_id: String,
    #[schemars(extend("const" = "answered"))]
    pub(crate) state: &'static str,
    /// The agent whose words the answer is.
    pub(crate) answered_by: Option<String>,
    /// Its words, as it wrote them.
    #[schemars(with = "serde_json::Value")]
    #[schema(value_type = Object)]
    pub(crate) answer: Option<Body>,
}

/// What the answering side says: `answer`, any JSON, or `error`, why it cannot.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    /// Any JSON, `null` too.
    #[serde(default, deserialize_with = "said")]
    #[schema(value_type = Option<Object>)]
    answer: Option<Body>,
    /// Why you cannot.
    error: Option<String>,
}

/// `null` is an answer like any other.
pub(crate) fn said<'de, D: Deserializer<'de>>(body: D) -> Result<Option<Body>, D::Error> {
    Body::deserialize(body).map(Some)
}

impl Said {
    pub(crate) fn new(answer: Option<Body>, error: Option<String>) -> Self {
        Self { answer, error }
    }

    pub(crate) fn into_answer(self) -> Result<guildhall_domain::mail::Answer> {
        match (self.answer, self.error) {
            (Some(body), None) => Ok(guildhall_domain::mail::Answer::Done(body)),
            (None, Some(reason)) => Ok(guildhall_domain::mail::Answer::Failed(reason)),
            _ => Err(Error::invalid("say either answer, any JSON, or error, why you cannot; one of them")),
        }
    }
}

/// How a request stands; `wait`: at most this long for it to end or move on.
pub(crate) async fn state(hall: &Hall, call: &Call, id: MessageId, wait: Duration) -> Result<Request> {
    let now = hall.mail.request_state(call, id, None, Duration::ZERO).await?;
    if wait.is_zero() || now.state.is_final() {
        return Ok(now);
    }
    let call = Call { deadline: call.deadline + wait, ..call.clone() };
    tokio::select! {
        later = hall.mail.request_state(&call, id, now.progress.clone(), wait) => later,
        () = hall.stopping.cancelled() => Ok(now),
    }
}
