//! What a call costs: processor time of both sides together, 256 bytes each way, one call after the other.
//! Prints one line of JSON. Run with `cargo bench -p guildhall-rpc --bench in_process [calls]`.

#[expect(dead_code, clippy::unwrap_used, reason = "it is the tests' own, and they use more of it")]
#[path = "../tests/rpc/support.rs"]
mod support;

use std::{fs, time::Duration};

use guildhall_proto::agent_registry::v1::{
    GetRequest, agent_registry_service_client::AgentRegistryServiceClient as Client,
    agent_registry_service_server::AgentRegistryServiceServer as Server,
};
use guildhall_rpc::call;
use support::{Stub, ask, caller};

const MESSAGE_BYTES: usize = 256;

fn main() {
    let calls: u32 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(50_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let message = || "x".repeat(MESSAGE_BYTES);
    let (bare, in_process, remote) = runtime.block_on(async {
        let stub = Stub::named(&message());
        let mut client = Client::new(Server::new(stub.clone()));
        let bare = cost(calls, async || {
            let request = call::outgoing(&caller(), GetRequest { agent_id: message() }).expect("a request");
            client.get(request).await.expect("an answer");
        });
        let bare = bare.await;
        let transport = support::in_process(stub.clone());
        let in_process =
            cost(calls, async || drop(ask(&transport, &caller(), message()).await.expect("an answer"))).await;
        let transport = support::remote(stub);
        let remote =
            cost(calls / 10, async || drop(ask(&transport, &caller(), message()).await.expect("an answer"))).await;
        (bare, in_process, remote)
    });
    println!(
        r#"{{"bench":"rpc","calls":{calls},"message_bytes":{MESSAGE_BYTES},"cpu_us_per_call":{{"bare_generated_server":{bare:.2},"in_process":{in_process:.2},"remote_loopback":{remote:.2}}}}}"#
    );
}

/// Microseconds of processor time a call.
async fn cost(calls: u32, mut one: impl AsyncFnMut()) -> f64 {
    for _ in 0..calls / 10 {
        one().await;
    }
    let before = processor_time();
    for _ in 0..calls {
        one().await;
    }
    (processor_time() - before).as_secs_f64() * 1e6 / f64::from(calls)
}

/// Of every thread of this process, as the kernel has counted it.
fn processor_time() -> Duration {
    let threads = fs::read_dir("/proc/self/task").expect("Linux");
    let nanos = threads.flatten().map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).expect("a kernel that counts");
        stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
    });
    Duration::from_nanos(nanos.sum())
}
