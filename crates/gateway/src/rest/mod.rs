//! REST: a table of routes. Each names the operation that its caller must be allowed, whether it counts against the
//! caller's rate, and its handler; the port behind it authorizes the same operation again, so that no door is the
//! only guard. `tests` hold the table against the OpenAPI document and against the permission matrix.

mod agents;
mod audit;
pub(crate) mod body;
mod dead_letters;
mod messages;
mod openapi;
mod requests;
mod tools;
mod topics;

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension, Router,
    extract::{RawPathParams, Request, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, MethodRouter, get, on},
};
use guildhall_domain::{AgentId, Error, Principal, ports::bus::Topic};
use guildhall_guard::{Operation, Policy, Target, operation::Scope};

use crate::{error::Refusal, hall::Hall, identity::Caller};

/// Whether a call takes from the caller's rate: contract section 3 frees heartbeats, acknowledgements, handshakes
/// and lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Counts,
    Free,
}

pub(crate) struct Route {
    pub(crate) method: MethodFilter,
    pub(crate) path: &'static str,
    pub(crate) operation: Operation,
    pub(crate) weight: Weight,
    handler: fn(MethodFilter) -> MethodRouter<Arc<Hall>>,
}

macro_rules! route {
    ($method:ident $path:literal, $operation:ident, $weight:ident, $handler:path) => {
        Route {
            method: MethodFilter::$method,
            path: $path,
            operation: Operation::$operation,
            weight: Weight::$weight,
            handler: |method| on(method, $handler),
        }
    };
}

/// Every route that needs a caller.
pub(crate) const ROUTES: &[Route] = &[
    route!(POST "/api/v1/agents/register", RegisterAgent, Counts, agents::register),
    route!(GET "/api/v1/agents", ListAgents, Free, agents::list),
    route!(GET "/api/v1/agents/{id}", GetAgent, Counts, agents::get),
    route!(DELETE "/api/v1/agents/{id}", RemoveAgent, Counts, agents::remove),
    route!(POST "/api/v1/agents/{id}/heartbeat", Heartbeat, Free, agents::heartbeat),
    route!(PUT "/api/v1/agents/{id}/key", SetAgentKey, Counts, agents::set_key),
    route!(GET "/api/v1/agents/{id}/webhook-secret", RegisterAgent, Counts, agents::webhook_secret),
    route!(POST "/api/v1/agents/{id}/pause", PauseAgent, Counts, agents::pause),
    route!(POST "/api/v1/agents/{id}/resume", ResumeAgent, Counts, agents::resume),
    route!(GET "/api/v1/audit", ReadAudit, Counts, audit::query),
    route!(GET "/api/v1/audit/verify", VerifyAudit, Counts, audit::verify),
    route!(POST "/api/v1/messages", SendMail, Counts, messages::send),
    // History is a list; taking what waits counts, in the handler.
    route!(GET "/api/v1/messages", ReadMail, Free, messages::list),
    route!(GET "/api/v1/messages/{message_id}", ReadMail, Counts, messages::get),
    route!(POST "/api/v1/messages/{message_id}/ack", TakeMail, Free, messages::ack),
    route!(POST "/api/v1/messages/{message_id}/nack", TakeMail, Free, messages::nack),
    route!(POST "/api/v1/messages/{message_id}/renew", TakeMail, Free, messages::renew),
    route!(POST "/api/v1/requests", SendRequest, Counts, requests::send),
    route!(GET "/api/v1/requests/{request_id}", ReadMail, Counts, requests::get),
    route!(DELETE "/api/v1/requests/{request_id}", SendRequest, Counts, requests::cancel),
    route!(POST "/api/v1/requests/{request_id}/progress", AnswerRequest, Counts, requests::progress),
    route!(POST "/api/v1/requests/{request_id}/answer", AnswerRequest, Counts, requests::answer),
    route!(GET "/api/v1/topics", ReadTopic, Free, topics::list),
    route!(POST "/api/v1/topics/{topic}/events", PublishEvent, Counts, topics::publish),
    route!(GET "/api/v1/topics/{topic}/events", ReadTopic, Counts, topics::replay),
    route!(GET "/api/v1/topics/{topic}/stream", ReadTopic, Counts, topics::stream),
    route!(PUT "/api/v1/topics/{topic}/schema", ManageTopic, Counts, topics::set_schema),
    route!(GET "/api/v1/topics/{topic}/schema", ReadTopic, Counts, topics::schema),
    route!(GET "/api/v1/topics/{topic}/subscribers", ReadTopic, Free, topics::subscribers),
    route!(PUT "/api/v1/topics/{topic}/subscribers/{agent_id}", SubscribeTopic, Counts, topics::subscribe),
    route!(DELETE "/api/v1/topics/{topic}/subscribers/{agent_id}", SubscribeTopic, Counts, topics::unsubscribe),
    route!(GET "/api/v1/dlq", ReadDeadLetters, Free, dead_letters::list),
    route!(GET "/api/v1/dlq/{message_id}", ReadDeadLetters, Counts, dead_letters::get),
    route!(POST "/api/v1/dlq/redrive", RedriveDeadLetters, Counts, dead_letters::redrive),
    route!(POST "/api/v1/dlq/purge", PurgeDeadLetters, Counts, dead_letters::purge),
    // What it weighs depends on the tool.
    route!(POST "/tools/{name}", CallTool, Free, tools::call),
];

