//! Wakes those who replay a topic and have read all there is.

use std::{collections::HashMap, sync::Arc};

use guildhall_domain::{TenantId, ports::bus::Topic};
use parking_lot::Mutex;
use tokio::sync::watch;

type Name = (TenantId, Topic);

/// One signal a topic that somebody waits for: its map is as large as what is waited for.
#[derive(Clone, Default)]
pub(super) struct Tails {
    signals: Arc<Mutex<HashMap<Name, watch::Sender<()>>>>,
}

/// Held by whoever waits.
pub(super) struct Tail {
    tails: Tails,
    name: Name,
    signal: watch::Receiver<()>,
}

impl Tails {
    pub(super) fn wait_for(&self, tenant: &TenantId, topic: &Topic) -> Tail {
        let name = (tenant.clone(), topic.clone());
        let signal = self.signals.lock().entry(name.clone()).or_default().subscribe();
        Tail { tails: self.clone(), name, signal }
    }

    pub(super) fn wake(&self, tenant: &TenantId, topic: &Topic) {
        if let Some(signal) = self.signals.lock().get(&(tenant.clone(), topic.clone())) {
            signal.send_replace(());
        }
    }
}

impl Tail {
    /// Whatever is committed from here on makes [`Self::woken`] return: called before the table is read.
    pub(super) fn forget(&mut self) {
        self.signal.mark_unchanged();
    }

    pub(super) async fn woken(&mut self) {
        self.signal.changed().await.expect("the signal stays while this tail waits for it");
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let mut signals = self.tails.signals.lock();
        if signals.get(&self.name).is_some_and(|signal| signal.receiver_count() <= 1) {
            signals.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_topic_is_forgotten_when_the_last_who_waits_is_gone_and_not_before() {
        let tails = Tails::default();
        let (tenant, topic) = (TenantId::default(), Topic::new("a").unwrap());
        let first = tails.wait_for(&tenant, &topic);
        let mut second = tails.wait_for(&tenant, &topic);
        drop(first);
        tails.wake(&tenant, &topic);
        second.woken().await;
        drop(second);
        assert!(tails.signals.lock().is_empty());
    }
}
