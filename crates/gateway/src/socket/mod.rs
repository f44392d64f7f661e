//! The live socket of an agent, `/ws/{agent_id}`: JSON text frames both ways. `docs/socket.md` shows every frame.
//!
//! A frame's way in: [`pump`] (the one task of each socket) reads it → [`frame`] understands it → it is answered at
//! once, or becomes an [`errands`] entry (what another service must do, in order), a settling ([`mail`]) or a parcel
//! ([`streams`]). The way out: whoever has something to say puts it into the socket's [`outbox`], and the pump writes
//! it. Mail comes by way of a hint ([`tend`]) that wakes the socket's taking ([`mail`]).
//!
//! An idle socket costs its task, its read buffer and one entry in [`sockets`]: there is no timer, no channel and no
//! second task of its own. What the clock asks is one walk over all of them ([`tend`]); who comes and goes is one
//! journal for all ([`presence`]); what gateways tell one another is one queue ([`fellows`]).

mod cut;
mod enter;
mod errands;
mod fellows;
mod frame;
mod mail;
mod outbox;
mod presence;
mod pump;
mod sockets;
mod streams;
mod tell;
mod tend;
mod topics;
mod window;

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::any};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    fellows::{Fellows, Outgoing},
    presence::Journal,
    sockets::Sockets,
    streams::Streams,
};
use crate::{Task, hall::Hall};

/// What sockets may take to be told and closed when the gateway stops.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Door {
    hall: Arc<Hall>,
    sockets: Sockets,
    presence: Journal,
    streams: Streams,
    fellows: Fellows,
    /// Sockets, and what is under way for them.
    running: TaskTracker,
}

pub(crate) fn router(door: Arc<Door>) -> Router {
    Router::new().route("/ws/{agent_id}", any(enter::enter)).with_state(door)
}

impl Door {
    /// The door, and what runs beside it. `drained`: the last that is to be told has been told.
    pub(crate) fn new(
        hall: Arc<Hall>,
        max_sockets: usize,
        stop: &CancellationToken,
        drained: &CancellationToken,
    ) -> (Arc<Self>, Vec<Task>) {
        let (fellows, outgoing): (Fellows, Outgoing) = Fellows::new(hall.pace.here_every);
        let door = Arc::new(Self {
            hall,
            sockets: Sockets::new(max_sockets),
            presence: Journal::default(),
            streams: Streams::default(),
            fellows,
            running: TaskTracker::new(),
        });
        let tasks: Vec<Task> = vec![
            ("gateway.sockets", Box::pin(door.clone().close_all())),
            ("gateway.sockets.sweep", Box::pin(door.clone().sweep(stop.clone()))),
            ("gateway.sockets.tend", Box::pin(door.clone().tend(stop.clone()))),
            ("gateway.sockets.agents", Box::pin(door.clone().heed_agents(stop.clone()))),
            ("gateway.sockets.presence", Box::pin(door.clone().tell_of_agents(stop.clone()))),
            ("gateway.sockets.fellows", Box::pin(door.clone().heed_fellows(stop.clone()))),
            ("gateway.sockets.post", Box::pin(door.clone().deliver(outgoing, drained.clone()))),
        ];
        (door, tasks)
    }
}
