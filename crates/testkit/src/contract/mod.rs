//! What every engine behind a port must do, said once: named tests over `Arc<dyn Port>`, which each engine's crate
//! stamps for each of its backends, once bare and once behind [`crate::fault::Faulty`].

pub mod bus;
pub mod hot;
pub mod mail;
pub mod mail_store;
pub mod registry;
pub mod store;
mod time;
pub mod topic_store;

use std::time::Duration;

use guildhall_domain::{Error, ErrorCode, Result};

pub use self::time::Time;

/// How often a caller repeats before it gives up: a fault in three calls leaves less than one in a million.
const ATTEMPTS: u32 = 20;

/// What a right caller does with an idempotent call whose answer was lost: it asks again.
pub async fn insist<T, F: Future<Output = Result<T>>>(call: impl Fn() -> F) -> Result<T> {
    let mut last = Error::internal("no attempt was made");
    for _ in 0..ATTEMPTS {
        match call().await {
            Err(error) if error.retryable && error.code != ErrorCode::RateLimited => last = error,
            answer => return answer,
        }
    }
    Err(last)
}

/// Waits until `look` finds something: reads may be stale, and may be lost, for a while. A minute at most, which only a
/// failure takes.
pub async fn eventually<T, F: Future<Output = Result<Option<T>>>>(what: &str, look: impl Fn() -> F) -> T {
    let found = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            if let Some(found) = insist(&look).await.expect(what) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    match found.await {
        Ok(found) => found,
        Err(_) => panic!("waited a minute in vain: {what}"),
    }
}
