//! A running hall as the command line sees it: REST, its errors as one readable line.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use futures::{StreamExt, stream::BoxStream};
use guildhall_domain::AgentId;
use guildhall_guard::{ExposeSecret, Secret};
use reqwest::{
    ClientBuilder, Method, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION},
};
use serde::{Serialize, de::DeserializeOwned};
use sse_stream::SseByteStream;
use url::{Host, Url};

use crate::failure::Failure;

/// A hall that is there takes a connection in far less.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Longer than the hall gives itself for a call.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// By which a caller of an open hall names itself.
const AGENT_HEADER: &str = "X-Agent-Id";

/// Which hall, and who asks.
#[derive(Debug, Clone, Args)]
pub(crate) struct HallArgs {
    /// Where the hall is
    #[arg(long, env = "GUILDHALL_URL", default_value = "http://127.0.0.1:8016", value_parser = http_url)]
    pub(crate) url: Url,
    /// A token of the hall; an open hall needs none
    #[arg(long, env = "GUILDHALL_TOKEN", hide_env_values = true, value_parser = secret, conflicts_with = "token_file")]
    token: Option<Secret>,
    /// A file that holds the token
    #[arg(long, value_name = "FILE", env = "GUILDHALL_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl HallArgs {
    pub(crate) fn token(&self) -> Result<Option<Secret>, Failure> {
        let Some(file) = &self.token_file else { return Ok(self.token.clone()) };
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::new(format!("--token-file {} cannot be read: {error}", file.display())))?;
        Ok(Some(Secret::from(text.trim())))
    }

    pub(crate) fn hall(&self) -> Result<Hall, Failure> {
        Ok(Hall {
            client: client(&self.url, |builder| builder)?,
            url: self.url.clone(),
            token: self.token()?,
            agent: None,
            named_by: None,
        })
    }

    /// As this agent, where the hall is open: with a token, the token says who calls. `flag` is where it is named.
    pub(crate) fn hall_for(&self, agent: Option<&AgentId>, flag: &'static str) -> Result<Hall, Failure> {
        Ok(Hall { agent: agent.cloned(), named_by: Some(flag), ..self.hall()? })
    }
}

fn http_url(text: &str) -> Result<Url, String> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| "write it like http://127.0.0.1:8016".to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "clap takes parsers that may fail")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::from(text))
}

/// Streams last as long as they last, and are given up when nothing is heard of them for `silence`.
pub(crate) fn client_for_streams(url: &Url, silence: Duration) -> Result<reqwest::Client, Failure> {
    client(url, |builder| builder.read_timeout(silence))
}

fn client(url: &Url, timing: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Result<reqwest::Client, Failure> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIME)
        .user_agent(concat!("guildhall/", env!("CARGO_PKG_VERSION")))
        // A token goes to the hall that was named and nowhere else.
        .redirect(reqwest::redirect::Policy::none());
    if is_this_machine(url) {
        // A proxy for the world outside cannot reach a hall on this machine.
        builder = builder.no_proxy();
    }
    timing(builder).build().map_err(|error| Failure::new(format!("cannot make an HTTP client: {error}")))
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

pub(crate) struct Hall {
    client: reqwest::Client,
    url: Url,
    token: Option<Secret>,
    agent: Option<AgentId>,
    /// The flag that names the agent.
    named_by: Option<&'static str>,
}

/// A server-sent event: its id and its data.
pub(crate) type Events = BoxStream<'static, Result<sse_stream::Sse, sse_stream::Error>>;

