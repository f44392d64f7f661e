//! A wire between the hall and what it stands on, which can be cut: connections stay open, and nothing arrives.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

pub struct Wire {
    pub address: SocketAddr,
    is_cut: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Wire {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_cut, state) = watch::channel(false);
        let serving = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let state = state.clone();
                tokio::spawn(async move {
                    // What is behind it is away: the near side is closed, as a host without the port does.
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::select! {
                        () = carry(near_in, far_out, state.clone()) => {}
                        () = carry(far_in, near_out, state) => {}
                    }
                });
            }
        });
        Self { address, is_cut, serving }
    }

    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// What was sent meanwhile arrives now, as it does when a network comes back.
    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is_cut: watch::Receiver<bool>) {
    let mut bytes = vec![0_u8; 16 * 1024];
    while let Ok(length) = from.read(&mut bytes).await {
        if is_cut.wait_for(|cut| !cut).await.is_err() || length == 0 || to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
