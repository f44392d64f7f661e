//! The one task of a socket: writes what waits, fetches the events of its topics while there is room, and reads what
//! its client says. Nothing is awaited in between, so that a slow call of one frame holds up no other.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use futures::{SinkExt as _, StreamExt as _};
use guildhall_domain::{
    Error, Result,
    mail::delivery::{Settling, Verdict},
};
use guildhall_guard::{Operation, Target};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

use super::{
    Door,
    cut::Cut,
    errands::Errand,
    frame::{self, Ack, Heard, Heartbeat, Nack, Reference, Renew, Said, Unsubscribe},
    outbox::Next,
    sockets::Socket,
    tell,
};
use crate::mail;

/// Frames that do not fit, in a row, before the socket ends.
const NONSENSE_MAX: u32 = 20;
/// What a client may take for the last frames.
const LAST_WORDS_TIME: Duration = Duration::from_secs(2);
/// A client that says much gives a sign of life each second, not with each frame.
const SIGN_EVERY: Duration = Duration::from_secs(1);

enum Turn {
    Heard(Message),
    Cut(Cut),
    Gone,
}

/// What is known of a client while it is listened to.
struct Listening {
    nonsense: u32,
    signed: Option<Instant>,
}

/// Serves the socket until it ends. Gives why the hall ends it; `None`: its client did.
pub(super) async fn run(door: &Arc<Door>, web_socket: &mut WebSocket, socket: &Arc<Socket>) -> Option<Cut> {
    let mut listening = Listening { nonsense: 0, signed: None };
    let mut unwritten = false;
    loop {
        match std::future::poll_fn(|cx| turn(web_socket, socket, &mut unwritten, cx)).await {
            Turn::Heard(message) => door.hear_message(socket, &mut listening, message),
            Turn::Cut(cut) => return Some(cut),
            Turn::Gone => return None,
        }
    }
}

fn turn(web_socket: &mut WebSocket, socket: &Socket, unwritten: &mut bool, cx: &mut Context<'_>) -> Poll<Turn> {
    let outbox = &socket.outbox;
    outbox.register(cx.waker());
    loop {
        while let Poll::Ready(ready) = web_socket.poll_ready_unpin(cx) {
            if ready.is_err() {
                return Poll::Ready(Turn::Gone);
            }
            match outbox.next() {
                Next::Frame(frame) => {
                    if web_socket.start_send_unpin(frame).is_err() {
                        return Poll::Ready(Turn::Gone);
                    }
                    *unwritten = true;
                }
                Next::Cut(cut) => return Poll::Ready(Turn::Cut(cut)),
                Next::Nothing => break,
            }
        }
        // One that cannot be written to can be cut as well.
        if let Some(cut) = outbox.cut_by() {
            return Poll::Ready(Turn::Cut(cut));
        }
        if *unwritten {
            match web_socket.poll_flush_unpin(cx) {
                Poll::Ready(Ok(())) => *unwritten = false,
                Poll::Ready(Err(_)) => return Poll::Ready(Turn::Gone),
                Poll::Pending => {}
            }
        }
        if socket.subscriptions.lock().poll(cx, outbox).is_ready() {
            continue;
        }
        if !may_read(socket) {
            return Poll::Pending;
        }
        return match web_socket.poll_next_unpin(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Turn::Gone),
            Poll::Ready(Some(Ok(message))) => Poll::Ready(Turn::Heard(message)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(broken(error)),
        };
    }
}

/// A client that asks faster than it is served, or does not read its answers, is not read from.
fn may_read(socket: &Socket) -> bool {
    socket.outbox.has_room() && socket.errands.lock().has_room() && socket.window.lock().has_room_for_settlings()
}

/// Why reading failed: a frame that the protocol forbids is told, a connection that broke has nobody to tell.
fn broken(error: axum::Error) -> Turn {
    match error.into_inner().downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => Turn::Cut(Cut::TooLarge),
        Some(tungstenite::Error::Utf8(_)) => Turn::Cut(Cut::NotText),
        Some(_) | None => Turn::Gone,
    }
}

/// The last frames, for a client that still reads.
pub(super) async fn last_words(web_socket: &mut WebSocket, text: Utf8Bytes, close: CloseFrame) {
    let last = async {
        web_socket.send(Message::Text(text)).await?;
        web_socket.send(Message::Close(Some(close))).await?;
        // The client's own close frame ends the connection in good order; what comes before is too late.
        while let Some(Ok(message)) = web_socket.recv().await {
            if matches!(message, Message::Close(_)) {
                return Ok(());
            }
        }
        // To hang up on one that perhaps still speaks would take the last frames from it as well.
        std::future::pending().await
    };
    // A client that is gone or does not read has had its chance.
    let _: Result<Result<(), axum::Error>, _> = tokio::time::timeout(LAST_WORDS_TIME, last).await;
}

