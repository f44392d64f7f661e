//! `/api/v1/topics`: publishing, reading what was and what comes, schemas, durable subscribers.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json as Answer,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event as Frame, KeepAlive},
    },
};
use futures::{StreamExt as _, stream};
use guildhall_domain::{
    AgentId, Error, Timestamp,
    event::{NewEvent, Subscriber, TopicEvent, TopicInfo, TopicSchema},
    mail::Body,
    ports::bus::{Durability, ReplayFrom, Topic},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::body::{Asked, Json, OptionalJson};
use crate::{
    error::Refusal,
    events::{self, PAGE_DEFAULT, Replay},
    hall::Hall,
    identity::Caller,
};

type Result<T> = std::result::Result<T, Refusal>;

/// Keeps proxies from closing a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that a reader may be behind; at 64 KiB each, what one slow reader can cost.
const BEHIND_MAX: usize = 32;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventBody {
    /// Any JSON, at most 64 KiB; checked against the topic's schema if it has one.
    #[schema(value_type = Object)]
    event: Body,
    headers: Option<BTreeMap<String, String>>,
    /// Within two minutes the same key on the same topic adds nothing.
    idempotency_key: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct PublishedBody {
    success: bool,
    /// The event's place in its topic; rises, with gaps allowed.
    sequence: u64,
    /// `fsync`, `replicated` or `buffered`
    #[schema(value_type = String)]
    durability: Durability,
    /// True when the key was used within two minutes: nothing was added.
    duplicate: bool,
}

/// Publishes an event; answered once it is kept.
#[utoipa::path(post, path = "/api/v1/topics/{topic}/events", tag = "topics", params(("topic" = String, Path)),
    request_body = EventBody, responses((status = 200, body = PublishedBody),
    (status = 400, description = "it does not fit the topic's schema; every fault is named")))]
