//! Streams between two agents, over their sockets, which may be on different gateways.
//!
//! Each side is an [`End`] on its socket's gateway. What one side says goes to the other as a [`Parcel`], through the
//! bus if need be, which keeps the order but may lose: so parcels are numbered, and a gap ends the stream on both
//! sides. Nobody sends more than the other side granted ([`Credit`]), which bounds what is in flight. Where a socket
//! drops, or a gateway is not heard of for 15 s, the other side is told and why.

mod asked;
mod parcel;

use std::{collections::HashMap, sync::Arc, time::Instant};

use guildhall_domain::{AgentId, Error, Result, TenantId, mail::Body, ports::bus::NodeName};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    Door,
    frame::Reference,
    sockets::{Socket, SocketAt, SocketId},
    tell,
};

pub(super) use self::parcel::{Parcel, Pulse};

/// Streams of one socket.
const PER_SOCKET_MAX: usize = 32;
/// What may be in flight in one direction of a stream.
const IN_FLIGHT_FRAMES: u32 = 64;
const IN_FLIGHT_BYTES: u32 = 256 * 1024;
/// Data of one frame, as JSON text.
const DATA_MAX_BYTES: usize = 64 * 1024;
const METADATA_MAX_BYTES: usize = 4 * 1024;
const REASON_MAX_BYTES: usize = 256;
pub(super) const DROPPED: &str = "the other side's socket has closed";
/// Its agent has a newer socket: there it can be opened anew.
pub(super) const MOVED: &str = "moved";

/// What the other side may send: so many frames, and so many bytes of data in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credit {
    pub(super) frames: u32,
    pub(super) bytes: u32,
}

impl Default for Credit {
    fn default() -> Self {
        Self { frames: IN_FLIGHT_FRAMES, bytes: IN_FLIGHT_BYTES }
    }
}

impl Credit {
    const NONE: Self = Self { frames: 0, bytes: 0 };

    /// What of `more` fits below the bound, added.
    fn grant(&mut self, more: Self) -> Self {
        let granted = Self {
            frames: more.frames.min(IN_FLIGHT_FRAMES - self.frames),
            bytes: more.bytes.min(IN_FLIGHT_BYTES - self.bytes),
        };
        self.frames += granted.frames;
        self.bytes += granted.bytes;
        granted
    }

    /// False when there is not enough for one frame of so many bytes.
    fn spend(&mut self, bytes: usize) -> bool {
        let Some(left) = u32::try_from(bytes).ok().and_then(|bytes| self.bytes.checked_sub(bytes)) else {
            return false;
        };
        let Some(frames) = self.frames.checked_sub(1) else { return false };
        *self = Self { frames, bytes: left };
        true
    }
}

enum Phase {
    /// This side has asked; the answer goes under this reference.
    Asked(Reference),
    /// This side was asked, and may send so much once it accepts.
    Offered(Credit),
    Open,
}

/// One side of a stream.
struct End {
    tenant: TenantId,
    /// Whose socket this side is.
    agent: AgentId,
    peer: SocketAt,
    peer_agent: AgentId,
    phase: Phase,
    since: Instant,
    /// What this side may still send.
    may_send: Credit,
    /// What the other side may still send, as far as is known here.
    granted: Credit,
    /// Data frames of this side, and of the other.
    sent: u64,
    received: u64,
    /// Parcels to the other side, and from it.
    posted: u64,
    arrived: u64,
}

type OfSocket = HashMap<Arc<str>, End>;

#[derive(Default)]
pub(super) struct Streams(Mutex<HashMap<SocketId, OfSocket>>);

impl Streams {
    /// Gives the side back when there is no place for it.
    fn insert(&self, socket: SocketId, stream: Arc<str>, end: End) -> Result<(), (Box<End>, Error)> {
        let mut ends = self.0.lock();
        let of_socket = ends.entry(socket).or_default();
        if of_socket.len() >= PER_SOCKET_MAX {
            let full = Error::invalid(format!("a socket has at most {PER_SOCKET_MAX} streams; close one"));
            return Err((Box::new(end), full));
        }
        if of_socket.contains_key(&stream) {
            let taken = Error::conflict(format!("there is a stream {stream:?} on this socket already"));
            return Err((Box::new(end), taken));
        }
        of_socket.insert(stream, end);
        metrics::gauge!("guildhall_socket_streams_open").increment(1.0);
        Ok(())
    }

