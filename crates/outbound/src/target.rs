//! Where a request may go, as far as the URL and the headers alone can tell.

use std::net::IpAddr;

use guildhall_domain::{Error, Result};
use http::{HeaderMap, HeaderName, header};
use url::{Host, Url};

use crate::address::AddressRules;

/// Headers that are the client's own: set by a caller they would address another host or break the framing.
const OURS: [HeaderName; 9] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
];

/// Odd spellings of addresses (decimal, octal, hexadecimal, full-width) come out of parsing as what they mean.
pub(crate) fn parse(text: &str) -> Result<Url> {
    let url = Url::parse(text).map_err(|error| {
        Error::invalid(format!("the address is not a URL ({error}): write it like https://host/path"))
    })?;
    check(&url)?;
    Ok(url)
}

pub(crate) fn check(url: &Url) -> Result<()> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Error::invalid(format!("the scheme {} is not called: use http or https", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::invalid("the URL holds a user name or password: send them in a header instead"));
    }
    Ok(())
}

pub(crate) fn check_headers(headers: &HeaderMap) -> Result<()> {
    match OURS.iter().find(|name| headers.contains_key(*name)) {
        Some(name) => Err(Error::invalid(format!("the header {name} is set by the hall itself: leave it out"))),
        None => Ok(()),
    }
}

/// An address in the URL itself never reaches the resolver. Names do.
pub(crate) fn check_literal(url: &Url, rules: &AddressRules) -> Result<()> {
    let address: IpAddr = match url.host() {
        Some(Host::Ipv4(address)) => address.into(),
        Some(Host::Ipv6(address)) => address.into(),
        Some(Host::Domain(_)) | None => return Ok(()),
    };
    match rules.objection(address) {
        None => Ok(()),
        Some(kind) => Err(refused(format!("the address {address} is {kind}"))),
    }
}

/// `which` must not tell a user what a name of the inside stands for.
pub(crate) fn refused(which: impl std::fmt::Display) -> Error {
    Error::denied(format!(
        "{which}; the hall calls public addresses only. An operator can allow a network under outbound.allow"
    ))
}