pub(crate) fn router(hall: Arc<Hall>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let admitted = middleware::from_fn_with_state(hall.clone(), admit);
        let handler = (route.handler)(route.method).layer::<_, Infallible>(admitted).layer(Extension(route));
        router = router.route(route.path, handler);
    }
    router
        .route("/api/openapi.json", get(openapi::document))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(hall)
}

async fn admit(
    State(hall): State<Arc<Hall>>,
    Extension(route): Extension<&'static Route>,
    params: RawPathParams,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    let judged = async {
        // A registration key is a right of its own, which the registry judges.
        if caller.registration_key.is_none() {
            let param = |names: &[&str]| params.iter().find(|(name, _)| names.contains(name)).map(|(_, value)| value);
            let agent = param(&["id", "agent_id"]).map(AgentId::new).transpose()?;
            let topic = param(&["topic"]).map(Topic::new).transpose()?;
            authorize(&hall.policy, &caller.principal, route.operation, agent.as_ref(), topic.as_ref())?;
        }
        match route.weight {
            Weight::Counts => hall.limits.pass(&caller.principal).await,
            Weight::Free => Ok(()),
        }
    };
    match judged.await {
        Ok(()) => next.run(request).await,
        Err(error) => Refusal(error).into_response(),
    }
}

/// Whether the caller may do this at all. `agent`, `topic`: those that are named by then. Where no agent is named the
/// body or the query may name one, and the port judges that; at the door it is enough to be someone who may do it at
/// least to itself.
pub(crate) fn authorize(
    policy: &Policy,
    caller: &Principal,
    operation: Operation,
    agent: Option<&AgentId>,
    topic: Option<&Topic>,
) -> Result<(), Error> {
    let own = caller.agent();
    let target = match agent.or(own.as_ref().filter(|_| operation.scope() == Scope::Own)) {
        Some(agent) => Target::Agent(agent),
        None => Target::Tenant(&caller.tenant),
    };
    match topic {
        Some(topic) => policy.authorize_on_topic(caller, operation, target, topic),
        None => policy.authorize(caller, operation, target),
    }
}

async fn no_such_route(request: Request) -> Refusal {
    Refusal(Error::not_found(format!(
        "there is nothing at {} {}; /api/openapi.json lists what there is",
        request.method(),
        request.uri().path()
    )))
}

async fn wrong_method(request: Request) -> Response {
    let mut response = Refusal(Error::invalid(format!(
        "{} cannot be used on {}; /api/openapi.json lists what can",
        request.method(),
        request.uri().path()
    )))
    .into_response();
    *response.status_mut() = axum::http::StatusCode::METHOD_NOT_ALLOWED;
    response
}

#[cfg(test)]
pub(in crate::rest) mod tests {
    use std::fmt::Write as _;

    use guildhall_domain::{PrincipalKind, TenantId, principal::roles};

    use super::*;
    use crate::tools::{Narrowed, ToolRouter};

