//! Bytes on a socket, for clients that no library would let us be.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub struct Socket(TcpStream);

impl Socket {
    pub async fn open(to: SocketAddr) -> Self {
        Self(TcpStream::connect(to).await.expect("the gateway listens"))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("the gateway reads");
    }

    /// Says that nothing more will come, and goes on listening.
    pub async fn close_our_half(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    /// Sends as much as the other side takes before it closes.
    pub async fn send_what_fits(&mut self, bytes: impl AsRef<[u8]>) {
        // It may close at the first byte it does not like.
        let _ = self.0.write_all(bytes.as_ref()).await;
    }

    /// Everything up to `end`, which must come within `patience`.
    pub async fn read_until(&mut self, end: &str, patience: Duration) -> String {
        let mut all = Vec::new();
        let reading = async {
            while !all.ends_with(end.as_bytes()) {
                all.push(self.0.read_u8().await.expect("the gateway goes on"));
            }
        };
        timeout(patience, reading).await.unwrap_or_else(|_| panic!("no {end:?} came"));
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Everything until the other side closes, or until nothing has come for `patience`.
    pub async fn read(&mut self, patience: Duration) -> String {
        let mut all = Vec::new();
        let mut some = [0_u8; 4096];
        while let Ok(Ok(length)) = timeout(patience, self.0.read(&mut some)).await {
            if length == 0 {
                break;
            }
            all.extend_from_slice(&some[..length]);
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Everything until the other side closes; `None` when it does not within `patience`.
    pub async fn read_until_closed(&mut self, patience: Duration) -> Option<String> {
        let mut all = Vec::new();
        // A reset is a close as well.
        timeout(patience, self.0.read_to_end(&mut all)).await.ok().map(|_| String::from_utf8_lossy(&all).into_owned())
    }
}
