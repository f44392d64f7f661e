//! What very many sockets cost.

use std::time::Duration;

use guildhall_domain::NewAgent;
use guildhall_testkit::engines::eventually;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::stage::{Stage, id};

const SOCKETS: usize = 2_000;
/// What one may cost, with its connection's other end, which is in this process as well.
const BYTES_EACH: usize = 12 * 1024;

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// The least that is a web socket's other end: no buffers, no codec.
async fn open_bare(address: std::net::SocketAddr, agent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /ws/{agent} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_socket_costs_a_gateway_no_more_than_twelve_kibibytes() {
    let stage = Stage::with(&[]).await;
    let gate = stage.gateway().await;
    for n in 0..SOCKETS / 16 {
        stage.register(NewAgent::named(id(&format!("n{n}")), "N")).await;
    }
    // What is allocated once, and by the first connections, is not of one socket.
    let mut open = Vec::new();
    for n in 0..100 {
        open.push(open_bare(gate.address, &format!("n{}", n % 10)).await);
    }
    eventually("mail was looked at", Duration::from_secs(5), async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Some(())
    })
    .await;
    let before = resident_bytes();
    for n in 160..SOCKETS {
        open.push(open_bare(gate.address, &format!("n{}", n / 16)).await);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let each = (resident_bytes() - before) / (SOCKETS - 160);
    println!("{each} bytes for an idle socket, both ends");
    assert!(each <= BYTES_EACH, "{each} bytes");
}
