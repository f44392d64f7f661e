//! Who may do what, what was done, and how secrets are kept. Every service calls these; none has its own.
//!
//! - [`operation`]: everything that can be asked of the hall, with the rule of each, as one table;
//! - [`policy`]: roles, and [`policy::Policy::authorize`], which every port method and route calls first;
//! - [`token`]: the hall's own tokens, made and judged;
//! - [`seal`]: secrets at rest; [`secret`]: secrets in memory; [`webhook`]: secrets that webhooks are signed with;
//! - [`audit`]: the chain over what was done, its sealing and verifying, and the recorder for what is batched.
//!
//! Nothing here does I/O: stores and sinks are passed in.

pub mod audit;
pub mod operation;
pub mod policy;
pub mod seal;
pub mod secret;
pub mod token;
pub mod webhook;

pub use operation::Operation;
pub use policy::{Policy, Target};
pub use seal::KeyRing;
pub use secret::{ExposeSecret, Secret};
