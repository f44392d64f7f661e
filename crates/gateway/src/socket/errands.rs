//! What a client asked for that another service must do: one after the other, in the order in which it came, so that
//! messages leave in theirs. Messages that wait behind one another share a call. Runs only while there is something to
//! run.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use guildhall_domain::{
    Error, ErrorCode, Result,
    mail::{NewMessage, Receipt, SEND_MAX},
    ports::bus::Topic,
};
use serde_json::{Value, json};

use super::{
    Door,
    frame::{Reference, Send, Subscribe},
    sockets::Socket,
    tell,
};

/// What a client may ask for before the first of it is done; then no more is read from it.
const ERRANDS_ROOMY: usize = 256;
const BYTES_ROOMY: usize = 2 * 1024 * 1024;
/// Bodies in one call: contract section 4's list of messages.
const SEND_MAX_BYTES: usize = 4 * 1024 * 1024;

pub(super) enum Errand {
    Send(Box<Send>),
    Beat(Option<bool>),
    Subscribe(Subscribe),
    Unsubscribe(Topic),
}

impl Errand {
    fn bytes(&self) -> usize {
        match self {
            Self::Send(send) => send.message.as_text().len(),
            Self::Beat(_) | Self::Subscribe(_) | Self::Unsubscribe(_) => 0,
        }
    }
}

#[derive(Default)]
pub(super) struct Errands {
    queue: VecDeque<(Reference, Errand)>,
    bytes: usize,
    running: bool,
}

enum Due {
    Messages(Vec<(Reference, Send)>),
    One(Reference, Errand),
}

impl Errands {
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < ERRANDS_ROOMY && self.bytes < BYTES_ROOMY
    }

    /// The next errand, or the messages that stand at the front: those share a call. `None`: nothing runs any more.
    fn next(&mut self) -> Option<Due> {
        let (mut messages, mut keys, mut bytes) = (Vec::new(), HashSet::new(), 0);
        while let Some((reference, errand)) = self.queue.pop_front() {
            let size = errand.bytes();
            let errand = match errand {
                Errand::Send(send) => {
                    bytes += size;
                    // The second with the same key is a repetition, which needs the first to be done.
                    let repeats = send.idempotency_key.as_ref().is_some_and(|key| !keys.insert(key.clone()));
                    if messages.is_empty() || !(repeats || messages.len() == SEND_MAX || bytes > SEND_MAX_BYTES) {
                        self.bytes -= size;
                        messages.push((reference, *send));
                        continue;
                    }
                    Errand::Send(send)
                }
                errand if messages.is_empty() => return Some(Due::One(reference, errand)),
                errand => errand,
            };
            self.queue.push_front((reference, errand));
            break;
        }
        if messages.is_empty() {
            self.running = false;
            self.queue = VecDeque::new();
            return None;
        }
        Some(Due::Messages(messages))
    }
}

impl Door {
    pub(super) fn run_errand(self: &Arc<Self>, socket: &Arc<Socket>, reference: Reference, errand: Errand) {
        let mut errands = socket.errands.lock();
        errands.bytes += errand.bytes();
        errands.queue.push_back((reference, errand));
        if !std::mem::replace(&mut errands.running, true) {
            self.running.spawn(self.clone().run_errands(socket.clone()));
        }
    }

    async fn run_errands(self: Arc<Self>, socket: Arc<Socket>) {
        loop {
            let Some(due) = socket.errands.lock().next() else { break };
            match due {
                Due::Messages(messages) => self.send(&socket, messages).await,
                Due::One(reference, errand) => match self.run(&socket, errand).await {
                    Ok(rest) => socket.outbox.push(tell::ok(&reference, rest)),
                    Err(error) => socket.outbox.push(tell::error(&reference, &error)),
                },
            }
            // The reader may have waited for room.
            socket.outbox.wake();
        }
    }

