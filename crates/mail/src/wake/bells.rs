//! Who waits for what in this process, and is woken when there is news of it.

use std::{collections::HashMap, sync::Arc};

use guildhall_domain::{
    TenantId,
    mail::{Mailbox, MessageId},
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Who waits beyond that is not woken: it only looks by itself. A place takes some 200 bytes.
const SEATS_MAX: usize = 100_000;

/// What someone waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Bell {
    Mailbox(TenantId, Mailbox),
    Request(TenantId, MessageId),
}

#[derive(Default)]
pub(super) struct Bells(Mutex<Seats>);

#[derive(Default)]
struct Seats {
    by_bell: HashMap<Bell, Vec<Arc<Notify>>>,
    taken: usize,
}

impl Bells {
    pub(super) fn ring(&self, bells: impl IntoIterator<Item = Bell>) {
        let seats = self.0.lock();
        if seats.taken == 0 {
            return;
        }
        for bell in bells {
            seats.by_bell.get(&bell).into_iter().flatten().for_each(|notify| notify.notify_one());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().taken == 0
    }
}

/// A place at some bells. Whoever sits there hears every ring since it sat down.
pub(super) struct Seat {
    bells: Arc<Bells>,
    at: Vec<Bell>,
    notify: Arc<Notify>,
}

impl Seat {
    pub(super) fn take(bells: &Arc<Bells>, mut at: Vec<Bell>) -> Self {
        let notify = Arc::new(Notify::new());
        let mut seats = bells.0.lock();
        if seats.taken + at.len() > SEATS_MAX {
            at.clear();
        }
        seats.taken += at.len();
        for bell in &at {
            seats.by_bell.entry(bell.clone()).or_default().push(notify.clone());
        }
        drop(seats);
        Self { bells: bells.clone(), at, notify }
    }

    pub(super) async fn rung(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.bells.0.lock();
        seats.taken -= self.at.len();
        for bell in &self.at {
            if let Some(there) = seats.by_bell.get_mut(bell) {
                there.retain(|notify| !Arc::ptr_eq(notify, &self.notify));
                if there.is_empty() {
                    seats.by_bell.remove(bell);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_place_is_given_up_when_its_taker_goes_and_no_ring_since_it_sat_down_is_lost() {
        let bells = Arc::new(Bells::default());
        let (a, b) = (
            Bell::Mailbox(TenantId::default(), Mailbox::Pool("a".into())),
            Bell::Mailbox(TenantId::default(), Mailbox::Pool("b".into())),
        );
        let first = Seat::take(&bells, vec![a.clone(), b.clone()]);
        let second = Seat::take(&bells, vec![b.clone()]);
        bells.ring([b.clone()]);
        timeout(Duration::from_secs(5), first.rung()).await.expect("the first was not woken");
        timeout(Duration::from_secs(5), second.rung()).await.expect("the second was not woken");
        drop(first);
        bells.ring([a]);
        bells.ring([b]);
        timeout(Duration::from_secs(5), second.rung()).await.expect("who stayed was not woken");
        drop(second);
        assert!(bells.is_empty() && bells.0.lock().by_bell.is_empty());
    }
}
