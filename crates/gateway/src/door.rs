//! What every request passes before its route: it is counted and traced, a panic becomes an answer, and `Host` and
//! `Origin` are checked, so that no web page can reach a hall on this machine by a name of its own (DNS rebinding).

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Uri, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use guildhall_domain::Error;
use tracing::Instrument as _;

use crate::error::Refusal;

/// Names under which this gateway may be addressed, and web origins that may address it.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Host names, with or without a port; `*`: any. Loopback names are always allowed.
    pub hosts: Vec<String>,
    /// Origins such as `https://console.example.com`. A page served by the hall itself is always allowed.
    pub origins: Vec<String>,
}

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

impl Admission {
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Error> {
        let host = authority(uri, headers)?;
        if !self.hosts_allow(host) {
            return Err(Error::denied(format!(
                "this hall does not answer to the host {host:?}; an operator can add it to gateway.allowed_hosts"
            )));
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Ok(()),
            (Some(origin), None) if origin.to_str().is_ok_and(|origin| self.origins_allow(origin, host)) => Ok(()),
            _ => Err(Error::denied(
                "web pages of this origin may not call the hall; an operator can add it to gateway.allowed_origins",
            )),
        }
    }

    fn hosts_allow(&self, host: &str) -> bool {
        let name = without_port(host);
        LOOPBACK.iter().any(|known| known.eq_ignore_ascii_case(name))
            || self
                .hosts
                .iter()
                .any(|known| known == "*" || known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(name))
    }

    fn origins_allow(&self, origin: &str, host: &str) -> bool {
        let own = ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme) == Some(host));
        own || self.origins.iter().any(|known| known.eq_ignore_ascii_case(origin))
    }
}

/// HTTP/2 carries the authority in the address, HTTP/1.1 in a header, which must be there once.
fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, Error> {
    let mut all = headers.get_all(header::HOST).iter();
    match (all.next(), all.next()) {
        (Some(host), None) => host.to_str().map_err(|_| Error::invalid("the Host header is not readable")),
        (None, _) => uri.authority().map(|a| a.as_str()).ok_or_else(|| Error::invalid("the request names no Host")),
        _ => Err(Error::invalid("the request names more than one Host")),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // The colons of an IPv6 address stand within brackets.
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// Probes address a pod by its number, and learn nothing but whether it lives.
fn is_probe(uri: &Uri) -> bool {
    matches!(uri.path(), "/health" | "/ready")
}

pub(crate) async fn admit(State(admission): State<Arc<Admission>>, request: Request, next: Next) -> Response {
    if !is_probe(request.uri())
        && let Err(error) = admission.check(request.uri(), request.headers())
    {
        return Refusal(error).into_response();
    }
    next.run(request).await
}

/// One span and three figures a request. The route's pattern is the label, never the path: agents name paths.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().as_str().to_owned();
    let span = tracing::info_span!(
        "http.request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = %method,
        http.route = %route,
        http.response.status_code = tracing::field::Empty,
        principal = tracing::field::Empty,
    );
    guildhall_runtime::telemetry::set_parent(&span, &crate::identity::trace_of(request.headers()));
    let began = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    span.record("http.response.status_code", status);
    // Methods are few only as long as nobody invents some.
    let method = if matches!(method.as_str(), "GET" | "POST" | "PUT" | "DELETE") { method } else { "other".into() };
    let labels = [("route", route), ("method", method), ("status", status.to_string())];
    metrics::counter!("guildhall_http_requests_total", &labels).increment(1);
    metrics::histogram!("guildhall_http_request_seconds", &labels[..2]).record(began.elapsed().as_secs_f64());
    response
}

/// What a caller sees of a panic. The panic hook has logged it.
pub(crate) fn on_panic(_: Box<dyn std::any::Any + Send>) -> Response {
    Refusal(Error::internal("the hall failed at this request and is sorry; its log says where")).into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn check(admission: &Admission, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        admission.check(&Uri::from_static("/mcp"), &headers).is_ok()
    }

    #[test]
    fn a_foreign_host_or_origin_is_refused() {
        let hall = Admission { hosts: vec!["hall.example".into()], origins: vec!["https://console.example".into()] };
        for host in ["localhost", "LOCALHOST:8016", "127.0.0.1:8016", "[::1]:8016", "hall.example", "hall.example:443"]
        {
            assert!(check(&hall, host, None), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8016", "[::2]", "[::1]x:80"] {
            assert!(!check(&hall, host, None), "{host}");
        }
        assert!(check(&hall, "localhost:8016", Some("http://localhost:8016")), "the hall's own page");
        assert!(check(&hall, "localhost:8016", Some("https://console.example")));
        for origin in ["http://localhost:9", "https://evil.example", "null", "https://console.example.evil"] {
            assert!(!check(&hall, "localhost:8016", Some(origin)), "{origin}");
        }
    }

    #[test]
    fn two_hosts_or_two_origins_are_refused() {
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(Admission::default().check(&Uri::from_static("/"), &headers).is_err());
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        headers.append(header::ORIGIN, HeaderValue::from_static("http://localhost"));
        headers.append(header::ORIGIN, HeaderValue::from_static("https://evil.example"));
        assert!(Admission::default().check(&Uri::from_static("/"), &headers).is_err());
    }
}
