//! Mail on its way into the hands of whoever took it: acknowledged once the answer that holds it has been written to
//! an open connection, given back when its caller is gone before.
//!
//! hyper keeps a body's chunk until the socket has taken its last byte. So the chunks of such an answer tell when they
//! are let go of, and the body's end comes only after that: a body that is dropped before its end was not written.
//! The end also waits for the acknowledgement, so that whoever asks again at once is not held up by its own mail.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{future::BoxFuture, task::AtomicWaker};
use guildhall_domain::{
    AgentId, Call, ErrorCode, Result,
    mail::{
        Delivered, MessageId,
        delivery::{Settling, TakeMail, Verdict},
    },
    ports::Mail,
};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{hall::Hall, unread::UnreadCounts};

/// A client that takes longer to read its answer is cut off, and its mail given back.
const WRITING_TIME: Duration = Duration::from_secs(60);
/// What a settling may take, whatever is left of the call that took the mail.
const SETTLING_TIME: Duration = Duration::from_secs(10);

/// What becomes of mail once it has been handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Once {
    Acknowledged,
    /// It stays leased; its taker settles it.
    Kept,
}

/// What one call has taken, or is taking. Gives it back when it is dropped before it was handed over.
pub(crate) struct Hand {
    mail: Arc<dyn Mail>,
    unread: Arc<UnreadCounts>,
    settlings: TaskTracker,
    call: Call,
    agent: AgentId,
    taker: String,
    once: Once,
    stopping: CancellationToken,
    acks: Vec<Settling>,
    taken: Vec<MessageId>,
    /// Nothing is held any more, or nobody is to give it back.
    done: bool,
}

impl Hand {
    pub(crate) fn new(hall: &Hall, call: &Call, agent: AgentId, once: Once) -> Self {
        static HANDS: AtomicU64 = AtomicU64::new(0);
        let number = HANDS.fetch_add(1, Ordering::Relaxed);
        Self {
            mail: hall.mail.clone(),
            unread: hall.unread.clone(),
            settlings: hall.settlings.clone(),
            call: call.clone(),
            agent,
            // The end is marked: a taker is known by how its name begins, and 1 also begins 10.
            taker: format!("call/{}/{number}/", hall.node.as_str()),
            once,
            stopping: hall.stopping.clone(),
            acks: Vec::new(),
            taken: Vec::new(),
            done: false,
        }
    }

    pub(crate) async fn take(&mut self, limit: usize, wait: Duration, lease: Duration) -> Result<Vec<Delivered>> {
        let take = TakeMail { limit, wait, taker: self.taker.clone(), lease, told: false };
        let call = Call { deadline: self.call.deadline + wait, ..self.call.clone() };
        let taken = tokio::select! {
            taken = self.mail.take(&call, &self.agent, take) => taken,
            () = self.stopping.cancelled() => return Ok(Vec::new()),
        };
        // Nothing is held where nothing was taken; after a time-out nobody knows.
        self.done = match &taken {
            Ok(mail) => mail.is_empty(),
            Err(error) => error.code != ErrorCode::Timeout,
        };
        let mail = taken?;
        self.taken = mail.iter().map(|mail| mail.message.message_id).collect();
        self.unread.took(&self.call.principal.tenant, &self.agent, &mail, self.once);
        if self.once == Once::Acknowledged {
            let ack = |mail: &Delivered| Settling {
                message_id: mail.message.message_id,
                lease: mail.lease,
                verdict: Verdict::Ack,
            };
            self.acks = mail.iter().map(ack).collect();
        }
        Ok(mail)
    }

    async fn handed_over(mut self) {
        self.done = true;
        let acks = std::mem::take(&mut self.acks);
        if acks.is_empty() {
            return;
        }
        let (mail, agent, count) = (self.mail.clone(), self.agent.clone(), acks.len());
        let call = settling_call(&self.call);
        // On a task of its own: that the client has gone by now changes nothing.
        let settled = self.settlings.spawn(async move {
            // What is not acknowledged is handed out again when its lease is over.
            match mail.settle(&call, &agent, acks).await {
                Ok(each) => {
                    for error in each.into_iter().filter_map(Result::err) {
                        tracing::debug!(%error, "a message that was handed over could not be acknowledged");
                    }
                }
                Err(error) => tracing::warn!(%error, count, "mail that was handed over could not be acknowledged"),
            }
        });
        let _ = settled.await;
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        if self.done || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (mail, agent, taker) = (self.mail.clone(), self.agent.clone(), std::mem::take(&mut self.taker));
        let call = settling_call(&self.call);
        self.unread.gave_back(&call.principal.tenant, &agent, &self.taken);
        self.settlings.spawn(async move {
            if let Err(error) = mail.give_back(&call, &agent, &taker).await {
                tracing::debug!(%error, "mail of a caller that is gone waits until its lease is over");
            }
        });
    }
}

fn settling_call(call: &Call) -> Call {
    Call { deadline: Instant::now() + SETTLING_TIME, ..call.clone() }
}

/// What the answers to one HTTP request hand over.
#[derive(Clone, Default)]
pub(crate) struct Handover(Arc<Mutex<Hands>>);

#[derive(Default)]
struct Hands {
    waiting: Vec<Hand>,
    /// The connection is gone: whatever comes now is given back.
    over: bool,
}

impl Handover {
    pub(crate) fn add(&self, hand: Hand) {
        let mut hands = self.0.lock();
        if !hand.taken.is_empty() && !hands.over {
            hands.waiting.push(hand);
        }
    }

