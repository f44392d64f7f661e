//! What the bridge must know of a message: is it a request, under which id, of which era. The rest is not looked at.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Initialize,
    Initialized,
    Request,
    /// Several messages at once, as the revision of 2025-03-26 allows.
    Batch,
    Cancelled,
    /// Another notification, or the host's answer to the hall.
    Other,
}

/// One line of the host.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) text: String,
    pub(super) kind: Kind,
    pub(super) method: Option<String>,
    /// The ids under which an answer is waited for.
    pub(super) ids: Vec<Value>,
    /// Of a client without sessions (2026-07-28 and later): what its headers must say.
    pub(super) modern: Option<Modern>,
    /// The request that this message ends.
    pub(super) cancels: Option<Value>,
}

/// Headers repeat what the body says, so that proxies need not read it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Modern {
    pub(super) version: String,
    pub(super) name: Option<String>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    id: Option<Value>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Params {
    #[serde(rename = "_meta")]
    meta: Option<Meta>,
    name: Option<Value>,
    uri: Option<Value>,
    #[serde(rename = "taskId")]
    task_id: Option<Value>,
    #[serde(rename = "requestId")]
    request_id: Option<Value>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<String>,
}

impl Message {
    pub(super) fn read(text: String) -> Result<Self, String> {
        let not_json = |error: serde_json::Error| format!("this line is no JSON-RPC message: {error}");
        if text.starts_with('[') {
            let parts: Vec<Envelope<'_>> = serde_json::from_str(&text).map_err(not_json)?;
            let ids = parts.into_iter().filter(|part| part.method.is_some()).filter_map(|part| part.id).collect();
            return Ok(Self { ids, kind: Kind::Batch, method: None, modern: None, cancels: None, text });
        }
        let Envelope { id, method, params } = serde_json::from_str(&text).map_err(not_json)?;
        // Parameters of another form are the hall's to refuse.
        let params: Params = params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
        let kind = match (method.as_deref(), &id) {
            (Some("initialize"), Some(_)) => Kind::Initialize,
            (Some(_), Some(_)) => Kind::Request,
            (Some("notifications/initialized"), None) => Kind::Initialized,
            (Some("notifications/cancelled"), None) => Kind::Cancelled,
            _ => Kind::Other,
        };
        let ids = id.filter(|_| method.is_some()).into_iter().collect();
        let method = method.map(Cow::into_owned);
        let modern = params
            .meta
            .as_ref()
            .and_then(|meta| meta.version.clone())
            .map(|version| Modern { version, name: method.as_deref().and_then(|method| name_of(method, &params)) });
        Ok(Self { text, kind, method, ids, modern, cancels: params.request_id })
    }

    /// What completes a handshake.
    pub(super) fn initialized() -> Self {
        Self {
            text: r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned(),
            kind: Kind::Initialized,
            method: None,
            ids: Vec::new(),
            modern: None,
            cancels: None,
        }
    }
}

/// What the header `Mcp-Name` says, for the methods that have it.
fn name_of(method: &str, params: &Params) -> Option<String> {
    let name = match method {
        "tools/call" | "prompts/get" => &params.name,
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => &params.uri,
        "tasks/get" | "tasks/update" | "tasks/cancel" => &params.task_id,
        _ => return None,
    };
    name.as_ref()?.as_str().map(header_value)
}

/// What cannot stand in a header as it is stands there in base64.
fn header_value(text: &str) -> String {
    let plain = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) && text.trim() == text;
    let looks_encoded = text.starts_with("=?base64?") && text.ends_with("?=");
    if plain && !looks_encoded { text.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(text)) }
}

#[derive(Deserialize)]
struct Answered<'a> {
    id: Option<Value>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
}

/// Whether `text`, a message of the hall or several, answers the request with this id.
pub(super) fn answers(text: &str, id: &Value) -> bool {
    let is_it = |message: &Answered<'_>| message.method.is_none() && message.id.as_ref() == Some(id);
    if text.trim_start().starts_with('[') {
        serde_json::from_str::<Vec<Answered<'_>>>(text).is_ok_and(|messages| messages.iter().any(is_it))
    } else {
        serde_json::from_str(text).is_ok_and(|message| is_it(&message))
    }
}

/// An error of the bridge as the host expects one.
pub(super) fn error_line(id: &Value, code: i64, message: &str, data: Option<&Value>) -> String {
    let mut error = json!({ "code": code, "message": message });
    if let Some(data) = data {
        error["data"] = data.clone();
    }
    json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Message {
        Message::read(text.to_owned()).unwrap()
    }

    #[test]
    fn a_message_is_told_by_its_method_and_id() {
        for (text, kind, ids) in [
            (r#"{"id":1,"method":"initialize","params":{}}"#, Kind::Initialize, 1),
            (r#"{"method":"notifications/initialized"}"#, Kind::Initialized, 0),
            (r#"{"id":"a","method":"tools/list"}"#, Kind::Request, 1),
            (r#"{"id":7,"result":{}}"#, Kind::Other, 0),
            (r#"{"method":"notifications/progress"}"#, Kind::Other, 0),
            (r#"[{"id":1,"method":"ping"},{"method":"n"},{"id":2,"result":{}}]"#, Kind::Batch, 1),
        ] {
            let message = read(text);
            assert_eq!((message.kind, message.ids.len()), (kind, ids), "{text}");
        }
        assert_eq!(
            read(r#"{"method":"notifications/cancelled","params":{"requestId":"a"}}"#).cancels,
            Some(json!("a"))
        );
        assert!(Message::read("nonsense".into()).is_err());
    }

    #[test]
    fn headers_of_a_client_without_sessions_repeat_its_body() {
        let call = |method: &str, params: &str| {
            let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
            read(&format!(r#"{{"id":1,"method":"{method}","params":{{{meta},{params}}}}}"#)).modern.unwrap()
        };
        assert_eq!(call("tools/call", r#""name":"list_agents""#).name.as_deref(), Some("list_agents"));
        assert_eq!(
            call("resources/read", r#""uri":"agents://ä/x""#).name.as_deref(),
            Some("=?base64?YWdlbnRzOi8vw6QveA==?=")
        );
        assert_eq!(call("tools/call", r#""name":"=?base64?eA==?=""#).name.unwrap(), "=?base64?PT9iYXNlNjQ/ZUE9PT89?=");
        assert_eq!(call("tools/list", r#""cursor":"x""#).name, None);
        assert_eq!(call("tools/list", r#""cursor":"x""#).version, "2026-07-28");
        assert!(read(r#"{"id":1,"method":"tools/call","params":{"name":"x"}}"#).modern.is_none());
    }

    #[test]
    fn only_an_answer_to_the_very_request_settles_it() {
        let id = json!(1);
        assert!(answers(r#"{"id":1,"result":{}}"#, &id));
        assert!(answers(r#"[{"id":2,"result":{}},{"id":1,"error":{}}]"#, &id));
        assert!(!answers(r#"{"id":"1","result":{}}"#, &id));
        assert!(!answers(r#"{"id":1,"method":"sampling/createMessage"}"#, &id));
    }
}