impl Hall {
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, Option<String>)],
    ) -> Result<T, Failure> {
        self.send(self.client.request(Method::GET, self.asked(path, query)).timeout(ANSWER_TIME)).await
    }

    /// As [`Self::get`], where the hall may take `time` more to answer.
    pub(crate) async fn get_waiting<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, Option<String>)],
        time: Duration,
    ) -> Result<T, Failure> {
        self.send(self.client.request(Method::GET, self.asked(path, query)).timeout(ANSWER_TIME + time)).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, Failure> {
        self.send(self.client.request(Method::PUT, self.address(path)).timeout(ANSWER_TIME).json(body)).await
    }

    /// What the hall says as it happens. Ends when the hall ends it, or says nothing for `silence`.
    pub(crate) async fn follow(
        &self,
        path: &[&str],
        query: &[(&str, Option<String>)],
        after: Option<&str>,
        silence: Duration,
    ) -> Result<Events, Failure> {
        let client = client_for_streams(&self.url, silence)?;
        let mut request = client.get(self.asked(path, query)).header(ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let answer = self.answered(request).await?;
        Ok(SseByteStream::new(answer.bytes_stream()).boxed())
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, Failure> {
        self.send(self.client.request(Method::POST, self.address(path)).timeout(ANSWER_TIME).json(body)).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Failure> {
        self.send(self.client.request(Method::DELETE, self.address(path)).timeout(ANSWER_TIME)).await
    }

    /// Segments are encoded: an id cannot reach another path.
    fn address(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        url.set_query(None);
        url.path_segments_mut().expect("a hall's address is http").pop_if_empty().extend(path);
        url
    }

    fn asked(&self, path: &[&str], query: &[(&str, Option<String>)]) -> Url {
        let mut url = self.address(path);
        let given: Vec<_> = query.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        if !given.is_empty() {
            url.query_pairs_mut().extend_pairs(given);
        }
        url
    }

    async fn answered(&self, mut request: RequestBuilder) -> Result<Response, Failure> {
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        if let Some(agent) = &self.agent {
            request = request.header(AGENT_HEADER, agent.as_str());
        }
        let answer = request.send().await.map_err(|error| unreachable(&self.url, &error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.bytes().await.map_err(|error| unreachable(&self.url, &error))?;
        Err(Failure::new(refusal(status, &body, self.named_by)))
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let answer = self.answered(request).await?;
        let body = answer.bytes().await.map_err(|error| unreachable(&self.url, &error))?;
        serde_json::from_slice(&body)
            .map_err(|error| Failure::new(format!("what answers at {} is no hall of this version: {error}", self.url)))
    }
}

pub(crate) fn unreachable(url: &Url, error: &reqwest::Error) -> Failure {
    if error.is_timeout() && !error.is_connect() {
        return Failure::new(format!("the hall at {url} did not answer in time; see `guildhall doctor`"));
    }
    let cause = std::iter::successors(std::error::Error::source(error), |error| error.source()).last();
    let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
    Failure::new(format!(
        "no hall answers at {url}{cause}; start one with `guildhall up`, or name yours with --url or GUILDHALL_URL"
    ))
}

/// The hall's error as one line: what happened and what to do.
fn refusal(status: StatusCode, body: &[u8], named_by: Option<&str>) -> String {
    let Ok(error) = serde_json::from_slice::<guildhall_domain::Error>(body) else {
        return format!(
            "the answer was {status}, in no form that a hall of this version uses; see that --url is right"
        );
    };
    let wait = error.retry_after.map(|wait| format!(" (in {} ms)", wait.as_millis())).unwrap_or_default();
    let hint = match named_by {
        _ if status == StatusCode::UNAUTHORIZED => {
            "; on the command line: --token or GUILDHALL_TOKEN, from `guildhall token issue`".to_owned()
        }
        Some(flag) if error.message.contains(AGENT_HEADER) => format!("; on the command line: {flag} <agent_id>"),
        _ => String::new(),
    };
    format!("{}: {}{wait}{hint}", error.code, error.message)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn hall(url: &str) -> Hall {
        let url = http_url(url).unwrap();
        Hall { client: client(&url, |builder| builder).unwrap(), url, token: None, agent: None, named_by: None }
    }

    #[test]
    fn an_id_cannot_lead_a_call_to_another_path() {
        let hall = hall("http://127.0.0.1:8016/prefix/?x=1");
        assert_eq!(
            hall.address(&["api", "v1", "agents", "a/../b"]).as_str(),
            "http://127.0.0.1:8016/prefix/api/v1/agents/a%2F..%2Fb"
        );
    }

    #[test]
    fn an_error_of_the_hall_is_one_readable_line() {
        let body = br#"{"success":false,"error":"RateLimited","message":"too many requests","retry_after_ms":1500}"#;
        assert_eq!(refusal(StatusCode::TOO_MANY_REQUESTS, body, None), "RateLimited: too many requests (in 1500 ms)");
        assert!(refusal(StatusCode::BAD_GATEWAY, b"<html>", None).contains("502"));
        let body = br#"{"success":false,"error":"AuthenticationError","message":"this hall asks for a token"}"#;
        assert!(refusal(StatusCode::UNAUTHORIZED, body, Some("--from")).contains("--token"));
    }

    #[tokio::test]
    async fn a_hall_that_is_not_there_is_named_with_what_to_do() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let failure = hall(&format!("http://127.0.0.1:{port}")).get::<Value>(&["health"], &[]).await.unwrap_err();
        assert!(failure.message().contains(&format!("127.0.0.1:{port}")), "{failure:?}");
        assert!(failure.message().contains("guildhall up"), "{failure:?}");
    }
}
