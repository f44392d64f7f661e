//! What was done, kept so that a change afterwards shows.
//!
//! Acts of policy are rows of their own transactions; calls are gathered by the [`recorder`] and written in batches.
//! A tenant's [`sealer`] chains the rows in the order in which it finds them, and [`verify`] walks the chain again.
//! What the hash of a row is over is said once, in [`chain`].

pub mod chain;
pub mod recorder;
pub mod sealer;
pub mod verify;

pub use recorder::{Flusher, Recorder, RecorderOptions};
pub use sealer::seal_tenant;
pub use verify::verify;