pub(super) async fn publish(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(topic): Path<String>,
    Json(body): Json<EventBody>,
) -> Result<Answer<PublishedBody>> {
    let event = NewEvent {
        content: body.event,
        headers: body.headers.unwrap_or_default().into_iter().collect(),
        idempotency_key: body.idempotency_key,
    };
    let published = hall.topics.publish(&caller.call(), &Topic::new(topic)?, event).await?;
    Ok(Answer(PublishedBody {
        success: true,
        sequence: published.sequence,
        durability: published.durability,
        duplicate: published.duplicate,
    }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReplayQuery {
    /// RFC 3339; from the first that is kept when left out
    from: Option<String>,
    /// RFC 3339; up to now when left out
    to: Option<String>,
    /// A CEL expression over `event`, `headers`, `topic`, `publisher`, `sequence` and `published_at`.
    filter: Option<String>,
    /// 1 to 1000; 100 when left out
    limit: Option<usize>,
    /// `next` of the page before: a sequence
    after: Option<u64>,
    /// In an open hall: which agent asks.
    #[serde(rename = "agent")]
    _agent: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct EventList {
    success: bool,
    /// In the order of their sequence.
    #[schema(value_type = Vec<Object>)]
    events: Vec<TopicEvent>,
    /// Give it as `after` for the next page; null when this one came to the end.
    next: Option<u64>,
}

/// A page of what was published.
#[utoipa::path(get, path = "/api/v1/topics/{topic}/events", tag = "topics",
    params(("topic" = String, Path), ReplayQuery), responses((status = 200, body = EventList)))]
pub(super) async fn replay(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(topic): Path<String>,
    Asked(asked): Asked<ReplayQuery>,
) -> Result<Answer<EventList>> {
    let asked = Replay {
        from: time("from", asked.from.as_deref())?,
        to: time("to", asked.to.as_deref())?,
        filter: events::filter(asked.filter).await?,
        limit: asked.limit.unwrap_or(PAGE_DEFAULT),
        after: asked.after,
    };
    let page = hall.replay(&caller.call(), &Topic::new(topic)?, asked).await?;
    Ok(Answer(EventList { success: true, events: page.events, next: page.next }))
}

fn time(field: &str, text: Option<&str>) -> guildhall_domain::Result<Option<Timestamp>> {
    let parsed = text.map(str::parse::<Timestamp>).transpose();
    parsed.map_err(|error| Error::invalid(format!("{field}: {}", error.message)))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamQuery {
    /// RFC 3339; only what comes from now on when left out. The header `Last-Event-ID` goes before it.
    from: Option<String>,
    /// A CEL expression over `event`, `headers`, `topic`, `publisher`, `sequence` and `published_at`.
    filter: Option<String>,
    /// In an open hall: which agent asks.
    #[serde(rename = "agent")]
    _agent: Option<String>,
}

/// Server-sent events: what is published from now on, or from a time, or after the header `Last-Event-ID`. Each
/// event's `id` is its sequence.
#[utoipa::path(get, path = "/api/v1/topics/{topic}/stream", tag = "topics",
    params(("topic" = String, Path), StreamQuery, ("Last-Event-ID" = Option<u64>, Header)),
    responses((status = 200, content_type = "text/event-stream")))]
pub(super) async fn stream(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(topic): Path<String>,
    Asked(asked): Asked<StreamQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let from = match (last_event_id(&headers)?, time("from", asked.from.as_deref())?) {
        (Some(seen), _) => ReplayFrom::After(seen),
        (None, Some(from)) => ReplayFrom::Time(from),
        (None, None) => ReplayFrom::Now,
    };
    let filter = events::filter(asked.filter).await?;
    let events = hall.follow(&caller.principal.tenant, Topic::new(topic)?, from, filter).await?;
    let (ready, mut waiting) = mpsc::channel(BEHIND_MAX);
    tokio::spawn(async move {
        let mut events = events;
        let over = async {
            tokio::select! {
                () = ready.closed() => {}
                () = hall.stopping.cancelled() => {}
                () = hall.identity.shut_out(&caller) => {}
            }
        };
        let read = async {
            // A reader that takes nothing for so long is cut off; it resumes from where it was.
            let reads_within = hall.pace.reads_within;
            while let Some(event) = events.next().await {
                if ready.send_timeout(frame(&event), reads_within).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = over => {}
            () = read => {}
        }
    });
    let frames = stream::poll_fn(move |cx| waiting.poll_recv(cx)).map(Ok::<_, Infallible>);
    let mut response = Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Proxies must hand events on as they come.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response.headers_mut().insert(unbuffered.0, unbuffered.1);
    Ok(response)
}

fn frame(event: &TopicEvent) -> Frame {
    let frame = Frame::default().id(event.sequence.to_string());
    // Line breaks of its publisher stand between its tokens; a frame has each on a line of its own.
    match serde_json::to_string(event) {
        Ok(text) => frame.data(text),
        Err(_) => frame,
    }
}

fn last_event_id(headers: &HeaderMap) -> guildhall_domain::Result<Option<u64>> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let id = id.to_str().ok().and_then(|id| id.trim().parse().ok());
    id.map(Some).ok_or_else(|| Error::invalid("Last-Event-ID is the id of an event of this stream, a whole number"))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ForceQuery {
    /// True: also where events that were good before would no longer be.
    force: Option<bool>,
    /// In an open hall: which agent asks.
    #[serde(rename = "agent")]
    _agent: Option<String>,
}

/// Sets the JSON Schema that every later event of the topic is checked against: a new version, unless it is the newest
/// already.
#[utoipa::path(put, path = "/api/v1/topics/{topic}/schema", tag = "topics",
    params(("topic" = String, Path), ForceQuery), request_body = Object, responses((status = 200, body = Object),
    (status = 409, description = "events that were good before would no longer be; details name every reason")))]
