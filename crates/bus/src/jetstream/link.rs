//! The connection to NATS: made once, mended by the client itself, and watched, so that a call knows at once when
//! there is none.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use guildhall_domain::{Error, ErrorCode, Result};
use tokio::sync::watch;
use url::Url;

/// How long a call waits for a connection that is being made, before it says that there is none.
const CONNECT_PATIENCE: Duration = Duration::from_millis(1_500);
/// For one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that answers nothing is taken for dead after two of these.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Where NATS is, and how errors speak of it.
#[derive(Clone)]
pub(super) struct Address {
    servers: Vec<ServerAddr>,
    shown: Arc<str>,
}

impl Address {
    pub(super) fn parse(urls: &str) -> Result<Self> {
        let servers: Vec<ServerAddr> = urls.split(',').map(server).collect::<Result<_>>()?;
        let shown: Vec<String> = servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect();
        Ok(Self { servers, shown: shown.join(", ").into() })
    }

    pub(super) fn unavailable(&self, what: impl std::fmt::Display) -> Error {
        Error::unavailable(format!("bus nats at {} {what}", self.shown))
    }

    pub(super) fn unanswered(&self, what: &str) -> Error {
        Error::timeout(format!("bus nats at {} did not answer: whether {what} is not known", self.shown))
    }

    pub(super) fn too_large(&self) -> Error {
        let message = format!("the message is larger than nats at {} takes: raise its max_payload to 1MB", self.shown);
        Error::new(ErrorCode::PayloadTooLarge, message)
    }
}

fn server(url: &str) -> Result<ServerAddr> {
    // The library's message may repeat the address, and with it the password.
    let refused = || Error::invalid("bus.url is not a NATS address: write nats://[user:password@]host:port");
    let url = Url::parse(url.trim()).ok().filter(|url| matches!(url.scheme(), "nats" | "tls") && url.has_host());
    ServerAddr::from_url(url.ok_or_else(refused)?).map_err(|_| refused())
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    connected: bool,
    /// How often the connection was lost.
    losses: u64,
}

pub(super) struct Link {
    client: Client,
    address: Address,
    state: watch::Receiver<State>,
}

/// One life of the connection.
#[derive(Clone)]
pub(super) struct Life {
    state: watch::Receiver<State>,
    losses: u64,
}

impl Link {
    /// Begins to connect, and goes on for ever in the background.
    pub(super) async fn open(address: Address) -> Result<Self> {
        let (sender, state) = watch::channel(State::default());
        let shown = address.shown.clone();
        let client = ConnectOptions::new()
            .name("guildhall")
            .retry_on_initial_connect()
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_EVERY)
            .event_callback(move |event| {
                match &event {
                    Event::Connected => sender.send_modify(|state| state.connected = true),
                    Event::Disconnected => {
                        sender.send_modify(|state| *state = State { connected: false, losses: state.losses + 1 });
                    }
                    _ => {}
                }
                tracing::info!(nats.address = %shown, "nats at {shown}: {event}");
                std::future::ready(())
            })
            .connect(&address.servers[..])
            .await
            .map_err(|error| address.unavailable(format_args!("cannot be connected to: {}", error.kind())))?;
        Ok(Self { client, address, state })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Waits a little for a connection; without one nothing is sent, as it would wait in the client's queue.
    pub(super) async fn ready(&self) -> Result<Life> {
        let now = *self.state.borrow();
        if now.connected {
            return Ok(Life { losses: now.losses, state: self.state.clone() });
        }
        let mut state = self.state.clone();
        let connected = tokio::time::timeout(CONNECT_PATIENCE, state.wait_for(|state| state.connected)).await;
        match connected {
            Ok(Ok(now)) => Ok(Life { losses: now.losses, state: self.state.clone() }),
            _ => Err(self.address.unavailable("is away")),
        }
    }
}

impl Life {
    /// Returns when this connection is lost.
    pub(super) async fn lost(&mut self) {
        let losses = self.losses;
        // An error means that the client is gone for good.
        let _ = self.state.wait_for(|state| state.losses != losses).await;
    }

    /// `call`'s answer, or `None` as soon as the connection is lost.
    pub(super) async fn during<T>(&mut self, call: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            answer = call => Some(answer),
            () = self.lost() => None,
        }
    }
}
