//! A live socket of an agent.

use std::{collections::VecDeque, time::Duration};

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Came while another was waited for.
    passed_over: VecDeque<Value>,
}

impl Socket {
    /// In an open hall: of the agent that is named.
    pub async fn open(url: &str, agent: &str) -> Self {
        Self::try_open(url, agent).await.expect("the gateway takes the socket")
    }

    pub async fn try_open(url: &str, agent: &str) -> Result<Self, Error> {
        Self::try_open_with(url, agent, &[("x-agent-id", agent)]).await
    }

    pub async fn with_token(url: &str, agent: &str, token: &str) -> Result<Self, Error> {
        Self::try_open_with(url, agent, &[("authorization", &format!("Bearer {token}"))]).await
    }

    async fn try_open_with(url: &str, agent: &str, headers: &[(&'static str, &str)]) -> Result<Self, Error> {
        let mut request = format!("{}/ws/{agent}", url.replacen("http", "ws", 1)).into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let opened = timeout(Duration::from_secs(10), tokio_tungstenite::connect_async(request)).await;
        let (stream, _) = opened.map_err(|_| Error::ConnectionClosed)??;
        Ok(Self { stream, passed_over: VecDeque::new() })
    }

    pub async fn send(&mut self, frame: Value) {
        self.try_send(&frame).await.expect("the gateway reads");
    }

    pub async fn try_send(&mut self, frame: &Value) -> Result<(), Error> {
        self.send_text(frame.to_string()).await
    }

    pub async fn send_text(&mut self, text: impl Into<String>) -> Result<(), Error> {
        self.stream.send(Message::Text(text.into().into())).await
    }

    pub async fn send_bytes(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        self.stream.send(Message::Binary(bytes.into())).await
    }

    /// The next frame; `None` when none comes in time.
    pub async fn try_next(&mut self, within: Duration) -> Result<Option<Value>, Error> {
        match self.passed_over.pop_front() {
            Some(frame) => Ok(Some(frame)),
            None => self.hear(within).await,
        }
    }

    async fn hear(&mut self, within: Duration) -> Result<Option<Value>, Error> {
        let next = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => {
                        return Ok(serde_json::from_str(&text).expect("every frame is JSON"));
                    }
                    // Pings are answered by the stream itself.
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(_)) | None => return Err(Error::ConnectionClosed),
                    Some(Err(error)) => return Err(error),
                }
            }
        };
        timeout(within, next).await.map_or(Ok(None), |frame| frame.map(Some))
    }

    /// The next frame of this type; others are kept for later.
    pub async fn next(&mut self, kind: &str) -> Value {
        self.first(kind, |frame| frame["type"] == kind).await
    }

    /// Sends a frame and gives the one that answers it.
    pub async fn ask(&mut self, mut frame: Value, reference: &str) -> Value {
        frame["ref"] = reference.into();
        self.send(frame).await;
        self.first(reference, |frame| frame["ref"] == reference).await
    }

    async fn first(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.passed_over.iter().position(&fits) {
            return self.passed_over.remove(at).unwrap();
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let frame = self.hear(left).await.unwrap_or_else(|error| panic!("waiting for {what}: {error}"));
            let frame = frame.unwrap_or_else(|| panic!("no {what} came, but {:?}", self.passed_over));
            if fits(&frame) {
                return frame;
            }
            self.passed_over.push_back(frame);
        }
    }

    /// Waits for the other side to close; what came until then.
    pub async fn until_closed(mut self, within: Duration) -> Vec<Value> {
        let mut frames = Vec::new();
        let ended = timeout(within, async {
            while let Ok(frame) = self.try_next(within).await {
                frames.extend(frame);
            }
        });
        ended.await.expect("the gateway closes the socket");
        frames
    }
}
