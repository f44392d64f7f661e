//! What clients ask of streams.

use std::{sync::Arc, time::Instant};

use guildhall_domain::{Error, ErrorCode, Result};
use guildhall_guard::{Operation, Target};
use serde_json::{Value, json};

use super::{Credit, DATA_MAX_BYTES, End, Phase, check_metadata, no_such_stream, parcel::Say, reason_of};
use crate::socket::{
    Door,
    frame::{Reference, StreamAccept, StreamClose, StreamCredit, StreamData, StreamOpen, StreamRefuse},
    sockets::Socket,
    tell,
};

const NAME_MAX_BYTES: usize = 64;

impl Door {
    /// Answered once the other side has accepted or refused. On a task of its own: to find the other side may take a
    /// moment, in which this client goes on.
    pub(in crate::socket) fn open_stream(
        self: &Arc<Self>,
        socket: &Arc<Socket>,
        reference: Reference,
        asked: StreamOpen,
    ) {
        let (door, socket) = (self.clone(), socket.clone());
        self.running.spawn(async move {
            if let Err(error) = door.offer(&socket, reference.clone(), asked).await {
                socket.outbox.push(tell::error(&reference, &error));
            }
        });
    }

    async fn offer(self: &Arc<Self>, socket: &Arc<Socket>, reference: Reference, asked: StreamOpen) -> Result<()> {
        let StreamOpen { to, stream, credit, metadata, .. } = asked;
        let principal = &socket.caller.principal;
        let own = principal.require_agent()?;
        self.hall.policy.authorize(principal, Operation::SendMail, Target::Agent(&own))?;
        self.hall.limits.pass(principal).await?;
        check_metadata(metadata.as_ref())?;
        let stream = match stream {
            Some(stream) => checked_name(stream)?,
            None => self.new_stream_name(socket),
        };
        let peer = self.locate(&socket.tenant, &to).await.ok_or_else(|| {
            Error::new(
                ErrorCode::Unavailable,
                format!("{to} has no live socket to open a stream to; send it a message, or try again when it is here"),
            )
        })?;
        if peer == self.at(socket.id) {
            return Err(Error::invalid("a socket cannot open a stream to itself"));
        }
        let mut granted = Credit::NONE;
        let credit = granted.grant(credit.unwrap_or_default());
        let end = End {
            tenant: socket.tenant.clone(),
            agent: socket.agent.clone(),
            peer,
            peer_agent: to,
            phase: Phase::Asked(reference),
            since: Instant::now(),
            may_send: Credit::NONE,
            granted,
            sent: 0,
            received: 0,
            posted: 0,
            arrived: 0,
        };
        self.streams.insert(socket.id, stream.clone(), end).map_err(|(_, error)| error)?;
        self.pass(socket.id, &stream, Say::Offer { from: own, credit, metadata });
        Ok(())
    }

    /// Known to nobody else: the gateway's name is random, and its count never goes back.
    fn new_stream_name(&self, socket: &Socket) -> Arc<str> {
        format!("{}.{}.{}", self.hall.node.as_str(), socket.id.0, self.sockets.number().0).into()
    }

    pub(in crate::socket) fn accept_stream(self: &Arc<Self>, socket: &Socket, asked: StreamAccept) -> Result<Value> {
        let StreamAccept { stream, credit, .. } = asked;
        let accepted = self.streams.with(socket.id, &stream, |end| match end.phase {
            Phase::Offered(may_send) => {
                end.phase = Phase::Open;
                end.may_send.grant(may_send);
                Ok((end.granted.grant(credit.unwrap_or_default()), end.may_send))
            }
            Phase::Asked(_) | Phase::Open => Err(Error::conflict("the stream is not one that waits to be accepted")),
        });
        let (credit, may_send) = accepted.ok_or_else(|| no_such_stream(&stream))??;
        self.pass(socket.id, &stream, Say::Accept { credit });
        Ok(json!({ "stream": stream, "credit": may_send }))
    }

