//! What waits to be written to one socket. Bounded: whoever can wait asks for room first ([`Outbox::has_room`]);
//! what cannot wait is itself bounded by windows and credits, and a client that lets it pile up is cut off.

use std::{
    collections::VecDeque,
    task::Waker,
    time::{Duration, Instant},
};

use axum::extract::ws::{Message, Utf8Bytes};
use bytes::Bytes;
use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::cut::Cut;

/// Above these nothing is added that can wait.
const ROOMY_FRAMES: usize = 256;
const ROOMY_BYTES: usize = 1024 * 1024;
/// Above these the socket is cut: the window of mail (4 MiB at most), the credits of all streams (8 MiB at most) and the
/// answers of a client that reads now and then stay below.
const FRAMES_MAX: usize = 4 * 1024;
const BYTES_MAX: usize = 14 * 1024 * 1024;
/// A queue that once was long is not kept long.
const KEPT_CAPACITY: usize = 16;

pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    writer: AtomicWaker,
}

struct Waiting {
    frames: VecDeque<Message>,
    bytes: usize,
    /// When a frame was last taken, or the first one added.
    moved: Instant,
    cut: Option<Cut>,
}

pub(super) enum Next {
    Frame(Message),
    Cut(Cut),
    Nothing,
}

impl Outbox {
    pub(super) fn new() -> Self {
        let waiting = Waiting { frames: VecDeque::new(), bytes: 0, moved: Instant::now(), cut: None };
        Self { waiting: Mutex::new(waiting), writer: AtomicWaker::new() }
    }

    pub(super) fn push(&self, text: Utf8Bytes) {
        self.add(text.len(), Message::Text(text));
    }

    pub(super) fn ping(&self) {
        self.add(0, Message::Ping(Bytes::new()));
    }

    fn add(&self, bytes: usize, frame: Message) {
        let mut waiting = self.waiting.lock();
        if waiting.cut.is_some() {
            return;
        }
        if waiting.frames.len() >= FRAMES_MAX || waiting.bytes + bytes > BYTES_MAX {
            waiting.cut(Cut::Slow);
        } else {
            if waiting.frames.is_empty() {
                waiting.moved = Instant::now();
            }
            waiting.frames.push_back(frame);
            waiting.bytes += bytes;
        }
        drop(waiting);
        self.writer.wake();
    }

    /// Ends the socket. The first reason counts.
    pub(super) fn cut(&self, cut: Cut) {
        self.waiting.lock().cut(cut);
        self.writer.wake();
    }

    pub(super) fn cut_by(&self) -> Option<Cut> {
        self.waiting.lock().cut.clone()
    }

    /// Cuts off a client that takes nothing for so long.
    pub(super) fn check_moving(&self, reads_within: Duration) {
        let waiting = self.waiting.lock();
        if !waiting.frames.is_empty() && waiting.moved.elapsed() >= reads_within {
            drop(waiting);
            self.cut(Cut::Slow);
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.frames.len() < ROOMY_FRAMES && waiting.bytes < ROOMY_BYTES
    }

    pub(super) fn next(&self) -> Next {
        let mut waiting = self.waiting.lock();
        if let Some(cut) = &waiting.cut {
            return Next::Cut(cut.clone());
        }
        let Some(frame) = waiting.frames.pop_front() else { return Next::Nothing };
        if let Message::Text(text) = &frame {
            waiting.bytes -= text.len();
        }
        waiting.moved = Instant::now();
        if waiting.frames.is_empty() && waiting.frames.capacity() > KEPT_CAPACITY {
            waiting.frames = VecDeque::new();
        }
        Next::Frame(frame)
    }

    /// Whom to wake when there is something to do for the socket.
    pub(super) fn register(&self, waker: &Waker) {
        self.writer.register(waker);
    }

    pub(super) fn wake(&self) {
        self.writer.wake();
    }
}

impl Waiting {
    fn cut(&mut self, cut: Cut) {
        if self.cut.is_none() {
            self.cut = Some(cut);
            self.frames = VecDeque::new();
            self.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_does_not_read_is_dropped_at_the_bound_and_the_client_with_it() {
        let outbox = Outbox::new();
        let text: Utf8Bytes = "x".repeat(BYTES_MAX / 8).into();
        for _ in 0..8 {
            outbox.push(text.clone());
        }
        assert!(!outbox.has_room() && outbox.cut_by().is_none());
        outbox.push("y".into());
        assert!(matches!(outbox.next(), Next::Cut(Cut::Slow)));
        assert_eq!(outbox.waiting.lock().bytes, 0, "what nobody reads is not kept");
        let outbox = Outbox::new();
        (0..=FRAMES_MAX).for_each(|_| outbox.push("x".into()));
        assert!(matches!(outbox.next(), Next::Cut(Cut::Slow)));
    }

    #[test]
    fn the_first_reason_to_end_a_socket_is_the_one_its_client_is_told() {
        let outbox = Outbox::new();
        outbox.cut(Cut::Left);
        outbox.cut(Cut::Slow);
        assert!(matches!(outbox.next(), Next::Cut(Cut::Left)));
    }
}
