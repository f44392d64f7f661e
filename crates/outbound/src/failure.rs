//! What went wrong with a request, in the words of the house. URLs are named by their origin only: paths and queries
//! may hold keys.

use std::error::Error as Cause;

use guildhall_domain::{Error, ErrorCode};
use url::Url;

use crate::{resolver::NotPublic, target};

pub(crate) fn of_request(error: reqwest::Error, url: &Url) -> Error {
    if let Some(refused) = causes(&error).find_map(|cause| cause.downcast_ref::<NotPublic>()) {
        return target::refused(refused);
    }
    // Before a connection stands nothing can have taken effect.
    if error.is_connect() {
        let cause = if error.is_timeout() { "no answer to the connection".to_owned() } else { last_cause(&error) };
        let message = format!("{} cannot be reached: {cause}", shown(url));
        return Error { retryable: true, ..Error::new(ErrorCode::ConnectionError, message) };
    }
    if error.is_timeout() {
        return too_slow(url);
    }
    upstream(url, last_cause(&error))
}

pub(crate) fn too_slow(url: &Url) -> Error {
    Error::timeout(format!("{} did not answer in time; whether the request took effect is not known", shown(url)))
}

pub(crate) fn upstream(url: &Url, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::UpstreamError, format!("{} did not answer properly: {what}", shown(url)))
}

/// Nearly always: a container without certificates.
pub(crate) fn no_client(error: &reqwest::Error) -> Error {
    Error::unavailable(format!(
        "the hall cannot call out: {}. Install the system's CA certificates (ca-certificates) or set SSL_CERT_FILE",
        last_cause(error)
    ))
}

fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn last_cause(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| "the request failed".to_owned(), ToString::to_string)
}

/// What lies under reqwest's own error, which repeats the URL.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Cause + 'static)> {
    // The two stars reach the cause itself: a reference to one is an error too, and would lend it too shortly.
    std::iter::successors(error.source(), |cause| (**cause).source())
}