pub(super) async fn set_schema(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(topic): Path<String>,
    Asked(asked): Asked<ForceQuery>,
    Json(schema): Json<Value>,
) -> Result<Answer<TopicSchema>> {
    let force = asked.force == Some(true);
    Ok(Answer(hall.topics.set_schema(&caller.call(), &Topic::new(topic)?, schema, force).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct VersionQuery {
    /// The newest when left out.
    version: Option<u32>,
    /// In an open hall: which agent asks.
    #[serde(rename = "agent")]
    _agent: Option<String>,
}

/// The topic's schema, with its version.
#[utoipa::path(get, path = "/api/v1/topics/{topic}/schema", tag = "topics",
    params(("topic" = String, Path), VersionQuery), responses((status = 200, body = Object), (status = 404)))]
pub(super) async fn schema(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(topic): Path<String>,
    Asked(asked): Asked<VersionQuery>,
) -> Result<Answer<TopicSchema>> {
    let topic = Topic::new(topic)?;
    let schema = hall.topics.schema(&caller.call(), &topic, asked.version).await?;
    let missing = || match asked.version {
        Some(version) => Error::not_found(format!("the topic {topic} has no version {version} of its schema")),
        None => Error::not_found(format!("the topic {topic} has no schema: any event is taken")),
    };
    Ok(Answer(schema.ok_or_else(missing)?))
}

#[derive(Serialize, ToSchema)]
pub(super) struct SubscriberList {
    success: bool,
    #[schema(value_type = Vec<Object>)]
    subscribers: Vec<Subscriber>,
    total: usize,
}

/// The topic's durable subscribers, who get its events as mail.
#[utoipa::path(get, path = "/api/v1/topics/{topic}/subscribers", tag = "topics", params(("topic" = String, Path)),
    responses((status = 200, body = SubscriberList)))]
pub(super) async fn subscribers(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(topic): Path<String>,
) -> Result<Answer<SubscriberList>> {
    let subscribers = hall.topics.subscribers(&caller.call(), &Topic::new(topic)?).await?;
    let total = subscribers.len();
    Ok(Answer(SubscriberList { success: true, subscribers, total }))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscribeBody {
    /// Only events that this CEL expression is true of; every event when left out.
    filter: Option<String>,
}

/// From now on the topic's events arrive as the agent's mail. Subscribing again changes the filter.
#[utoipa::path(put, path = "/api/v1/topics/{topic}/subscribers/{agent_id}", tag = "topics",
    params(("topic" = String, Path), ("agent_id" = String, Path)), request_body = Option<SubscribeBody>,
    responses((status = 200, body = Object)))]
pub(super) async fn subscribe(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path((topic, agent)): Path<(String, String)>,
    OptionalJson(body): OptionalJson<SubscribeBody>,
) -> Result<Answer<Subscriber>> {
    let (topic, agent) = (Topic::new(topic)?, AgentId::new(agent)?);
    Ok(Answer(hall.topics.subscribe(&caller.call(), &topic, &agent, body.filter).await?))
}

/// The topic's events are the agent's mail no longer.
#[utoipa::path(delete, path = "/api/v1/topics/{topic}/subscribers/{agent_id}", tag = "topics",
    params(("topic" = String, Path), ("agent_id" = String, Path)), responses((status = 200)))]
pub(super) async fn unsubscribe(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path((topic, agent)): Path<(String, String)>,
) -> Result<Answer<Value>> {
    let (topic, agent) = (Topic::new(topic)?, AgentId::new(agent)?);
    let was_subscribed = hall.topics.unsubscribe(&caller.call(), &topic, &agent).await?;
    Ok(Answer(json!({"success": true, "was_subscribed": was_subscribed})))
}

#[derive(Serialize, ToSchema)]
pub(super) struct TopicList {
    success: bool,
    /// In the order of their names.
    #[schema(value_type = Vec<Object>)]
    topics: Vec<TopicInfo>,
    total: usize,
}

/// The topics that have a schema or durable subscribers.
#[utoipa::path(get, path = "/api/v1/topics", tag = "topics", responses((status = 200, body = TopicList)))]
pub(super) async fn list(State(hall): State<Arc<Hall>>, caller: Caller) -> Result<Answer<TopicList>> {
    let topics = hall.topics.topics(&caller.call()).await?;
    let total = topics.len();
    Ok(Answer(TopicList { success: true, topics, total }))
}
