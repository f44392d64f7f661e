//! How one service calls another, over a socket or within the process, without either side knowing which.
//!
//! A call's way: the client adapter of a service puts the [`Call`](guildhall_domain::Call) around its message
//! ([`call::outgoing`]) and hands it to a generated client over a [`Transport`]; the transport brings it to the
//! generated server, remote or in process, with its deadline kept and panics caught; the server adapter takes the
//! `Call` back out ([`call::incoming`]). Errors travel whole, as the details of a gRPC status ([`status`]).
//!
//! Every generated client and server is given its largest message in both directions, [`MESSAGE_MAX_BYTES`] unless it
//! has reason for another, so that both ends refuse what is too large; the caller gets `PayloadTooLarge`.

mod answer;
mod beside;
pub mod call;
pub mod house;
mod in_process;
mod remote;
mod request_body;
mod response_body;
mod serve;
pub mod status;
mod transport;
pub mod wire;

pub use beside::Beside;
pub use remote::RemoteOptions;
pub use serve::{ServeOptions, serve};
pub use transport::Transport;

/// The largest message between services: a list of messages may be 4 MiB (contract, section 4); the rest is room for
/// what travels around it.
pub const MESSAGE_MAX_BYTES: usize = 5 * 1024 * 1024;

/// Metadata that holds the secret by which services of one hall know each other.
pub(crate) const CLUSTER_HEADER: &str = "x-guildhall-cluster";
