//! The other end of a socket.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

use crate::stage::Gate;

/// Longer than anything that is not meant to take long, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Client {
    pub(crate) web_socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    references: u64,
    /// Frames that came while another was waited for.
    passed_over: VecDeque<Value>,
}

/// What a connection ended with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) error: Option<String>,
    pub(crate) code: Option<u16>,
}

impl Client {
    pub(crate) async fn open(gate: &Gate, agent: &str) -> Self {
        Self::connect(gate.address, &format!("/ws/{agent}"), &[]).await.expect("the socket was not opened")
    }

    /// The status and the error of a refusal.
    pub(crate) async fn connect(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, (u16, Value)> {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((web_socket, _)) => Ok(Self { web_socket, references: 0, passed_over: VecDeque::new() }),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err((response.status().as_u16(), serde_json::from_slice(body).unwrap_or(Value::Null)))
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn say(&mut self, frame: Value) {
        self.say_text(frame.to_string()).await;
    }

    pub(crate) async fn say_text(&mut self, text: String) {
        self.web_socket.send(Message::text(text)).await.unwrap();
    }

    /// Says it under a reference of its own, and gives the answer.
    pub(crate) async fn ask(&mut self, mut frame: Value) -> Value {
        self.references += 1;
        let reference = format!("r{}", self.references);
        frame["ref"] = reference.clone().into();
        self.say(frame).await;
        self.hear_that(|frame| frame["ref"] == *reference).await
    }

    async fn next(&mut self) -> Value {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.web_socket.next()).await.expect("nothing was said");
            match next.expect("the connection has ended").expect("the connection broke") {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Close(close) => panic!("the socket was closed: {close:?}"),
                _ => {}
            }
        }
    }

    /// The next frame that fits; others are kept for who waits for them.
    pub(crate) async fn hear_that(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.passed_over.iter().position(&fits) {
            return self.passed_over.remove(at).unwrap();
        }
        loop {
            let frame = self.next().await;
            if fits(&frame) {
                return frame;
            }
            self.passed_over.push_back(frame);
        }
    }

    pub(crate) async fn hear(&mut self, word: &str) -> Value {
        self.hear_that(|frame| frame["type"] == word).await
    }

    /// The bodies of the next messages, unacknowledged.
    pub(crate) async fn bodies(&mut self, count: usize) -> Vec<Value> {
        let mut bodies = Vec::new();
        for _ in 0..count {
            bodies.push(self.hear("message.new").await["message"]["message"].clone());
        }
        bodies
    }

    /// That no such frame comes for a while.
    pub(crate) async fn hears_none(&mut self, word: &str, time: Duration) {
        let heard = tokio::time::timeout(time, self.hear(word)).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    pub(crate) async fn ack(&mut self, pushed: &Value) -> Value {
        let frame = settling("ack", pushed);
        self.ask(frame).await
    }

    pub(crate) async fn close(mut self) {
        self.web_socket.close(None).await.unwrap();
        while self.web_socket.next().await.is_some() {}
    }

    /// Reads until the connection ends.
    pub(crate) async fn ended(mut self) -> Ended {
        let mut error = None;
        loop {
            let next = tokio::time::timeout(PATIENCE, self.web_socket.next()).await.expect("the socket did not end");
            match next {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if frame["type"] == "error" {
                        error = Some(frame["error"].as_str().unwrap().to_owned());
                    }
                }
                Some(Ok(Message::Close(close))) => return Ended { error, code: close.map(|close| close.code.into()) },
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ended { error, code: None },
            }
        }
    }
}

/// A connection that has asked to become a web socket, and has not heard the answer.
pub(crate) async fn bare_request(address: SocketAddr, agent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /ws/{agent} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// The least that is a web socket's other end: no buffers, no codec, and no answers to pings.
pub(crate) async fn open_bare(address: SocketAddr, agent: &str) -> TcpStream {
    let mut stream = bare_request(address, agent).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    stream
}

pub(crate) fn settling(word: &str, pushed: &Value) -> Value {
    serde_json::json!({ "type": word, "message_id": pushed["message"]["message_id"], "lease": pushed["lease"] })
}