    fn is_empty(&self) -> bool {
        self.0.lock().waiting.is_empty()
    }

    fn take(&self) -> Vec<Hand> {
        std::mem::take(&mut self.0.lock().waiting)
    }

    fn abandon(&self) -> Vec<Hand> {
        let mut hands = self.0.lock();
        hands.over = true;
        std::mem::take(&mut hands.waiting)
    }

    /// The response, whose end hands over what was added by then.
    pub(crate) fn with(&self, response: Response) -> Response {
        response.map(|body| {
            Body::new(Handing { body, handover: self.clone(), unwritten: Arc::default(), stage: Stage::Answering })
        })
    }
}

/// Chunks that the connection still holds.
#[derive(Default)]
struct Unwritten {
    chunks: AtomicUsize,
    written: AtomicWaker,
}

struct Chunk {
    data: Bytes,
    unwritten: Arc<Unwritten>,
}

impl Chunk {
    fn watched(data: Bytes, unwritten: &Arc<Unwritten>) -> Bytes {
        unwritten.chunks.fetch_add(1, Ordering::AcqRel);
        Bytes::from_owner(Self { data, unwritten: unwritten.clone() })
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.unwritten.chunks.fetch_sub(1, Ordering::AcqRel);
        self.unwritten.written.wake();
    }
}

enum Stage {
    Answering,
    Writing(Pin<Box<Sleep>>),
    Settling(BoxFuture<'static, ()>),
    Done,
}

struct Handing {
    body: Body,
    handover: Handover,
    unwritten: Arc<Unwritten>,
    stage: Stage,
}

impl http_body::Body for Handing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        loop {
            match &mut this.stage {
                Stage::Answering => match ready!(Pin::new(&mut this.body).poll_frame(cx)?) {
                    Some(frame) if this.handover.is_empty() => return Poll::Ready(Some(Ok(frame))),
                    Some(frame) => {
                        return Poll::Ready(Some(Ok(frame.map_data(|data| Chunk::watched(data, &this.unwritten)))));
                    }
                    None if this.handover.is_empty() => this.stage = Stage::Done,
                    None => this.stage = Stage::Writing(Box::pin(tokio::time::sleep(WRITING_TIME))),
                },
                Stage::Writing(too_long) => {
                    this.unwritten.written.register(cx.waker());
                    if this.unwritten.chunks.load(Ordering::Acquire) == 0 {
                        let hands = this.handover.take();
                        this.stage = Stage::Settling(Box::pin(async move {
                            for hand in hands {
                                hand.handed_over().await;
                            }
                        }));
                    } else {
                        ready!(too_long.as_mut().poll(cx));
                        this.stage = Stage::Done;
                        drop(this.handover.abandon());
                        return Poll::Ready(Some(Err(axum::Error::new("the client does not read its answer"))));
                    }
                }
                Stage::Settling(settling) => {
                    ready!(settling.as_mut().poll(cx));
                    this.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.stage {
            Stage::Answering => self.handover.is_empty() && self.body.is_end_stream(),
            Stage::Writing(_) | Stage::Settling(_) => false,
            Stage::Done => true,
        }
    }

    /// Unknown while something is to be handed over: at a length that is known the connection would let go of the body
    /// with its last byte, before that is written.
    fn size_hint(&self) -> SizeHint {
        if self.handover.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

impl Drop for Handing {
    fn drop(&mut self) {
        drop(self.handover.abandon());
    }
}

#[cfg(test)]
mod tests {
    use guildhall_domain::{Principal, TenantId};
    use guildhall_rpc::{RemoteOptions, Transport};
    use http_body_util::BodyExt as _;

    use super::*;

    /// A hand that holds something for its taker to settle. Nobody is asked anything about it.
    fn full_hand() -> Hand {
        let nowhere = Transport::remote(["http://127.0.0.1:1"], RemoteOptions::new("nobody")).unwrap();
        let mail = guildhall_mail::grpc::client(nowhere).0;
        Hand {
            unread: Arc::new(UnreadCounts::new(
                mail.clone(),
                Arc::new(guildhall_testkit::clock::FixedClock::default()),
            )),
            mail,
            settlings: TaskTracker::new(),
            call: Call::new(Principal::hall(TenantId::default(), "test")),
            agent: "a".parse().unwrap(),
            taker: "t".to_owned(),
            once: Once::Kept,
            stopping: CancellationToken::new(),
            acks: Vec::new(),
            taken: vec![MessageId::from_bytes([7; 16])],
            done: false,
        }
    }

    #[tokio::test]
    async fn an_answer_ends_only_after_the_connection_has_let_go_of_what_it_holds() {
        let handover = Handover::default();
        handover.add(full_hand());
        let mut body = handover.with(Response::new(Body::from("mail"))).into_body();
        assert_eq!(http_body::Body::size_hint(&body).exact(), None, "at a known length the body is let go of too soon");
        let unwritten = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), body.frame()).await;
        assert!(early.is_err(), "it ended while its words were still in the connection's hands");
        assert!(!handover.is_empty());
        drop(unwritten);
        let end = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("it ends");
        assert!(end.is_none() && handover.is_empty());
    }

    #[tokio::test]
    async fn what_comes_after_the_connection_is_gone_is_given_back() {
        let handover = Handover::default();
        drop(handover.with(Response::new(Body::from("mail"))));
        let hand = full_hand();
        let settlings = hand.settlings.clone();
        handover.add(hand);
        assert_eq!(settlings.len(), 1, "nobody gives it back");
        assert!(handover.is_empty());
    }
}
