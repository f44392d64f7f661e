//! Scenarios over the whole program, each on both shapes: the harness. The scenarios are in `tests/scenarios/`.
//!
//! A scenario is an async function over a [`Hall`], listed in [`scenarios!`], which stamps one test for each shape;
//! there is no way to list it for one shape alone. The program under test is the real binary, its engines are real,
//! and everything it is asked goes over the wire.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test fails by panicking")]

pub mod caller;
pub mod collector;
pub mod engine;
pub mod faultrun;
mod front;
pub mod hall;
pub mod load;
pub mod mcp;
pub mod program;
pub mod raw;
pub mod setup;
pub mod socket;
pub mod wire;

pub use caller::{Answer, Caller};
pub use guildhall_testkit::engines::eventually;
pub use hall::Hall;
pub use setup::{Setup, Shape};

/// Stamps each scenario for both shapes: `name(setup);` where `name` is an `async fn(hall: &Hall)`.
#[macro_export]
macro_rules! scenarios {
    ($($name:ident($setup:expr);)+) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn embedded() {
                if let Some(hall) = $crate::Hall::start($crate::Shape::Embedded, $setup).await {
                    super::$name(&hall).await;
                }
            }

            #[tokio::test]
            async fn distributed() {
                if let Some(hall) = $crate::Hall::start($crate::Shape::Distributed, $setup).await {
                    super::$name(&hall).await;
                }
            }
        }
    )+};
}
