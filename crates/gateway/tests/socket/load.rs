//! What very many sockets cost.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use guildhall_domain::NewAgent;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    client::open_bare,
    stage::{Stage, id},
};

const SOCKETS: usize = 2_000;
/// What one may cost, with its connection's other end, which is in this process as well.
const BYTES_EACH: usize = 12 * 1024;

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A socket that is up: it has answered a sign of life.
async fn open(address: SocketAddr, agent: &str) -> TcpStream {
    const HEARTBEAT: &[u8] = br#"{"type":"heartbeat"}"#;
    const ANSWER: &[u8] = br#"{"type":"ok"}"#;
    let mut stream = open_bare(address, agent).await;
    // One text frame, under a mask that changes nothing.
    let mut frame = vec![0x81, 0x80 | u8::try_from(HEARTBEAT.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(HEARTBEAT);
    stream.write_all(&frame).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(ANSWER) {
        heard.push(stream.read_u8().await.unwrap());
    }
    stream
}

/// Memory is counted for a whole process, so this is measured in one in which no other test runs.
#[test]
fn an_idle_socket_costs_a_gateway_no_more_than_twelve_kibibytes() {
    let alone = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "load::idle_sockets_alone_in_a_process", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&alone.stdout);
    assert!(alone.status.success() && told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&alone.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test above, in a process of its own"]
async fn idle_sockets_alone_in_a_process() {
    let stage = Stage::with(&[]).await;
    let gate = stage.gateway().await;
    for n in 0..SOCKETS / 16 {
        stage.register(NewAgent::named(id(&format!("n{n}")), "N")).await;
    }
    // What is allocated once, and by the first connections, is not of one socket.
    let mut sockets = Vec::new();
    for n in 0..100 {
        sockets.push(open(gate.address, &format!("n{}", n % 10)).await);
    }
    // Mail was looked at for each of them.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = resident_bytes();
    for n in 160..SOCKETS {
        sockets.push(open(gate.address, &format!("n{}", n / 16)).await);
    }
    let each = || resident_bytes().saturating_sub(before) / (SOCKETS - 160);
    // What the last of them take while they open is soon given back.
    let patience = Instant::now() + Duration::from_secs(10);
    while each() > BYTES_EACH && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{} bytes for an idle socket, both ends", each());
    assert!(each() <= BYTES_EACH, "{} bytes", each());
}