impl Door {
    fn hear_message(self: &Arc<Self>, socket: &Arc<Socket>, listening: &mut Listening, message: Message) {
        socket.lives();
        if listening.signed.is_none_or(|at| at.elapsed() >= SIGN_EVERY) && is_its_own(socket) {
            listening.signed = Some(Instant::now());
            self.hall.heartbeats.hear(&socket.tenant, socket.agent.clone());
        }
        let heard = match message {
            Message::Text(text) => frame::hear(&text),
            Message::Binary(_) => {
                let error = Error::invalid("a frame is JSON in a text frame; binary frames are not understood");
                Heard { reference: Reference::default(), said: Err(error) }
            }
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => return,
        };
        match heard.said {
            Ok(said) => {
                listening.nonsense = 0;
                self.hear_frame(socket, heard.reference, said);
            }
            Err(error) => {
                socket.outbox.push(tell::error(&heard.reference, &error));
                listening.nonsense += 1;
                if listening.nonsense == NONSENSE_MAX {
                    socket.outbox.cut(Cut::Nonsense);
                }
            }
        }
    }

    fn hear_frame(self: &Arc<Self>, socket: &Arc<Socket>, reference: Reference, said: Said) {
        let answer = match said {
            Said::Heartbeat(heartbeat) => match self.heartbeat(socket, &heartbeat) {
                Ok(None) => Ok(json!({})),
                Ok(Some(errand)) => return self.run_errand(socket, reference, errand),
                Err(error) => Err(error),
            },
            Said::Send(send) => return self.run_errand(socket, reference, Errand::Send(Box::new(send))),
            Said::Subscribe(subscribe) => return self.run_errand(socket, reference, Errand::Subscribe(subscribe)),
            Said::Unsubscribe(Unsubscribe { topic, .. }) => {
                return self.run_errand(socket, reference, Errand::Unsubscribe(topic));
            }
            Said::Ack(Ack { message_id, lease, .. }) => {
                return self.settle(socket, Some(reference), Settling { message_id, lease, verdict: Verdict::Ack });
            }
            Said::Renew(Renew { message_id, lease, .. }) => {
                return self.settle(socket, Some(reference), Settling { message_id, lease, verdict: Verdict::Renew });
            }
            Said::Nack(Nack { message_id, lease, delay_ms, reason, .. }) => match mail::nack(delay_ms, reason) {
                Ok(verdict) => {
                    return self.settle(socket, Some(reference), Settling { message_id, lease, verdict });
                }
                Err(error) => Err(error),
            },
            Said::StreamOpen(asked) => return self.open_stream(socket, reference, asked),
            Said::StreamAccept(asked) => self.accept_stream(socket, asked),
            Said::StreamRefuse(asked) => self.refuse_stream(socket, asked),
            Said::StreamClose(asked) => self.close_stream(socket, asked),
            Said::StreamData(asked) => return answer_if_asked(socket, &reference, self.send_on_stream(socket, asked)),
            Said::StreamCredit(asked) => {
                return answer_if_asked(socket, &reference, self.grant_on_stream(socket, asked));
            }
        };
        answer_with(socket, &reference, answer);
    }

    /// A sign of life; what the agent says of itself besides goes to the registry.
    fn heartbeat(&self, socket: &Socket, heartbeat: &Heartbeat) -> Result<Option<Errand>> {
        let target = Target::Agent(&socket.agent);
        self.hall.policy.authorize(&socket.caller.principal, Operation::Heartbeat, target)?;
        if heartbeat.busy.is_some() {
            return Ok(Some(Errand::Beat(heartbeat.busy)));
        }
        self.hall.heartbeats.hear(&socket.tenant, socket.agent.clone());
        Ok(None)
    }
}

/// Whether the agent itself is at the other end, and not someone who looks after it.
fn is_its_own(socket: &Socket) -> bool {
    socket.caller.principal.agent().is_some_and(|own| own == socket.agent)
}

fn answer_with(socket: &Socket, reference: &Reference, answer: Result<Value>) {
    socket.outbox.push(match answer {
        Ok(rest) => tell::ok(reference, rest),
        Err(error) => tell::error(reference, &error),
    });
}

/// Data comes too often to be answered each time: without a `ref` only what fails is.
fn answer_if_asked(socket: &Socket, reference: &Reference, answer: Result<Value>) {
    if answer.is_err() || !reference.is_none() {
        answer_with(socket, reference, answer);
    }
}
