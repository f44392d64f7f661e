//! What agents can watch: `agents://{agentId}/status`.

use std::time::Duration;

use guildhall_tests::{
    Hall, Setup,
    mcp::{Session, Stateless},
    scenarios,
};
use serde_json::{Value, json};

scenarios! {
    the_status_of_an_agent_is_a_resource(Setup::open());
    whoever_subscribed_hears_of_a_change(Setup::open());
    whoever_unsubscribed_hears_no_more(Setup::open());
    a_new_client_listens_to_what_it_asked_for(Setup::open());
}

const WATCHED: &str = "agents://watched/status";

async fn the_status_of_an_agent_is_a_resource(hall: &Hall) {
    hall.caller().register("watched").await;
    let session = Session::open(&hall.agent("watcher")).await;
    let templates = session.result("resources/templates/list", json!({})).await;
    let listed = templates["resourceTemplates"].as_array().unwrap();
    assert!(listed.iter().any(|template| template["uriTemplate"] == "agents://{agentId}/status"), "{templates}");
    let old = session.result("resources/read", json!({"uri": WATCHED})).await;
    let new = Stateless::new("resources/read", json!({"uri": WATCHED})).result(&hall.agent("watcher")).await;
    for read in [old, new] {
        let content = &read["contents"][0];
        assert_eq!(content["uri"], WATCHED);
        assert_eq!(content["mimeType"], "application/json");
        let status: Value = serde_json::from_str(content["text"].as_str().unwrap()).unwrap();
        assert_eq!((&status["agent_id"], &status["status"]), (&json!("watched"), &json!("active")), "{status}");
    }
    let missing = session.ask("resources/read", json!({"uri": "agents://nobody/status"})).await;
    assert_eq!(guildhall_tests::mcp::message(&missing)["error"]["code"], -32002, "{}", missing.text);
}

/// Changes within a second of each other may be told as one.
const APART: Duration = Duration::from_millis(1_500);

async fn says(hall: &Hall, status: &str) {
    hall.agent("watched").post("/api/v1/agents/watched/heartbeat", json!({"status": status})).await.ok();
}

/// The change is said at one gateway and heard at any.
async fn whoever_subscribed_hears_of_a_change(hall: &Hall) {
    hall.caller().register("watched").await;
    hall.caller().register("ignored").await;
    let session = Session::open(&hall.agent("watcher")).await;
    let mut listening = session.listen().await;
    session.result("resources/subscribe", json!({"uri": WATCHED})).await;
    for status in ["busy", "active", "busy"] {
        hall.agent("ignored").post("/api/v1/agents/ignored/heartbeat", json!({"status": status})).await.ok();
        tokio::time::sleep(APART).await;
        says(hall, status).await;
        let told = listening.next(Duration::from_secs(10)).await.expect("a subscriber is told");
        assert_eq!(told["method"], "notifications/resources/updated", "{told}");
        assert_eq!(told["params"]["uri"], WATCHED, "{told}");
    }
}

async fn whoever_unsubscribed_hears_no_more(hall: &Hall) {
    hall.caller().register("watched").await;
    let session = Session::open(&hall.agent("watcher")).await;
    let mut listening = session.listen().await;
    session.result("resources/subscribe", json!({"uri": WATCHED})).await;
    // Of its registration this gateway may hear late.
    while listening.next(APART).await.is_some() {}
    says(hall, "busy").await;
    listening.next(Duration::from_secs(10)).await.expect("a subscriber is told");
    session.result("resources/unsubscribe", json!({"uri": WATCHED})).await;
    tokio::time::sleep(APART).await;
    says(hall, "active").await;
    let told = listening.next(Duration::from_secs(3)).await;
    assert_eq!(told, None, "it asked not to be told");
}

async fn a_new_client_listens_to_what_it_asked_for(hall: &Hall) {
    hall.caller().register("watched").await;
    let request =
        Stateless::new("subscriptions/listen", json!({"notifications": {"resourceSubscriptions": [WATCHED]}}));
    let mut listening = request.listen(&hall.agent("watcher")).await;
    let first = listening.next(Duration::from_secs(10)).await.expect("it is acknowledged first");
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    tokio::time::sleep(APART).await;
    says(hall, "busy").await;
    let told = listening.next(Duration::from_secs(10)).await.expect("a subscriber is told");
    assert_eq!(told["method"], "notifications/resources/updated", "{told}");
    assert_eq!(told["params"]["uri"], WATCHED, "{told}");
    let tag = &told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
    assert!(!tag.is_null(), "each message is tagged: {told}");
}
