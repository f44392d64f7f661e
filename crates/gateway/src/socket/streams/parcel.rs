//! What one side of a stream sends the other, on the same gateway or through the bus.

use std::{collections::HashMap, sync::Arc, time::Instant};

use guildhall_domain::{AgentId, TenantId, mail::Body, ports::bus::NodeName};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Credit, End, Phase};
use crate::socket::{
    Door,
    sockets::{SocketAt, SocketId},
    tell,
};

/// Streams told of in one message between gateways.
const PULSES_AT_A_TIME: usize = 1_000;

#[derive(Serialize, Deserialize)]
pub(in crate::socket) struct Parcel {
    /// The agent whose socket it is for.
    agent: AgentId,
    to: SocketId,
    pub(in crate::socket) from: SocketAt,
    stream: Arc<str>,
    /// Counts what this side of the stream said, from 1.
    number: u64,
    say: Say,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Say {
    Offer { from: AgentId, credit: Credit, metadata: Option<Body> },
    Accept { credit: Credit },
    Data { data: Body },
    Credit { credit: Credit },
    End { reason: String },
}

/// A stream that one gateway has a side of, as it tells the gateway of the other side now and then.
#[derive(Serialize, Deserialize)]
pub(in crate::socket) struct Pulse {
    agent: AgentId,
    to: SocketId,
    from: SocketId,
    stream: Arc<str>,
    /// How much this side has said.
    posted: u64,
}

impl End {
    fn parcel(&mut self, at: SocketAt, stream: &str, say: Say) -> Parcel {
        self.posted += 1;
        Parcel {
            agent: self.peer_agent.clone(),
            to: self.peer.socket,
            from: at,
            stream: stream.into(),
            number: self.posted,
            say,
        }
    }
}

impl Door {
    /// Sends what a side that is no longer kept says last.
    pub(super) fn say(self: &Arc<Self>, mut end: End, socket: SocketId, stream: &str, say: Say) {
        let parcel = end.parcel(self.at(socket), stream, say);
        if end.peer.node == self.hall.node {
            self.arrived(&end.tenant, parcel);
        } else if !self.post(&end.tenant, &end.peer.node, parcel) {
            // The other side finds out by the next pulse.
            tracing::debug!(stream, "the end of a stream was not told: the bus is slow");
        }
    }

    /// Sends what a side says; what cannot be sent ends the stream. False when there is no such stream.
    pub(super) fn pass(self: &Arc<Self>, socket: SocketId, stream: &str, say: Say) -> bool {
        let passed = self.streams.with(socket, stream, |end| {
            let parcel = end.parcel(self.at(socket), stream, say);
            if end.peer.node == self.hall.node {
                return Ok(Some((end.tenant.clone(), parcel)));
            }
            // Queued under the lock, so that the order of the queue is the order of the numbers.
            if self.post(&end.tenant, &end.peer.node, parcel) { Ok(None) } else { Err(()) }
        });
        match passed {
            None => return false,
            Some(Ok(None)) => {}
            Some(Ok(Some((tenant, parcel)))) => self.arrived(&tenant, parcel),
            Some(Err(())) => self.end_stream(socket, stream, "the bus between the gateways is too slow"),
        }
        true
    }

    pub(in crate::socket) fn arrived(self: &Arc<Self>, tenant: &TenantId, parcel: Parcel) {
        let Parcel { agent, to, from, stream, number, say } = parcel;
        match say {
            Say::Offer { from: opener, credit, metadata } => {
                let end = End {
                    tenant: tenant.clone(),
                    agent,
                    peer: from,
                    peer_agent: opener,
                    phase: Phase::Offered(credit),
                    since: Instant::now(),
                    may_send: Credit::NONE,
                    granted: Credit::NONE,
                    sent: 0,
                    received: 0,
                    posted: 0,
                    arrived: number,
                };
                self.offered(to, stream, end, credit, metadata.as_ref());
            }
            Say::End { reason } => {
                let is_peer = self.streams.with(to, &stream, |end| end.peer == from);
                if is_peer == Some(true)
                    && let Some(end) = self.streams.remove(to, &stream)
                {
                    self.tell_ended(&end, to, &stream, &reason);
                }
            }
            Say::Accept { credit } => self.taken(to, &from, &stream, number, |end| {
                let Phase::Asked(reference) = std::mem::replace(&mut end.phase, Phase::Open) else {
                    return Err("it was accepted twice");
                };
                end.may_send.grant(credit);
                Ok(tell::ok(&reference, json!({ "stream": stream, "to": end.peer_agent, "credit": end.may_send })))
            }),
            Say::Data { data } => self.taken(to, &from, &stream, number, |end| {
                if !end.granted.spend(data.as_text().len()) {
                    return Err("the other side sent more than was granted");
                }
                end.received += 1;
                Ok(tell::stream_data(&stream, end.received, &data))
            }),
            Say::Credit { credit } => self.taken(to, &from, &stream, number, |end| {
                end.may_send.grant(credit);
                Ok(tell::stream_credit(&stream, credit))
            }),
        }
    }

