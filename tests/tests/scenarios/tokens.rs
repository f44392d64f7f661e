//! Tokens end when they should, on every replica: by time, by revocation, by a new key after its overlap.

use std::time::{Duration, Instant};

use guildhall_tests::{
    Caller, Hall, Setup, eventually,
    mcp::{Session, Stateless},
    scenarios,
};
use serde_json::json;

scenarios! {
    a_token_is_good_until_it_expires(Setup::required());
    a_revoked_token_ends_on_every_gateway_within_five_seconds(Setup::required());
    open_streams_end_with_the_token_that_opened_them(Setup::required());
    an_agent_that_left_takes_its_tokens_with_it(Setup::required());
    a_new_signing_key_leaves_old_tokens_good_for_the_overlap(Setup::required());
    a_registration_key_is_good_for_registering_alone(Setup::required());
    no_secret_reaches_a_log_or_an_error(Setup::required().set("telemetry.log_filter", "debug"));
}

/// The contract's bound, with a second for the test's own calls.
const WITHIN: Duration = Duration::from_secs(6);

/// The same token at each gateway by itself.
fn at_every_gateway(hall: &Hall, token: &str) -> Vec<Caller> {
    (0..hall.gateways().len()).map(|gateway| hall.caller_of(gateway).token(token)).collect()
}

async fn ends_everywhere(hall: &Hall, token: &str) {
    let since = Instant::now();
    for caller in at_every_gateway(hall, token) {
        eventually("the token ends", WITHIN.saturating_sub(since.elapsed()), async || {
            (caller.get("/api/v1/agents").await.status == 401).then_some(())
        })
        .await;
        caller.get("/api/v1/agents").await.refused(401, "AuthenticationError");
    }
}

async fn a_token_is_good_until_it_expires(hall: &Hall) {
    let token = hall.issue_token(&["--agent", "brief", "--ttl", "6s"]).await;
    let issued = Instant::now();
    let brief = hall.caller().token(&token);
    brief.get("/api/v1/agents").await.ok();
    tokio::time::sleep(Duration::from_secs(6).saturating_sub(issued.elapsed())).await;
    for caller in at_every_gateway(hall, &token) {
        caller.get("/api/v1/agents").await.refused(401, "AuthenticationError");
    }
    let too_long = hall.run(&["token", "issue", "--agent", "x", "--ttl", "forever"]).await.failed();
    assert!(too_long.stderr.contains("forever"), "{}", too_long.stderr);
}

async fn a_revoked_token_ends_on_every_gateway_within_five_seconds(hall: &Hall) {
    let registered = hall.admin().register("worker").await;
    let issued = hall.run(&["token", "issue", "--json", "--agent", "worker"]).await.ok().json();
    let issued_token = issued["token"].as_str().unwrap();
    for token in [registered.as_str(), issued_token] {
        for caller in at_every_gateway(hall, token) {
            caller.get("/api/v1/agents").await.ok();
        }
    }
    // One token by its id: the other stays good.
    hall.run(&["token", "revoke", issued["token_id"].as_str().unwrap()]).await.ok();
    ends_everywhere(hall, issued_token).await;
    hall.caller().token(&registered).get("/api/v1/agents").await.ok();
    // All tokens of the agent.
    hall.run(&["token", "revoke", "--agent", "worker"]).await.ok();
    ends_everywhere(hall, &registered).await;
    // It is not banished: a new one is good.
    let again = hall.issue_token(&["--agent", "worker"]).await;
    eventually("a new token is good", WITHIN, async || {
        (hall.caller().token(&again).get("/api/v1/agents").await.status == 200).then_some(())
    })
    .await;
}

async fn open_streams_end_with_the_token_that_opened_them(hall: &Hall) {
    let token = hall.admin().register("listener").await;
    let caller = hall.caller().token(&token);
    let mut old = Session::open(&caller).await.listen().await;
    let watched = json!({"notifications": {"resourceSubscriptions": ["agents://listener/status"]}});
    let mut new = Stateless::new("subscriptions/listen", watched).listen(&caller).await;
    assert!(!old.ends(Duration::from_secs(2)).await, "an open stream ended while its token was good");
    hall.run(&["token", "revoke", "--agent", "listener"]).await.ok();
    assert!(old.ends(WITHIN).await, "the stream of a session outlived its token");
    assert!(new.ends(WITHIN).await, "a subscription outlived its token");
}

