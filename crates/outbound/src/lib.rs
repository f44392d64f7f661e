//! The one HTTP client for addresses that users give: webhooks, upstream servers.
//!
//! Whoever may name an address could otherwise reach what only the hall can reach: the database beside it, a router,
//! the cloud's metadata service. So, for every hop of a request:
//! 1. [`target`]: the URL is http or https, without a user's name in it;
//! 2. [`address`]: every address it stands for is public, or in a network that the operator allows;
//! 3. [`resolver`]: names are resolved inside the connection, checked there, and the connection made to what was
//!    checked; there is no second look-up whose answer could differ;
//! 4. [`redirect`]: a redirect is a hop of its own, and leaves headers behind when it leaves the origin.
//!
//! Answers are bounded in size, everything in time. Connections are kept and shared by all callers: which connection
//! a request takes depends on its origin alone.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use guildhall_domain::{Error, Result};
use http::{HeaderMap, Method};
use ipnet::IpNet;
use tokio::{sync::OnceCell, time::Instant};

pub mod address;
mod answer;
mod failure;
mod redirect;
pub mod resolver;
mod target;

pub use answer::Answer;

use crate::{
    address::AddressRules,
    redirect::Step,
    resolver::{CheckedResolver, Resolver, SystemResolver},
};

#[derive(Debug, Clone)]
pub struct OutboundOptions {
    /// Private networks that may be called all the same.
    pub allow_private: Vec<IpNet>,
    pub connect_timeout: Duration,
    /// Silence within an answer, not its whole length.
    pub read_timeout: Duration,
    pub max_redirects: usize,
    pub max_body_bytes: usize,
    pub user_agent: String,
}

impl Default for OutboundOptions {
    fn default() -> Self {
        Self {
            allow_private: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            // Enough for http to https and a moved path; more is a loop or a game.
            max_redirects: 3,
            // The contract's largest file.
            max_body_bytes: 16 * 1024 * 1024,
            user_agent: concat!("guildhall/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Whether this is the URL of something that might be called; its addresses are judged when it is.
pub fn check_url(url: &str) -> Result<()> {
    target::parse(url).map(drop)
}

/// What is to be sent. The body is kept whole, so that it can be sent again after a redirect.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// False where an answer that points elsewhere is the answer.
    pub follows_redirects: bool,
}

impl Request {
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: HeaderMap::new(), body: Bytes::new(), follows_redirects: true }
    }
}

/// Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Outbound(Arc<Inner>);

struct Inner {
    options: OutboundOptions,
    rules: Arc<AddressRules>,
    resolver: Arc<dyn Resolver>,
    /// Made at the first call: it reads the system's certificates, which a start need not wait for.
    client: OnceCell<reqwest::Client>,
}

/// Idle connections kept for each origin, and for how long.
const IDLE_PER_ORIGIN: usize = 8;
const IDLE_FOR: Duration = Duration::from_secs(90);

impl Outbound {
    pub fn new(options: OutboundOptions) -> Self {
        Self::with_resolver(options, Arc::new(SystemResolver))
    }

    /// Names are looked up by `resolver`; what it answers is checked like any other answer.
    pub fn with_resolver(options: OutboundOptions, resolver: Arc<dyn Resolver>) -> Self {
        let rules = Arc::new(AddressRules::new(options.allow_private.clone()));
        Self(Arc::new(Inner { options, rules, resolver, client: OnceCell::new() }))
    }

    /// Sends the request and follows its redirects unless it says otherwise, all within `time`; the answer's body
    /// counts towards it.
    pub async fn send(&self, request: Request, time: Duration) -> Result<Answer> {
        let deadline = Instant::now() + time;
        let mut url = target::parse(&request.url)?;
        target::check_headers(&request.headers)?;
        let (mut method, mut headers, mut body) = (request.method, request.headers, request.body);
        let client = self.client().await?;
        for _ in 0..=self.0.options.max_redirects {
            target::check_literal(&url, &self.0.rules)?;
            let hop = client.request(method.clone(), url.clone()).headers(headers.clone()).body(body.clone());
            let response = match tokio::time::timeout_at(deadline, hop.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(failure::of_request(error, &url)),
                Err(_) => return Err(failure::too_slow(&url)),
            };
            let next = if request.follows_redirects { redirect::next(&url, &method, &response)? } else { Step::Done };
            match next {
                Step::Done => return Ok(Answer::new(response, url, deadline, self.0.options.max_body_bytes)),
                Step::Follow { to, method: next_method, drops_body } => {
                    if drops_body {
                        body = Bytes::new();
                    }
                    redirect::leave_behind(&mut headers, &url, &to, drops_body);
                    (url, method) = (to, next_method);
                }
            }
        }
        Err(failure::upstream(&url, format!("it redirected more than {} times", self.0.options.max_redirects)))
    }

    async fn client(&self) -> Result<&reqwest::Client> {
        let Inner { options, rules, resolver, client } = &*self.0;
        let made = client.get_or_try_init(|| async {
            let resolver = CheckedResolver::new(resolver.clone(), rules.clone());
            let builder = reqwest::Client::builder()
                .dns_resolver(resolver)
                // A proxy would look names up by itself, unchecked.
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .connect_timeout(options.connect_timeout)
                .read_timeout(options.read_timeout)
                .pool_max_idle_per_host(IDLE_PER_ORIGIN)
                .pool_idle_timeout(IDLE_FOR)
                .user_agent(&options.user_agent);
            // The certificates are read from disk.
            match tokio::task::spawn_blocking(move || builder.build()).await {
                Ok(Ok(client)) => Ok(client),
                Ok(Err(error)) => Err(failure::no_client(&error)),
                Err(_) => Err(Error::internal("the HTTP client could not be made; the log has the cause")),
            }
        });
        made.await
    }
}
