//! Hints within this process: whoever listens gets them, whoever falls behind misses the oldest.

use std::{collections::HashMap, future::ready};

use futures::{StreamExt, stream::BoxStream};
use guildhall_domain::ports::bus::{Envelope, Hint, Subject};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

/// What a listener may fall behind before it misses hints: the port's promise.
pub(crate) const BACKLOG: usize = 1_024;

/// One subject's hints.
pub(crate) fn channel() -> (broadcast::Sender<Envelope>, BoxStream<'static, Envelope>) {
    let (sender, receiver) = broadcast::channel(BACKLOG);
    (sender, stream(receiver))
}

fn stream(receiver: broadcast::Receiver<Envelope>) -> BoxStream<'static, Envelope> {
    // The error says how many were missed; whoever acts on hints looks by itself as well.
    BroadcastStream::new(receiver).filter_map(|hint| ready(hint.ok())).boxed()
}

/// As its listeners get it.
pub(crate) fn of(subject: Subject, envelopes: BoxStream<'static, Envelope>) -> BoxStream<'static, Hint> {
    envelopes.map(move |envelope| Hint { subject: subject.to_string(), envelope }).boxed()
}

/// All subjects' hints. Subjects are constants of the code and the names of this process, which bounds the map.
#[derive(Default)]
pub(crate) struct Hints {
    subjects: Mutex<HashMap<String, broadcast::Sender<Envelope>>>,
}

impl Hints {
    pub(crate) fn send(&self, subject: &str, envelope: Envelope) {
        if let Some(sender) = self.subjects.lock().get(subject) {
            // An error means that nobody listens, which is nobody's loss.
            let _ = sender.send(envelope);
        }
    }

    pub(crate) fn listen(&self, subject: String) -> BoxStream<'static, Envelope> {
        let mut subjects = self.subjects.lock();
        let sender = subjects.entry(subject).or_insert_with(|| broadcast::channel(BACKLOG).0);
        stream(sender.subscribe())
    }
}