async fn an_agent_that_left_takes_its_tokens_with_it(hall: &Hall) {
    let token = hall.admin().register("leaver").await;
    hall.caller().token(&token).delete("/api/v1/agents/leaver").await.ok();
    ends_everywhere(hall, &token).await;
    // Whoever takes the id later does not make them good again.
    hall.admin().register("leaver").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for caller in at_every_gateway(hall, &token) {
        caller.get("/api/v1/agents").await.refused(401, "AuthenticationError");
    }
}

async fn a_new_signing_key_leaves_old_tokens_good_for_the_overlap(hall: &Hall) {
    let keys = async || {
        let keys = hall.caller().get("/.well-known/jwks.json").await.ok();
        let keys = keys["keys"].as_array().unwrap().clone();
        for key in &keys {
            assert_eq!((&key["kty"], &key["crv"]), (&json!("OKP"), &json!("Ed25519")), "{key}");
            assert!(key.get("d").is_none(), "a private key is shown");
        }
        keys.len()
    };
    let old = hall.admin().register("worker").await;
    let before = keys().await;
    hall.run(&["token", "rotate-key", "--overlap", "8s"]).await.ok();
    let rotated = Instant::now();
    eventually("the new key is shown beside the old one", WITHIN, async || (keys().await == before + 1).then_some(()))
        .await;
    for caller in at_every_gateway(hall, &old) {
        caller.get("/api/v1/agents").await.ok();
    }
    let new = hall.issue_token(&["--agent", "worker", "--role", "admin"]).await;
    for caller in at_every_gateway(hall, &new) {
        eventually("a token of the new key is good", WITHIN, async || {
            (caller.get("/api/v1/agents").await.status == 200).then_some(())
        })
        .await;
    }
    tokio::time::sleep(Duration::from_secs(8).saturating_sub(rotated.elapsed())).await;
    ends_everywhere(hall, &old).await;
    for caller in at_every_gateway(hall, &new) {
        caller.get("/api/v1/agents").await.ok();
    }
}

async fn a_registration_key_is_good_for_registering_alone(hall: &Hall) {
    let made = hall.run(&["token", "registration-key", "--json", "--role", "observer"]).await.ok().json();
    let key = hall.caller().token(made["key"].as_str().unwrap());
    key.get("/api/v1/agents").await.refused(401, "AuthenticationError");
    key.post("/tools/list_agents", json!({})).await.refused(401, "AuthenticationError");
    assert_eq!(guildhall_tests::mcp::initialize(&key).await.status, 401);

    let registered = key.post("/api/v1/agents/register", json!({"agent_id": "newcomer", "name": "x"})).await.ok();
    let newcomer = hall.caller().token(registered["token"].as_str().unwrap());
    assert_eq!(newcomer.get("/api/v1/agents/newcomer").await.ok()["roles"], json!(["observer"]));

    hall.run(&["token", "registration-key", "--revoke", made["key_id"].as_str().unwrap()]).await.ok();
    let late = json!({"agent_id": "latecomer", "name": "x"});
    key.post("/api/v1/agents/register", late.clone()).await.refused(401, "AuthenticationError");
    let unknown = hall.caller().token("ghr_unheard_of");
    unknown.post("/api/v1/agents/register", late).await.refused(401, "AuthenticationError");
    newcomer.get("/api/v1/agents").await.ok();
}

async fn no_secret_reaches_a_log_or_an_error(hall: &Hall) {
    let token = hall.admin().register("worker").await;
    let key = hall.run(&["token", "registration-key", "--json"]).await.ok().json()["key"].as_str().unwrap().to_owned();
    let worker = hall.caller().token(&token);
    Session::open(&worker).await.call("list_agents", json!({})).await;
    let newcomer = json!({"agent_id": "newcomer", "name": "x"});
    let registered = hall.caller().token(&key).post("/api/v1/agents/register", newcomer).await.ok();
    let issued = registered["token"].as_str().unwrap();
    let answers = [
        hall.caller().token(&key).get("/api/v1/agents").await,
        hall.caller().token(&format!("{token}x")).get("/api/v1/agents").await,
        hall.caller().header("authorization", &format!("Basic {token}")).get("/api/v1/agents").await,
        worker.post("/api/v1/agents/register", json!({"agent_id": "newcomer", "name": token})).await,
    ];
    for secret in [&token, &key, issued] {
        for answer in &answers {
            assert!(!answer.text.contains(secret), "{}", answer.text);
        }
        for service in hall.services() {
            let log = service.process.log();
            assert!(log.contains("DEBUG"), "the log is as talkative as it gets");
            assert!(!log.contains(secret), "a secret is in a log");
        }
    }
    for secret in hall.secrets() {
        for service in hall.services() {
            assert!(!service.process.log().contains(&secret), "a secret of the configuration is in a log");
        }
    }
}