    fn offered(self: &Arc<Self>, to: SocketId, stream: Arc<str>, end: End, credit: Credit, metadata: Option<&Body>) {
        let refuse = |end: End, reason: String| self.say(end, to, &stream, Say::End { reason });
        let Some(socket) = self.sockets.find(&end.tenant, &end.agent, to) else {
            return refuse(end, "the other side's socket has closed".to_owned());
        };
        let opener = end.peer_agent.clone();
        match self.streams.insert(to, stream.clone(), end) {
            Ok(()) => socket.outbox.push(tell::stream_open(&stream, &opener, credit, metadata)),
            Err((end, error)) => refuse(*end, format!("the other side cannot take it: {}", error.message)),
        }
    }

    /// Takes what follows in order, and pushes what comes of it; anything else ends the stream.
    fn taken(
        self: &Arc<Self>,
        to: SocketId,
        from: &SocketAt,
        stream: &str,
        number: u64,
        take: impl FnOnce(&mut End) -> Result<axum::extract::ws::Utf8Bytes, &'static str>,
    ) {
        let taken = self.streams.with(to, stream, |end| {
            if end.peer != *from {
                return None;
            }
            end.arrived += 1;
            let in_order = end.arrived == number;
            let taken = if in_order { take(end) } else { Err("a frame was lost between the gateways") };
            Some(taken.map(|text| (self.sockets.find(&end.tenant, &end.agent, to), text)))
        });
        match taken.flatten() {
            Some(Ok((Some(socket), text))) => socket.outbox.push(text),
            Some(Err(reason)) => self.end_stream(to, stream, reason),
            // It has ended here, which the other side hears by the next pulse if it has not heard yet.
            Some(Ok((None, _))) | None => {}
        }
    }

    /// Tells each gateway which streams lead there.
    pub(in crate::socket) fn keep_streams_alive(&self) {
        let mut of_gateway: HashMap<(NodeName, TenantId), Vec<Pulse>> = HashMap::new();
        self.streams.each(|socket, stream, end| {
            // One that was not yet answered is not known there for certain.
            if end.peer.node != self.hall.node && matches!(end.phase, Phase::Open) {
                let pulse = Pulse {
                    agent: end.peer_agent.clone(),
                    to: end.peer.socket,
                    from: socket,
                    stream: stream.clone(),
                    posted: end.posted,
                };
                of_gateway.entry((end.peer.node.clone(), end.tenant.clone())).or_default().push(pulse);
            }
        });
        for ((node, tenant), mut pulses) in of_gateway {
            while !pulses.is_empty() {
                let rest = pulses.split_off(pulses.len().min(PULSES_AT_A_TIME));
                self.tell_alive(&tenant, &node, std::mem::replace(&mut pulses, rest));
            }
        }
    }

    /// Ends what the other gateway believes in and this one does not, and what has lost something.
    pub(in crate::socket) fn check_pulse(self: &Arc<Self>, tenant: &TenantId, node: &NodeName, pulses: Vec<Pulse>) {
        for Pulse { agent, to, from, stream, posted } in pulses {
            let from = SocketAt { node: node.clone(), socket: from };
            let known = self.streams.with(to, &stream, |end| (end.peer == from).then_some(end.arrived));
            match known.flatten() {
                // What it said after this pulse was made may be here already.
                Some(arrived) if arrived >= posted => {}
                Some(_) => self.end_stream(to, &stream, "a frame was lost between the gateways"),
                None => {
                    let say = Say::End { reason: "it has ended on the other side".to_owned() };
                    let parcel = Parcel { agent, to: from.socket, from: self.at(to), stream, number: 0, say };
                    // The next pulse asks again.
                    let _ = self.post(tenant, node, parcel);
                }
            }
        }
    }
}