    /// The word of the OpenAPI document for a method.
    pub(in crate::rest) fn verb(method: MethodFilter) -> &'static str {
        [
            (MethodFilter::GET, "get"),
            (MethodFilter::PUT, "put"),
            (MethodFilter::POST, "post"),
            (MethodFilter::DELETE, "delete"),
        ]
        .into_iter()
        .find_map(|(known, verb)| (known == method).then_some(verb))
        .expect("a route uses a method that this test knows")
    }

    /// Who may do what at this door, for every route and tool there is: a new one changes the table, and whoever adds
    /// it reads here what it means.
    #[test]
    fn the_permission_matrix_of_routes_and_tools_is_this() {
        let policy = Policy::default();
        let (own, other) = (AgentId::new("own").unwrap(), AgentId::new("other").unwrap());
        let caller = |role: &str| Principal::new(TenantId::default(), PrincipalKind::Agent, own.as_str(), [role]);
        let mut matrix = String::new();
        for route in ROUTES {
            write!(matrix, "{} {}:", verb(route.method), route.path).unwrap();
            for role in [roles::ADMIN, roles::AGENT, roles::OBSERVER, "unknown"] {
                let may = |named| authorize(&policy, &caller(role), route.operation, named, None).is_ok();
                let verdict = if !["{id}", "{agent_id}"].iter().any(|param| route.path.contains(param)) {
                    if may(None) { "yes" } else { "no" }
                } else {
                    match (may(Some(&own)), may(Some(&other))) {
                        (true, true) => "any",
                        (true, false) => "own",
                        (false, false) => "no",
                        (false, true) => panic!("{role} may do to others what it may not do to itself"),
                    }
                };
                write!(matrix, " {role}={verdict}").unwrap();
            }
            matrix.push('\n');
        }
        let tools = ToolRouter::of_the_hall();
        for name in tools.names() {
            write!(matrix, "tool {name}:").unwrap();
            for role in [roles::ADMIN, roles::AGENT, roles::OBSERVER, "unknown"] {
                let seen = tools.find(name, &policy, &caller(role), &Narrowed::default()).is_some();
                write!(matrix, " {role}={}", if seen { "yes" } else { "no" }).unwrap();
            }
            matrix.push('\n');
        }
        insta::assert_snapshot!(matrix, @"
        post /api/v1/agents/register: admin=yes agent=yes observer=no unknown=no
        get /api/v1/agents: admin=yes agent=yes observer=yes unknown=no
        get /api/v1/agents/{id}: admin=any agent=any observer=any unknown=no
        delete /api/v1/agents/{id}: admin=any agent=own observer=no unknown=no
        post /api/v1/agents/{id}/heartbeat: admin=any agent=own observer=no unknown=no
        put /api/v1/agents/{id}/key: admin=any agent=own observer=no unknown=no
        get /api/v1/agents/{id}/webhook-secret: admin=any agent=own observer=no unknown=no
        post /api/v1/agents/{id}/pause: admin=any agent=no observer=no unknown=no
        post /api/v1/agents/{id}/resume: admin=any agent=no observer=no unknown=no
        get /api/v1/audit: admin=yes agent=no observer=no unknown=no
        get /api/v1/audit/verify: admin=yes agent=no observer=no unknown=no
        post /api/v1/messages: admin=yes agent=yes observer=no unknown=no
        get /api/v1/messages: admin=yes agent=yes observer=no unknown=no
        get /api/v1/messages/{message_id}: admin=yes agent=yes observer=no unknown=no
        post /api/v1/messages/{message_id}/ack: admin=yes agent=yes observer=no unknown=no
        post /api/v1/messages/{message_id}/nack: admin=yes agent=yes observer=no unknown=no
        post /api/v1/messages/{message_id}/renew: admin=yes agent=yes observer=no unknown=no
        post /api/v1/requests: admin=yes agent=yes observer=no unknown=no
        get /api/v1/requests/{request_id}: admin=yes agent=yes observer=no unknown=no
        delete /api/v1/requests/{request_id}: admin=yes agent=yes observer=no unknown=no
        post /api/v1/requests/{request_id}/progress: admin=yes agent=yes observer=no unknown=no
        post /api/v1/requests/{request_id}/answer: admin=yes agent=yes observer=no unknown=no
        get /api/v1/topics: admin=yes agent=yes observer=yes unknown=no
        post /api/v1/topics/{topic}/events: admin=yes agent=yes observer=no unknown=no
        get /api/v1/topics/{topic}/events: admin=yes agent=yes observer=yes unknown=no
        get /api/v1/topics/{topic}/stream: admin=yes agent=yes observer=yes unknown=no
        put /api/v1/topics/{topic}/schema: admin=yes agent=no observer=no unknown=no
        get /api/v1/topics/{topic}/schema: admin=yes agent=yes observer=yes unknown=no
        get /api/v1/topics/{topic}/subscribers: admin=yes agent=yes observer=yes unknown=no
        put /api/v1/topics/{topic}/subscribers/{agent_id}: admin=any agent=own observer=no unknown=no
        delete /api/v1/topics/{topic}/subscribers/{agent_id}: admin=any agent=own observer=no unknown=no
        get /api/v1/dlq: admin=yes agent=yes observer=no unknown=no
        get /api/v1/dlq/{message_id}: admin=yes agent=yes observer=no unknown=no
        post /api/v1/dlq/redrive: admin=yes agent=yes observer=no unknown=no
        post /api/v1/dlq/purge: admin=yes agent=yes observer=no unknown=no
        post /tools/{name}: admin=yes agent=yes observer=yes unknown=no
        tool ack_message: admin=yes agent=yes observer=no unknown=no
        tool cancel_request: admin=yes agent=yes observer=no unknown=no
        tool check_inbox: admin=yes agent=yes observer=no unknown=no
        tool list_agents: admin=yes agent=yes observer=yes unknown=no
        tool list_dead_letters: admin=yes agent=yes observer=no unknown=no
        tool nack_message: admin=yes agent=yes observer=no unknown=no
        tool publish_event: admin=yes agent=yes observer=no unknown=no
        tool redrive_dead_letter: admin=yes agent=yes observer=no unknown=no
        tool register_agent: admin=yes agent=yes observer=no unknown=no
        tool replay_events: admin=yes agent=yes observer=yes unknown=no
        tool reply: admin=yes agent=yes observer=no unknown=no
        tool request_agent: admin=yes agent=yes observer=no unknown=no
        tool send_message: admin=yes agent=yes observer=no unknown=no
        tool set_public_key: admin=yes agent=yes observer=no unknown=no
        tool subscribe_topic: admin=yes agent=yes observer=no unknown=no
        ");
    }
}