    async fn run(&self, socket: &Socket, errand: Errand) -> Result<Value> {
        match errand {
            Errand::Beat(busy) => {
                self.hall.heartbeats.beat(&socket.caller.call(), socket.agent.clone(), busy).await?;
                Ok(json!({}))
            }
            Errand::Subscribe(subscribe) => {
                self.hall.limits.pass(&socket.caller.principal).await?;
                self.subscribe(socket, subscribe).await
            }
            Errand::Unsubscribe(topic) => {
                let was = socket.subscriptions.lock().remove(&topic);
                Ok(json!({ "topic": topic, "was_subscribed": was }))
            }
            // Taken with its like by `Errands::next`.
            Errand::Send(_) => Err(Error::internal("a message was not sent with the others")),
        }
    }

    /// Each message is answered for itself, in the order in which they came.
    async fn send(&self, socket: &Socket, messages: Vec<(Reference, Send)>) {
        let (mut references, mut outcomes, mut checked) = (Vec::new(), Vec::new(), Vec::new());
        for (reference, message) in messages {
            references.push(reference);
            match self.check(socket, message).await {
                Ok(message) => {
                    outcomes.push(None);
                    checked.push(message);
                }
                Err(error) => outcomes.push(Some(error)),
            }
        }
        let mut sent = self.send_checked(socket, checked).await.into_iter();
        for (reference, refused) in references.iter().zip(outcomes) {
            let outcome = match refused {
                Some(error) => Err(error),
                None => sent.next().unwrap_or_else(|| Err(Error::internal("the mail answered for too few messages"))),
            };
            socket.outbox.push(match outcome {
                Ok(receipt) => {
                    let Receipt { message_id, recipients, durability, duplicate } = receipt;
                    let rest = json!({ "message_id": message_id, "recipients": recipients, "durability": durability,
                        "duplicate": duplicate });
                    tell::ok(reference, rest)
                }
                Err(error) => tell::error(reference, &error),
            });
        }
    }

    async fn check(&self, socket: &Socket, message: Send) -> Result<NewMessage> {
        let sender = socket.caller.principal.require_agent()?;
        self.hall.limits.pass(&socket.caller.principal).await?;
        message.into_message(&sender)
    }

    async fn send_checked(&self, socket: &Socket, messages: Vec<NewMessage>) -> Vec<Result<Receipt>> {
        if messages.is_empty() {
            return Vec::new();
        }
        let together = self.hall.mail.send(&socket.caller.call(), messages.clone()).await;
        match together {
            Ok(receipts) => receipts.into_iter().map(Ok).collect(),
            // All or none: one that cannot be sent must not keep the others.
            Err(error) if messages.len() > 1 && is_of_one(error.code) => {
                let mut each = Vec::with_capacity(messages.len());
                for message in messages {
                    let sent = self.hall.mail.send(&socket.caller.call(), vec![message]).await;
                    each.push(sent.and_then(|receipts| {
                        receipts.into_iter().next().ok_or_else(|| Error::internal("the mail gave no receipt"))
                    }));
                }
                each
            }
            Err(error) => vec![Err(error); messages.len()],
        }
    }
}

/// Whether an error is about one message of several, and not about the hall.
const fn is_of_one(code: ErrorCode) -> bool {
    match code {
        ErrorCode::InvalidParams
        | ErrorCode::PermissionDenied
        | ErrorCode::NotFound
        | ErrorCode::Conflict
        | ErrorCode::MailboxFull
        | ErrorCode::PayloadTooLarge
        | ErrorCode::CircuitOpen
        | ErrorCode::LockHeld
        | ErrorCode::Unsupported => true,
        ErrorCode::ConnectionError
        | ErrorCode::AuthenticationError
        | ErrorCode::RateLimited
        | ErrorCode::Timeout
        | ErrorCode::Cancelled
        | ErrorCode::Unavailable
        | ErrorCode::UpstreamError
        | ErrorCode::Internal => false,
    }
}
