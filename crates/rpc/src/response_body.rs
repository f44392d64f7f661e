//! An answer on its way in, which may not take longer than the call's deadline: tonic's own time-out ends where the
//! answer begins, and a peer that stops in the middle of it would be waited for without end.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep_until};
use tonic::{Status, body::Body};

use crate::remote;

pub(crate) struct ResponseBody {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    service: Arc<str>,
}

impl ResponseBody {
    pub(crate) fn until(deadline: Instant, body: Body, service: Arc<str>) -> Body {
        Body::new(Self { body, deadline: Box::pin(sleep_until(deadline.into())), service })
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(remote::lost(&self.service, &error)))),
            Poll::Pending if self.deadline.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Some(Err(remote::too_late(&self.service))))
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
