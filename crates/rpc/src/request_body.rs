//! A request's body that can be sent to another endpoint as long as no endpoint has begun to take it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tonic::{Status, body::Body};

struct State {
    body: Body,
    touched: bool,
    failed: Option<Status>,
}

/// The sender's half. A body that was never polled never left: whoever got only the headers cannot have acted on them.
#[derive(Clone)]
pub(crate) struct RequestBody(Arc<Mutex<State>>);

impl RequestBody {
    pub(crate) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(State { body, touched: false, failed: None })))
    }

    /// The half to send. Only one may be polled.
    pub(crate) fn lend(&self) -> Body {
        Body::new(Lent(self.0.clone()))
    }

    pub(crate) fn is_untouched(&self) -> bool {
        !self.0.lock().touched
    }

    /// Why the message could not be written, when that is what ended the call: it was too large.
    pub(crate) fn failure(&self) -> Option<Status> {
        self.0.lock().failed.take()
    }
}

struct Lent(Arc<Mutex<State>>);

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut state = self.0.lock();
        state.touched = true;
        let polled = Pin::new(&mut state.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(status))) = &polled {
            state.failed = Some(Status::new(status.code(), status.message()));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().body.size_hint()
    }
}
