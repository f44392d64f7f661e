//! Nobody takes more than its share, however many gateways there are.

use std::time::{Duration, Instant};

use guildhall_tests::{
    Hall, Setup,
    mcp::{self, Session, Stateless},
    scenarios,
};
use serde_json::json;

fn strict() -> Setup {
    Setup::open().set("limits.requests_per_second", "2").set("limits.burst", "20")
}

scenarios! {
    an_excess_is_refused_over_all_gateways_and_says_when_to_come_back(strict());
    heartbeats_and_lists_do_not_count(strict());
    over_mcp_an_excess_is_an_error_of_the_transport(strict());
}

async fn an_excess_is_refused_over_all_gateways_and_says_when_to_come_back(hall: &Hall) {
    hall.caller().register("greedy").await;
    let greedy = hall.agent("greedy");
    let since = Instant::now();
    let (mut passed, mut refused) = (0_u32, 0);
    for _ in 0..80 {
        let answer = greedy.get("/api/v1/agents/greedy").await;
        if answer.status == 429 {
            let seconds: u64 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
            assert!((1..=60).contains(&seconds), "{seconds}");
            let body = answer.refused(429, "RateLimited");
            assert!(body["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0), "{body}");
            refused += 1;
        } else {
            answer.ok();
            passed += 1;
        }
    }
    let refilled = since.elapsed().as_secs_f64() * 2.0;
    // At most one slice (a fifth of the burst) too many for each replica.
    let slices = 4.0 * f64::from(u32::try_from(hall.gateways().len()).unwrap());
    let most = 20.0 + refilled + slices;
    assert!(f64::from(passed) <= most, "{passed} passed, {most:.1} may");
    assert!(passed >= 20 - 4, "only {passed} of a burst of 20 passed");
    assert!(refused > 0);

    hall.agent("modest").get("/api/v1/agents/greedy").await.ok();
    tokio::time::sleep(Duration::from_secs(3)).await;
    greedy.get("/api/v1/agents/greedy").await.ok();
}

async fn heartbeats_and_lists_do_not_count(hall: &Hall) {
    hall.caller().register("lively").await;
    let lively = hall.agent("lively");
    for _ in 0..40 {
        lively.post("/api/v1/agents/lively/heartbeat", json!({})).await.ok();
        lively.get("/api/v1/agents").await.ok();
        let listed = Stateless::new("tools/list", json!({})).by(&lively).await;
        assert_eq!(listed.status, 200, "{}", listed.text);
    }
    lively.get("/api/v1/agents/lively").await.ok();
}

async fn over_mcp_an_excess_is_an_error_of_the_transport(hall: &Hall) {
    let session = Session::open(&hall.agent("greedy")).await;
    for era in ["old", "new"] {
        let caller = hall.agent(&format!("greedy-{era}"));
        let session = if era == "old" { Some(Session::open(&caller).await) } else { None };
        let mut refused = None;
        for _ in 0..60 {
            let answer = match &session {
                Some(session) => session.ask("tools/call", json!({"name": "list_agents", "arguments": {}})).await,
                None => Stateless::tool("list_agents", json!({})).by(&caller).await,
            };
            if answer.status == 429 {
                refused = Some(answer);
                break;
            }
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        let refused = refused.unwrap_or_else(|| panic!("{era}: 60 calls at once are let through"));
        assert!(refused.header("retry-after").is_some(), "{era}");
        let error = mcp::message(&refused)["error"].clone();
        assert_eq!(error["data"]["error"], "RateLimited", "{era}: {error}");
        assert!(error["data"]["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0), "{era}: {error}");
    }
    // Another agent's session is not held up.
    session.call("list_agents", json!({})).await;
}
