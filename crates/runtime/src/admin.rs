//! What operators and orchestrators ask a process.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{Health, Metrics};

/// `/health`, `/ready` and `/metrics`.
pub fn router(health: Health, metrics: Metrics) -> Router {
    let probes = Router::new().route("/health", get(alive)).route("/ready", get(ready)).with_state(health);
    probes.merge(Router::new().route("/metrics", get(render)).with_state(metrics))
}

/// 200 as long as the process lives: to restart it would not bring an engine back.
async fn alive(State(health): State<Health>) -> Json<Value> {
    Json(health.snapshot())
}

async fn ready(State(health): State<Health>) -> Response {
    let reasons = health.not_ready();
    if reasons.is_empty() {
        Json(json!({"status": "ready"})).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not_ready", "reasons": reasons}))).into_response()
    }
}

async fn render(State(metrics): State<Metrics>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::{Body, to_bytes};
    use http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::{Shutdown, SystemClock};

    async fn get_text(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_is_503_with_the_reasons_while_health_stays_200() {
        let health = Health::new(Arc::new(SystemClock), Shutdown::default());
        let bus = health.component("bus", "nats");
        let router = router(health, Metrics::install().unwrap());
        bus.down("connection refused");
        let (status, body) = get_text(&router, "/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("nats (bus)") && body.contains("connection refused"), "{body}");
        assert_eq!(get_text(&router, "/health").await.0, StatusCode::OK);
        bus.up();
        assert_eq!(get_text(&router, "/ready").await, (StatusCode::OK, r#"{"status":"ready"}"#.to_owned()));
    }

    #[tokio::test]
    async fn a_counted_thing_shows_in_the_metrics() {
        let router = router(Health::new(Arc::new(SystemClock), Shutdown::default()), Metrics::install().unwrap());
        metrics::counter!("guildhall_test_total").increment(3);
        metrics::histogram!("guildhall_test_seconds").record(0.002);
        let (_, text) = get_text(&router, "/metrics").await;
        assert!(text.contains("guildhall_test_total 3"), "{text}");
        assert!(text.contains(r#"guildhall_test_seconds_bucket{le="0.0025"} 1"#), "{text}");
    }
}
