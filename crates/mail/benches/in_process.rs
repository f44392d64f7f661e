//! What the way to mail costs: processor time of both sides together, one call after the other, to a core that only
//! answers. A message of 256 bytes and one of 64 KiB is sent; mail is taken and settled. Prints one line of JSON.
//!
//! `cargo bench -p guildhall-mail --bench in_process [calls]`

#![expect(clippy::unwrap_used, reason = "a bench that cannot run says why")]

#[expect(dead_code, reason = "it is the tests' own, and they use more of it")]
#[path = "../tests/grpc/echo.rs"]
mod echo;

use std::{fs, sync::Arc, time::Duration};

use echo::{Echo, agent, id};
use guildhall_domain::{
    Call, Principal, TenantId,
    mail::{
        Body, Lease, NewMessage, Recipient,
        delivery::{Settling, TakeMail, Verdict},
    },
    ports::Mail,
};
use guildhall_mail::grpc;
use guildhall_rpc::{RemoteOptions, ServeOptions, Transport, serve};
use guildhall_runtime::{Listener, Shutdown};

fn main() {
    let calls: u32 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(20_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let echo = Arc::new(Echo::default());
        let server = || grpc::server(echo.clone(), echo.clone());
        let in_process = grpc::client(Transport::in_process(server())).0;
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), "bench").unwrap();
        let address = format!("http://{}", listener.address());
        let served = server();
        tokio::spawn(async move { serve(listener, served, ServeOptions::default(), &Shutdown::default()).await });
        let remote = grpc::client(Transport::remote([address], RemoteOptions::new("mail")).unwrap()).0;
        let lines = [
            line("core", &echo, &*echo, calls).await,
            line("in_process", &echo, &*in_process, calls).await,
            line("remote_loopback", &echo, &*remote, calls / 10).await,
        ];
        println!(r#"{{"bench":"mail_in_process","calls":{calls},"cpu_us_per_call":{{{}}}}}"#, lines.join(","));
    });
}

async fn line(way: &str, echo: &Echo, mail: &dyn Mail, calls: u32) -> String {
    let call = Call::within(Principal::hall(TenantId::default(), "bench"), Duration::from_secs(3_600));
    let letter = |bytes: usize| {
        let body = Body::from_value(&"x".repeat(bytes)).unwrap();
        NewMessage::new(Recipient::Agent(agent("b")), body)
    };
    let (small, large, b) = (letter(256), letter(64 * 1024), agent("b"));
    let take =
        TakeMail { limit: 10, wait: Duration::ZERO, taker: "t".into(), lease: Duration::from_secs(300), told: false };
    let lease = Lease { mailbox: 1, number: 2, hand_out: 3 };
    let settlings = vec![Settling { message_id: id(1), lease, verdict: Verdict::Ack }];
    let send = cost(echo, calls, async || drop(mail.send(&call, vec![small.clone()]).await.unwrap())).await;
    let send_large = cost(echo, calls, async || drop(mail.send(&call, vec![large.clone()]).await.unwrap())).await;
    let take = cost(echo, calls, async || drop(mail.take(&call, &b, take.clone()).await.unwrap())).await;
    let settle = cost(echo, calls, async || drop(mail.settle(&call, &b, settlings.clone()).await.unwrap())).await;
    format!(
        r#""{way}":{{"send_256_bytes":{send:.2},"send_64_kib":{send_large:.2},"take":{take:.2},"settle":{settle:.2}}}"#
    )
}

/// Microseconds of processor time a call.
async fn cost(echo: &Echo, calls: u32, mut one: impl AsyncFnMut()) -> f64 {
    for _ in 0..calls / 10 {
        one().await;
    }
    echo.asked();
    let before = processor_time();
    for _ in 0..calls {
        one().await;
    }
    let spent = processor_time() - before;
    echo.asked();
    spent.as_secs_f64() * 1e6 / f64::from(calls)
}

/// Of every thread of this process, as the kernel has counted it.
fn processor_time() -> Duration {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let nanos = threads.flatten().map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).unwrap();
        stat.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap()
    });
    Duration::from_nanos(nanos.sum())
}
