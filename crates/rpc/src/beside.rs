//! Several services at one address.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::Either;
use http::{Request, Response};
use tonic::{body::Body, server::NamedService};
use tower::Service;

/// Two generated servers as one: the call goes to the one that its path names, and to the other if it does not name
/// the first. That may be such a pair again. Nothing is boxed, and a call in process costs one comparison of strings
/// for each server that it passes.
#[derive(Debug, Clone)]
pub struct Beside<A, B> {
    one: A,
    other: B,
}

impl<A, B> Beside<A, B> {
    pub fn new(one: A, other: B) -> Self {
        Self { one, other }
    }
}

impl<A, B> Service<Request<Body>> for Beside<A, B>
where
    A: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
    B: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<A::Future, B::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self.one.poll_ready(cx) {
            Poll::Ready(_) => self.other.poll_ready(cx),
            Poll::Pending => Poll::Pending,
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_for(A::NAME, request.uri().path()) {
            Either::Left(self.one.call(request))
        } else {
            Either::Right(self.other.call(request))
        }
    }
}

/// A path is `/<service>/<method>`.
fn is_for(service: &str, path: &str) -> bool {
    path.strip_prefix('/').and_then(|path| path.strip_prefix(service)).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_goes_to_the_service_whose_whole_name_its_path_begins_with() {
        assert!(is_for("hall.v1.Mail", "/hall.v1.Mail/Send"));
        for path in ["/hall.v1.MailBox/Send", "/hall.v1.Mail", "hall.v1.Mail/Send", "/x/hall.v1.Mail/Send", "/"] {
            assert!(!is_for("hall.v1.Mail", path), "{path}");
        }
    }
}