    fn remove(&self, socket: SocketId, stream: &str) -> Option<End> {
        let mut ends = self.0.lock();
        let of_socket = ends.get_mut(&socket)?;
        let end = of_socket.remove(stream);
        if of_socket.is_empty() {
            ends.remove(&socket);
        }
        if end.is_some() {
            metrics::gauge!("guildhall_socket_streams_open").decrement(1.0);
        }
        end
    }

    fn with<T>(&self, socket: SocketId, stream: &str, act: impl FnOnce(&mut End) -> T) -> Option<T> {
        self.0.lock().get_mut(&socket)?.get_mut(stream).map(act)
    }

    fn of(&self, socket: SocketId) -> Vec<Arc<str>> {
        self.0.lock().get(&socket).map(|of_socket| of_socket.keys().cloned().collect()).unwrap_or_default()
    }

    fn each(&self, mut see: impl FnMut(SocketId, &Arc<str>, &End)) {
        for (socket, of_socket) in &*self.0.lock() {
            of_socket.iter().for_each(|(stream, end)| see(*socket, stream, end));
        }
    }

    /// The streams whose side here fits, to be ended.
    fn those(&self, fits: impl Fn(&End) -> bool) -> Vec<(SocketId, Arc<str>)> {
        let mut those = Vec::new();
        self.each(|socket, stream, end| {
            if fits(end) {
                those.push((socket, stream.clone()));
            }
        });
        those
    }
}

/// Why a stream ends, as both sides are told.
fn reason_of(reason: Option<String>) -> Result<String> {
    let reason = reason.unwrap_or_else(|| "closed".to_owned());
    if reason.len() > REASON_MAX_BYTES {
        return Err(Error::invalid(format!("reason is at most {REASON_MAX_BYTES} bytes")));
    }
    Ok(reason)
}

fn no_such_stream(stream: &str) -> Error {
    Error::not_found(format!("there is no stream {stream:.64?} on this socket; it may have ended"))
}

impl Door {
    /// Ends this side and tells its client, and the other side.
    fn end_stream(self: &Arc<Self>, socket: SocketId, stream: &str, reason: &str) {
        let Some(end) = self.streams.remove(socket, stream) else { return };
        self.tell_ended(&end, socket, stream, reason);
        self.say(end, socket, stream, parcel::Say::End { reason: reason.to_owned() });
    }

    /// Tells the client of this side that its stream is over.
    fn tell_ended(&self, end: &End, socket: SocketId, stream: &str, reason: &str) {
        let Some(socket) = self.sockets.find(&end.tenant, &end.agent, socket) else { return };
        socket.outbox.push(match &end.phase {
            Phase::Asked(reference) => {
                let error = Error::unavailable(format!("the stream was not opened: {reason}"));
                tell::error(reference, &error)
            }
            Phase::Offered(_) | Phase::Open => tell::stream_close(stream, reason),
        });
    }

    /// The socket has ended, and its streams with it.
    pub(super) fn leave_streams(self: &Arc<Self>, socket: &Socket, reason: &str) {
        for stream in self.streams.of(socket.id) {
            self.end_stream(socket.id, &stream, reason);
        }
    }

    pub(super) fn lose_streams_to(self: &Arc<Self>, node: &NodeName, reason: &str) {
        for (socket, stream) in self.streams.those(|end| end.peer.node == *node) {
            self.end_stream(socket, &stream, reason);
        }
    }

    /// Ends what nobody accepts, and what leads to a gateway that is gone.
    pub(super) fn tend_streams(self: &Arc<Self>) {
        let accepts_within = self.hall.pace.accepts_within;
        let unaccepted = |end: &End| !matches!(end.phase, Phase::Open) && end.since.elapsed() >= accepts_within;
        for (socket, stream) in self.streams.those(unaccepted) {
            self.end_stream(socket, &stream, "nobody accepted it in time");
        }
        // A socket may have ended while its side was being made.
        let orphaned = |end: &End| self.sockets.of(&end.tenant, &end.agent).is_empty();
        for (socket, stream) in self.streams.those(orphaned) {
            self.end_stream(socket, &stream, DROPPED);
        }
        let elsewhere = |end: &End| end.peer.node != self.hall.node;
        let gone = |end: &End| elsewhere(end) && self.fellows.is_gone(&end.peer.node);
        for (socket, stream) in self.streams.those(gone) {
            self.end_stream(socket, &stream, "the other side's gateway is gone");
        }
    }
}

fn check_metadata(metadata: Option<&Body>) -> Result<()> {
    match metadata {
        Some(metadata) if metadata.as_text().len() > METADATA_MAX_BYTES => {
            Err(Error::invalid(format!("metadata is at most {METADATA_MAX_BYTES} bytes of JSON")))
        }
        _ => Ok(()),
    }
}
