//! Starting and ending: what a person reads first, and an end that leaves nobody without an answer.

use std::time::{Duration, Instant};

use futures::future::join_all;
use guildhall_tests::{Hall, Setup, Shape, eventually, mcp::Session, program, raw::Socket, scenarios};
use serde_json::json;

scenarios! {
    both_addresses_of_a_gateway_answer_the_same(Setup::open());
    the_first_screen_says_where_the_hall_is_and_what_to_paste(Setup::open());
    asked_to_end_it_finishes_what_is_in_flight_and_exits_with_zero(Setup::open());
    an_open_stream_does_not_hold_up_the_end(Setup::open());
    while_it_waits_for_its_engines_it_can_be_asked_to_end(Setup::open().start_without_engines());
    what_cannot_start_says_why(Setup::open());
}

/// Less than the 30 s after which an orchestrator kills.
const END: Duration = Duration::from_secs(25);

async fn both_addresses_of_a_gateway_answer_the_same(hall: &Hall) {
    hall.caller().register("seen").await;
    for gateway in 0..hall.gateways().len() {
        for path in ["/health", "/ready", "/api/v1/agents/seen", "/api/openapi.json", "/api/v1/agents/nobody"] {
            let (http, websocket) =
                (hall.caller_of(gateway).get(path).await, hall.caller_of_websocket(gateway).get(path).await);
            assert_eq!(http.status, websocket.status, "{path}");
        }
        Session::open(&hall.caller_of_websocket(gateway).agent("seen")).await.call("list_agents", json!({})).await;
    }
}

async fn the_first_screen_says_where_the_hall_is_and_what_to_paste(hall: &Hall) {
    for (gateway, address) in hall.gateways().iter().zip(hall.gateway_addresses()) {
        let mut lines = vec![address.to_string()];
        if hall.shape() == Shape::Embedded {
            lines.extend([
                format!("http://{address}/mcp"),
                format!("http://{address}/api/v1"),
                "guildhall connect".into(),
            ]);
        }
        // It comes a moment after `/ready` says yes.
        eventually("the first screen says it all", Duration::from_secs(10), async || {
            let screen = gateway.process.log();
            lines.iter().all(|line| screen.contains(line)).then_some(())
        })
        .await;
    }
}

async fn asked_to_end_it_finishes_what_is_in_flight_and_exits_with_zero(hall: &Hall) {
    for (gateway, address) in hall.gateways().iter().zip(hall.gateway_addresses()) {
        let body = format!(r#"{{"agent_id": "late-{}", "name": "late"}}"#, address.port());
        let (beginning, rest) = body.split_at(10);
        let head = format!(
            "POST /api/v1/agents/register HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
            body.len(),
        );
        let mut in_flight = Socket::open(address).await;
        in_flight.send(head).await;
        // It is in flight once the gateway wants its body.
        in_flight.read_until("100 Continue\r\n\r\n", Duration::from_secs(10)).await;
        in_flight.send(beginning).await;
        gateway.process.signal(program::Signal::TERM);
        tokio::time::sleep(Duration::from_millis(300)).await;
        in_flight.send(rest).await;
        let answer = in_flight.read(Duration::from_secs(10)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(gateway.process.ended(END).await, Ok(0));
    }
    for service in hall.services().filter(|service| service.process.is_running()) {
        assert_eq!(service.process.terminate(END).await, Ok(0));
    }
}

async fn an_open_stream_does_not_hold_up_the_end(hall: &Hall) {
    for (number, gateway) in hall.gateways().iter().enumerate() {
        let session = Session::open(&hall.caller_of(number).agent("listener")).await;
        let mut listening = session.listen().await;
        let asked = Instant::now();
        assert_eq!(gateway.process.terminate(END).await, Ok(0));
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert_eq!(listening.next(Duration::from_secs(1)).await, None);
    }
}

async fn while_it_waits_for_its_engines_it_can_be_asked_to_end(hall: &Hall) {
    for service in hall.services() {
        service.listens().await;
    }
    let ended = join_all(hall.services().map(|service| service.process.terminate(END))).await;
    assert!(ended.iter().all(|code| *code == Ok(0)), "{ended:?}");
}

async fn what_cannot_start_says_why(hall: &Hall) {
    // Its addresses are taken: by the hall itself.
    let arguments: &[&str] = match hall.shape() {
        Shape::Embedded => &["up"],
        Shape::Distributed => &["run", "gateway"],
    };
    let taken = hall.gateway_addresses()[0];
    let mut twice = hall.command(arguments);
    twice.env("GUILDHALL_GATEWAY__LISTEN", taken.to_string()).env("GUILDHALL_DATA_DIR", hall.folder().join("second"));
    let refused = program::Outcome::of(twice).await.failed();
    let port = taken.port().to_string();
    assert!(refused.stderr.contains(&port) && refused.stderr.contains("gateway.listen"), "{}", refused.stderr);

    // Two halls on the same files, of whose memory neither knows.
    if hall.shape() == Shape::Embedded {
        let mut beside = hall.command(&["up"]);
        beside.env("GUILDHALL_GATEWAY__LISTEN", "127.0.0.1:0").env("GUILDHALL_GATEWAY__WS_LISTEN", "127.0.0.1:0");
        let refused = program::Outcome::of(beside).await.failed();
        assert!(refused.stderr.contains("another hall") && refused.stderr.contains("--data"), "{}", refused.stderr);
    }

    // An open hall for everyone's eyes.
    let mut exposed = hall.command(arguments);
    exposed.env("GUILDHALL_GATEWAY__LISTEN", "0.0.0.0:0").env("GUILDHALL_AUTH__MODE", "open");
    let refused = program::Outcome::of(exposed).await.failed();
    assert!(refused.stderr.contains("auth.mode"), "names the key and the way out: {}", refused.stderr);

    let refused = hall.run(&["run", "summarizer"]).await.failed();
    assert!(
        refused.stderr.contains("summarizer"),
        "a service that is not built is refused by name: {}",
        refused.stderr
    );
    let refused = hall.run(&["run", "kitchen"]).await.failed();
    assert!(refused.stderr.contains("agent-registry"), "says which services there are: {}", refused.stderr);
}