    pub(in crate::socket) fn refuse_stream(self: &Arc<Self>, socket: &Socket, asked: StreamRefuse) -> Result<Value> {
        let reason = match asked.reason {
            Some(reason) => format!("refused: {}", reason_of(Some(reason))?),
            None => "refused".to_owned(),
        };
        self.close(socket, &asked.stream, &reason, |phase| matches!(phase, Phase::Offered(_)))
    }

    pub(in crate::socket) fn close_stream(self: &Arc<Self>, socket: &Socket, asked: StreamClose) -> Result<Value> {
        let reason = reason_of(asked.reason)?;
        self.close(socket, &asked.stream, &reason, |_| true)
    }

    fn close(
        self: &Arc<Self>,
        socket: &Socket,
        stream: &str,
        reason: &str,
        fits: impl FnOnce(&Phase) -> bool,
    ) -> Result<Value> {
        match self.streams.with(socket.id, stream, |end| fits(&end.phase)) {
            Some(true) => {}
            Some(false) => return Err(Error::conflict("the stream is open already; close it")),
            None => return Err(no_such_stream(stream)),
        }
        if let Some(end) = self.streams.remove(socket.id, stream) {
            if let Phase::Asked(reference) = &end.phase {
                socket.outbox.push(tell::error(reference, &Error::new(ErrorCode::Cancelled, "you closed it")));
            }
            self.say(end, socket.id, stream, Say::End { reason: reason.to_owned() });
        }
        Ok(json!({ "stream": stream }))
    }

    /// Sending what was not granted ends the stream: its sender does not count, and would do so again.
    pub(in crate::socket) fn send_on_stream(self: &Arc<Self>, socket: &Socket, asked: StreamData) -> Result<Value> {
        let StreamData { stream, seq, data, .. } = asked;
        let bytes = data.as_text().len();
        if bytes > DATA_MAX_BYTES {
            let message = format!("the data is {bytes} bytes of JSON; at most {DATA_MAX_BYTES} go into one frame");
            return Err(Error::new(ErrorCode::PayloadTooLarge, message));
        }
        let spent = self.streams.with(socket.id, &stream, |end| {
            if !matches!(end.phase, Phase::Open) {
                return Err(Error::conflict("the stream is not open yet"));
            }
            let next = end.sent + 1;
            if seq.is_some_and(|seq| seq != next) {
                return Err(Error::invalid(format!("the stream's next seq is {next}")));
            }
            end.sent = next;
            Ok((end.may_send.spend(bytes), next, end.may_send))
        });
        let (enough, seq, left) = spent.ok_or_else(|| no_such_stream(&stream))??;
        if !enough {
            let error = Error::conflict(format!(
                "the other side granted {} more frames and {} more bytes, and you sent {bytes} bytes: the stream has ended; \
                 wait for stream_credit",
                left.frames, left.bytes
            ));
            self.end_stream(socket.id, &stream, "more was sent than was granted");
            return Err(error);
        }
        self.pass(socket.id, &stream, Say::Data { data });
        Ok(json!({ "stream": stream, "seq": seq, "credit": left }))
    }

    /// Answers with what the other side may send in all from now on.
    pub(in crate::socket) fn grant_on_stream(self: &Arc<Self>, socket: &Socket, asked: StreamCredit) -> Result<Value> {
        let StreamCredit { stream, frames, bytes, .. } = asked;
        let granted = self.streams.with(socket.id, &stream, |end| match end.phase {
            Phase::Open => Ok((end.granted.grant(Credit { frames, bytes }), end.granted)),
            Phase::Asked(_) | Phase::Offered(_) => Err(Error::conflict("the stream is not open yet")),
        });
        let (credit, in_all) = granted.ok_or_else(|| no_such_stream(&stream))??;
        if credit != Credit::NONE {
            self.pass(socket.id, &stream, Say::Credit { credit });
        }
        Ok(json!({ "stream": stream, "credit": in_all }))
    }
}

fn checked_name(stream: String) -> Result<Arc<str>> {
    let plain = stream.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b));
    if stream.is_empty() || stream.len() > NAME_MAX_BYTES || !plain {
        return Err(Error::invalid(format!(
            "a stream's name is 1 to {NAME_MAX_BYTES} letters, digits, _ - . or :; leave it out and the hall finds one"
        )));
    }
    Ok(stream.into())
}
