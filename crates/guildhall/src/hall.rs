//! A running hall as the command line sees it: REST, its errors as one readable line.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use guildhall_guard::{ExposeSecret, Secret};
use reqwest::{ClientBuilder, Method, RequestBuilder, StatusCode, header::AUTHORIZATION};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::{Host, Url};

use crate::failure::Failure;

/// A hall that is there takes a connection in far less.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Longer than the hall gives itself for a call.
const ANSWER_TIME: Duration = Duration::from_secs(60);

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
            client: client(&self.url, |builder| builder.timeout(ANSWER_TIME))?,
            url: self.url.clone(),
            token: self.token()?,
        })
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
}

impl Hall {
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, Option<String>)],
    ) -> Result<T, Failure> {
        let mut url = self.address(path);
        let given: Vec<_> = query.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        if !given.is_empty() {
            url.query_pairs_mut().extend_pairs(given);
        }
        self.send(self.client.request(Method::GET, url)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &Value) -> Result<T, Failure> {
        self.send(self.client.request(Method::POST, self.address(path)).json(body)).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Failure> {
        self.send(self.client.request(Method::DELETE, self.address(path))).await
    }

    /// Segments are encoded: an id cannot reach another path.
    fn address(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        url.set_query(None);
        url.path_segments_mut().expect("a hall's address is http").pop_if_empty().extend(path);
        url
    }

    async fn send<T: DeserializeOwned>(&self, mut request: RequestBuilder) -> Result<T, Failure> {
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        let answer = request.send().await.map_err(|error| unreachable(&self.url, &error))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| unreachable(&self.url, &error))?;
        if !status.is_success() {
            return Err(Failure::new(refusal(status, &body)));
        }
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
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let Ok(error) = serde_json::from_slice::<guildhall_domain::Error>(body) else {
        return format!(
            "the answer was {status}, in no form that a hall of this version uses; see that --url is right"
        );
    };
    let wait = error.retry_after.map(|wait| format!(" (in {} ms)", wait.as_millis())).unwrap_or_default();
    let hint = if status == StatusCode::UNAUTHORIZED {
        "; on the command line: --token or GUILDHALL_TOKEN, from `guildhall token issue`"
    } else {
        ""
    };
    format!("{}: {}{wait}{hint}", error.code, error.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hall(url: &str) -> Hall {
        let url = http_url(url).unwrap();
        Hall { client: client(&url, |builder| builder).unwrap(), url, token: None }
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
        assert_eq!(refusal(StatusCode::TOO_MANY_REQUESTS, body), "RateLimited: too many requests (in 1500 ms)");
        assert!(refusal(StatusCode::BAD_GATEWAY, b"<html>").contains("502"));
        let body = br#"{"success":false,"error":"AuthenticationError","message":"this hall asks for a token"}"#;
        assert!(refusal(StatusCode::UNAUTHORIZED, body).contains("--token"));
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
