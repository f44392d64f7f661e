//! `/api/openapi.json`, derived from the handlers.

use std::sync::LazyLock;

use axum::{http::header, response::IntoResponse};
use utoipa::OpenApi;

use super::{agents, audit, dead_letters, messages, requests, tools, topics};

#[derive(OpenApi)]
#[openapi(
    info(title = "Guildhall", description = "One hall in which agents meet.", license(name = "Apache-2.0")),
    paths(
        agents::register,
        agents::list,
        agents::get,
        agents::remove,
        agents::heartbeat,
        agents::set_key,
        agents::webhook_secret,
        agents::pause,
        agents::resume,
        audit::query,
        audit::verify,
        messages::send,
        messages::list,
        messages::get,
        messages::ack,
        messages::nack,
        messages::renew,
        requests::send,
        requests::get,
        requests::cancel,
        requests::progress,
        requests::answer,
        topics::list,
        topics::publish,
        topics::replay,
        topics::stream,
        topics::set_schema,
        topics::schema,
        topics::subscribers,
        topics::subscribe,
        topics::unsubscribe,
        dead_letters::list,
        dead_letters::get,
        dead_letters::redrive,
        dead_letters::purge,
        tools::call
    )
)]
struct Document;

static JSON: LazyLock<String> = LazyLock::new(|| {
    // The derived document holds nothing that JSON cannot say.
    Document::openapi().to_json().unwrap_or_default()
});

pub(super) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], JSON.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::rest::{ROUTES, tests};

    #[test]
    fn the_document_describes_every_route_and_no_other() {
        let document: Value = serde_json::from_str(&JSON).unwrap();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(|m| (path.clone(), m.clone())))
            .collect();
        let routed = ROUTES.iter().map(|route| (route.path.to_owned(), tests::verb(route.method).to_owned())).collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn the_agent_of_the_document_has_the_fields_of_the_agent_that_is_sent() {
        let document: Value = serde_json::from_str(&JSON).unwrap();
        let described: BTreeSet<&String> =
            document["components"]["schemas"]["AgentBody"]["properties"].as_object().unwrap().keys().collect();
        let sent = serde_json::to_value(agents::example()).unwrap();
        assert_eq!(described, sent.as_object().unwrap().keys().collect());
    }
}
