//! A client of the hall's REST routes, and its answers.

use std::time::Duration;

use reqwest::{Method, header::HeaderMap};
use serde_json::Value;

/// Someone who calls the hall. Cheap to clone; each change gives another caller.
#[derive(Debug, Clone)]
pub struct Caller {
    http: reqwest::Client,
    base: String,
    headers: Vec<(String, String)>,
}

impl Caller {
    pub(crate) fn to(base: String) -> Self {
        let http = reqwest::Client::builder()
            // Longer than any wait of the hall: a call that hangs fails its test.
            .timeout(Duration::from_secs(60))
            // Round-robin is by request; an idle connection to a gateway that was killed would only confuse.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .unwrap();
        Self { http, base, headers: Vec::new() }
    }

    /// In an open hall: the agent that speaks.
    pub fn agent(&self, agent_id: &str) -> Self {
        self.header("x-agent-id", agent_id)
    }

    pub fn token(&self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn header(&self, name: &str, value: &str) -> Self {
        let mut changed = self.clone();
        changed.headers.retain(|(there, _)| there != name);
        changed.headers.push((name.to_owned(), value.to_owned()));
        changed
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// A request with this caller's headers, to be completed.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, self.url(path));
        self.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::to(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::to(self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::to(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        Answer::to(self.request(Method::PUT, path).json(&body)).await
    }

    /// Registers an agent of this id and name, and gives its token.
    pub async fn register(&self, agent_id: &str) -> String {
        let body = serde_json::json!({"agent_id": agent_id, "name": agent_id});
        let registered = self.post("/api/v1/agents/register", body).await.ok();
        registered["token"].as_str().unwrap().to_owned()
    }
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn to(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("the hall answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.expect("the answer is whole") }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {} {:?}", self.status, self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The body of an answer that must be a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text);
        self.json()
    }

    /// The body of an answer that must be a refusal of this status and code, in the one shape that errors have.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!((self.status, body["error"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(body["success"], false, "{body}");
        assert!(body["message"].as_str().is_some_and(|message| message.len() > 10), "says what to do: {body}");
        let known = ["success", "error", "message", "retry_after_ms", "details", "guidance"];
        let unknown = body.as_object().unwrap().keys().find(|key| !known.contains(&key.as_str()));
        assert_eq!(unknown, None, "a field the contract does not know: {body}");
        body
    }
}
