//! What never leaves the process need not be written out and read again.
//!
//! A client marks its request with an extension, which no socket carries. A server that finds the mark puts its answer
//! beside an empty message, as it is; and what is asked may come beside an empty message as well, where the client
//! knows that its transport is in process. The call still goes through every layer: its deadline, its principal, its
//! limits. Used for what is asked all the time.

use tonic::{Request, Response};

#[derive(Clone, Copy)]
struct SameHouse;

#[derive(Clone)]
struct Value<T>(T);

/// Asks for the answer as it is, if the server is in this process.
pub fn mark<M>(mut request: Request<M>) -> Request<M> {
    request.extensions_mut().insert(SameHouse);
    request
}

pub fn is_marked<M>(request: &Request<M>) -> bool {
    request.extensions().get::<SameHouse>().is_some()
}

/// Marks the request and puts what is asked beside its message. Only over a transport that is in process: the message
/// alone would arrive elsewhere.
pub fn hand_in<M, T: Clone + Send + Sync + 'static>(request: Request<M>, asked: T) -> Request<M> {
    let mut request = mark(request);
    request.extensions_mut().insert(Value(asked));
    request
}

/// What was handed in, if anything was.
pub fn asked<M, T: Clone + Send + Sync + 'static>(request: &mut Request<M>) -> Option<T> {
    request.extensions_mut().remove::<Value<T>>().map(|Value(asked)| asked)
}

pub fn hand_over<M: Default, T: Clone + Send + Sync + 'static>(answer: T) -> Response<M> {
    let mut response = Response::new(M::default());
    response.extensions_mut().insert(Value(answer));
    response
}

/// The answer itself, or the message it came as.
pub fn take<M, T: Clone + Send + Sync + 'static>(mut response: Response<M>) -> Result<T, M> {
    match response.extensions_mut().remove::<Value<T>>() {
        Some(Value(answer)) => Ok(answer),
        None => Err(response.into_inner()),
    }
}
