//! Names become addresses here, once a connection, and are checked before the connection is made to them.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::address::AddressRules;

#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's: hosts file, search domains, name servers.
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// Gives the connector addresses that passed the rules, all of them or none: a name with one private address among
/// public ones is a trap or a mistake.
pub(crate) struct CheckedResolver {
    resolver: Arc<dyn Resolver>,
    rules: Arc<AddressRules>,
}

impl CheckedResolver {
    pub(crate) fn new(resolver: Arc<dyn Resolver>, rules: Arc<AddressRules>) -> Self {
        Self { resolver, rules }
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, rules) = (self.resolver.clone(), self.rules.clone());
        Box::pin(async move {
            let addresses = resolver.addresses(name.as_str()).await?;
            for address in &addresses {
                if let Some(kind) = rules.objection(*address) {
                    tracing::warn!(
                        net.host = name.as_str(),
                        net.address = %address,
                        "refused to call {}: {address} is {kind}",
                        name.as_str()
                    );
                    return Err(NotPublic { host: name.as_str().to_owned(), kind }.into());
                }
            }
            // Port 0 stands for the URL's own.
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

/// A name that must not be called. Found again by its type in the error of the request.
#[derive(Debug)]
pub(crate) struct NotPublic {
    host: String,
    kind: &'static str,
}

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} resolves to an address that is {}", self.host, self.kind)
    }
}

impl std::error::Error for NotPublic {}
