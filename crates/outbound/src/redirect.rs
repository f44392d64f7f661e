//! What a redirect asks for, and what may go along.

use guildhall_domain::Result;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use url::Url;

use crate::{failure, target};

pub(crate) enum Step {
    Done,
    Follow { to: Url, method: Method, drops_body: bool },
}

/// Headers that say nothing about the caller and may go to another origin.
const HARMLESS: [HeaderName; 5] =
    [header::ACCEPT, header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE, header::CONTENT_TYPE, header::USER_AGENT];

pub(crate) fn next(from: &Url, method: &Method, response: &reqwest::Response) -> Result<Step> {
    let rewrites = match response.status() {
        // What browsers do: a POST that was moved is fetched.
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => *method == Method::POST,
        StatusCode::SEE_OTHER => *method != Method::HEAD,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => false,
        _ => return Ok(Step::Done),
    };
    let Some(location) = response.headers().get(header::LOCATION) else { return Ok(Step::Done) };
    let to = location.to_str().ok().and_then(|location| from.join(location).ok());
    let to = to.ok_or_else(|| failure::upstream(from, "it redirects to something that is not a URL"))?;
    if target::check(&to).is_err() {
        return Err(failure::upstream(from, "it redirects to what is not a plain http or https URL"));
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(failure::upstream(from, "it redirects from https to http, which would send everything in clear"));
    }
    let method = if rewrites { Method::GET } else { method.clone() };
    Ok(Step::Follow { to, method, drops_body: rewrites })
}

/// Takes out what must not reach another origin: everything that a caller set, since any header may be a key.
pub(crate) fn leave_behind(headers: &mut HeaderMap, from: &Url, to: &Url, drops_body: bool) {
    if from.origin() != to.origin() {
        let kept = HARMLESS.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
        *headers = kept.collect();
    }
    if drops_body {
        headers.remove(header::CONTENT_TYPE);
    }
}

#[cfg(test)]
mod tests {
    use guildhall_domain::ErrorCode;

    use super::*;

    fn step(from: &str, method: Method, status: u16, location: &str) -> Result<Step> {
        let response = http::Response::builder().status(status).header(header::LOCATION, location).body("").unwrap();
        next(&from.parse().unwrap(), &method, &response.into())
    }

    #[test]
    fn what_was_sent_over_https_is_not_sent_again_in_clear() {
        assert_eq!(step("https://a/", Method::GET, 302, "http://a/").err().unwrap().code, ErrorCode::UpstreamError);
        assert!(matches!(step("http://a/", Method::GET, 302, "https://a/"), Ok(Step::Follow { .. })));
        assert!(matches!(step("https://a/", Method::GET, 302, "/b"), Ok(Step::Follow { .. })));
    }

    #[test]
    fn a_redirect_to_another_scheme_or_with_a_password_is_not_followed() {
        for location in ["file:///etc/passwd", "gopher://a/", "http://user:pass@b/", "http://user@b/", "http://[::"] {
            let error = step("http://a/", Method::GET, 302, location).err().unwrap();
            assert_eq!(error.code, ErrorCode::UpstreamError, "{location}");
            assert!(!error.message.contains("pass@"), "{error}");
        }
    }

    #[test]
    fn a_method_changes_only_where_browsers_change_it() {
        let followed = |method: Method, status| match step("http://a/", method, status, "/b").unwrap() {
            Step::Follow { method, drops_body, .. } => Some((method, drops_body)),
            Step::Done => None,
        };
        assert_eq!(followed(Method::POST, 301), Some((Method::GET, true)));
        assert_eq!(followed(Method::POST, 302), Some((Method::GET, true)));
        assert_eq!(followed(Method::PUT, 302), Some((Method::PUT, false)));
        assert_eq!(followed(Method::PUT, 303), Some((Method::GET, true)));
        assert_eq!(followed(Method::HEAD, 303), Some((Method::HEAD, false)));
        assert_eq!(followed(Method::POST, 307), Some((Method::POST, false)));
        assert_eq!(followed(Method::POST, 308), Some((Method::POST, false)));
        assert_eq!(followed(Method::GET, 304), None);
        assert_eq!(followed(Method::GET, 200), None);
    }
}
