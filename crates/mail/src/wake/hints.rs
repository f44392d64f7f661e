//! Hints of mail and requests, to other processes and from them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use guildhall_domain::{
    Clock, Entropy, Principal, Result, TenantId, TraceContext,
    mail::{Mailbox, MessageId, RequestState, subject},
    ports::{
        Bus,
        bus::{Envelope, Hint, Subject},
    },
};
use guildhall_runtime::Trouble;
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    News,
    bells::{Bell, Bells},
};
use crate::SERVICE;

/// News that are put together into as few hints as they fit.
const TOGETHER: usize = 512;
/// Mailboxes in one hint: 70 KB at most, where a bus takes 512.
const IN_A_HINT: usize = 500;
const HINT_WITHIN: Duration = Duration::from_secs(2);
/// Carried by hints, so that a process passes over its own.
const ORIGIN: &str = "origin";

#[derive(Serialize, Deserialize)]
pub(crate) struct WaitingHint {
    pub(crate) mailboxes: Vec<Mailbox>,
}

#[derive(Serialize, Deserialize)]
struct RequestHint {
    request_id: MessageId,
    state: RequestState,
}

/// Says what is queued to the other processes.
pub(super) struct Outlet {
    queue: mpsc::Receiver<News>,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    origin: String,
}

impl Outlet {
    pub(super) fn new(queue: mpsc::Receiver<News>, bus: Arc<dyn Bus>, clock: Arc<dyn Clock>, origin: String) -> Self {
        Self { queue, bus, clock, origin }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut news = Vec::with_capacity(TOGETHER);
        loop {
            tokio::select! {
                biased;
                some = self.queue.recv_many(&mut news, TOGETHER) => {
                    if some == 0 {
                        return;
                    }
                    self.say(news.drain(..)).await;
                }
                () = stop.cancelled() => break,
            }
        }
        self.queue.close();
        let rest = async {
            while self.queue.recv_many(&mut news, TOGETHER).await > 0 {
                self.say(news.drain(..)).await;
            }
        };
        if timeout(HINT_WITHIN, rest).await.is_err() {
            tracing::debug!("hints about mail were lost: the bus is slow and the process stops");
        }
    }

    async fn say(&self, news: impl Iterator<Item = News>) {
        let mut waiting: HashMap<TenantId, (BTreeSet<Mailbox>, TraceContext)> = HashMap::new();
        for piece in news {
            match piece {
                News::Waiting { tenant, mailboxes, trace } => {
                    waiting.entry(tenant).or_insert_with(|| (BTreeSet::new(), trace)).0.extend(mailboxes);
                }
                News::Request { tenant, request_id, state, trace } => {
                    self.hint(subject::REQUEST, tenant, trace, &RequestHint { request_id, state }).await;
                }
            }
        }
        for (tenant, (mailboxes, trace)) in waiting {
            let mut mailboxes = mailboxes.into_iter().peekable();
            while mailboxes.peek().is_some() {
                let some = WaitingHint { mailboxes: mailboxes.by_ref().take(IN_A_HINT).collect() };
                self.hint(subject::WAITING, tenant.clone(), trace.clone(), &some).await;
            }
        }
    }

    async fn hint(&self, subject: Subject, tenant: TenantId, trace: TraceContext, payload: &impl Serialize) {
        let payload = serde_json::to_vec(payload).expect("names and ids can be written as JSON").into();
        let principal = Principal::hall(tenant, SERVICE);
        let headers = vec![(ORIGIN.to_owned(), self.origin.clone())];
        let envelope = Envelope { principal, trace, at: self.clock.now(), headers, payload };
        match timeout(HINT_WITHIN, self.bus.hint(subject, envelope)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, %subject, "a hint was lost"),
            Err(_) => tracing::debug!(%subject, "a hint was lost: the bus is slow"),
        }
    }
}

/// Hears what other processes say.
pub(super) struct Ear {
    bus: Arc<dyn Bus>,
    bells: Arc<Bells>,
    origin: String,
    entropy: Arc<dyn Entropy>,
}

impl Ear {
    pub(super) fn new(bus: Arc<dyn Bus>, bells: Arc<Bells>, origin: String, entropy: Arc<dyn Entropy>) -> Self {
        Self { bus, bells, origin, entropy }
    }

    pub(super) async fn run(self, stop: CancellationToken) {
        let mut trouble = Trouble::new("hints about mail cannot be heard", self.entropy.clone());
        loop {
            let wait = match self.listen().await {
                Ok(mut hints) => {
                    trouble.is_over();
                    while let Some(hint) = tokio::select! {
                        hint = hints.next() => hint,
                        () = stop.cancelled() => return,
                    } {
                        self.hear(&hint);
                    }
                    Duration::ZERO
                }
                Err(error) => trouble.is(&error),
            };
            // A stream that ends at once, again and again, must not spin.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait.max(Duration::from_millis(100))) => {}
            }
        }
    }

    async fn listen(&self) -> Result<BoxStream<'static, Hint>> {
        let (waiting, requests) =
            futures::future::try_join(self.bus.hints(subject::WAITING), self.bus.hints(subject::REQUEST)).await?;
        Ok(futures::stream::select(waiting, requests).boxed())
    }

    fn hear(&self, hint: &Hint) {
        let Envelope { principal, headers, payload, .. } = &hint.envelope;
        let own = headers.iter().any(|(name, value)| name == ORIGIN && *value == self.origin);
        if own || self.bells.is_empty() {
            return;
        }
        let tenant = &principal.tenant;
        if hint.subject == subject::WAITING.0 {
            let Ok(WaitingHint { mailboxes }) = serde_json::from_slice(payload) else { return };
            self.bells.ring(mailboxes.into_iter().map(|mailbox| Bell::Mailbox(tenant.clone(), mailbox)));
        } else if let Ok(RequestHint { request_id, .. }) = serde_json::from_slice(payload) {
            self.bells.ring([Bell::Request(tenant.clone(), request_id)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use guildhall_bus::BusOptions;
    use guildhall_domain::ports::bus::Retention;
    use guildhall_testkit::{clock::FixedClock, entropy::SeededEntropy};

    use super::*;
    use crate::wake::Waker;

    fn mailboxes(from: usize, to: usize) -> Vec<Mailbox> {
        (from..to).map(|n| Mailbox::Agent(format!("a-{n}").parse().unwrap())).collect()
    }

    #[tokio::test]
    async fn news_that_wait_together_go_out_once_for_each_mailbox_and_in_hints_of_bounded_size() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(FixedClock::default()));
        let options = BusOptions {
            data_dir: folder.path().to_owned(),
            clock: clock.clone(),
            retention: Retention { age: Duration::from_secs(60), bytes: 1 << 20 },
            nats_syncs_always: false,
        };
        let bus = guildhall_bus::connect("embedded:", options).unwrap();
        let mut heard = bus.hints(subject::WAITING).await.unwrap();
        let (waker, mut tasks) = Waker::new(bus, clock, Arc::new(SeededEntropy::default()));
        let other = TenantId::new("other").unwrap();
        let trace = TraceContext::default();
        waker.waiting(&TenantId::default(), mailboxes(0, 700), &trace);
        waker.waiting(&other, mailboxes(0, 1), &trace);
        waker.waiting(&TenantId::default(), mailboxes(300, 1_100), &trace);
        waker.waiting(&TenantId::default(), Vec::new(), &trace);
        let stop = CancellationToken::new();
        let outlet = tokio::spawn((tasks.remove(0).run)(stop.clone()));

        let mut hints: Vec<(TenantId, Vec<Mailbox>)> = Vec::new();
        for _ in 0..4 {
            let hint = timeout(Duration::from_secs(5), heard.next()).await.expect("a hint is missing").unwrap();
            let WaitingHint { mailboxes } = serde_json::from_slice(&hint.envelope.payload).unwrap();
            hints.push((hint.envelope.principal.tenant, mailboxes));
        }
        stop.cancel();
        outlet.await.unwrap();
        assert!(hints.iter().all(|(_, mailboxes)| mailboxes.len() <= IN_A_HINT));
        let of = |tenant: &TenantId| {
            let own = hints.iter().filter(|(of, _)| of == tenant);
            own.flat_map(|(_, mailboxes)| mailboxes.clone()).collect::<Vec<_>>()
        };
        let default = of(&TenantId::default());
        assert_eq!((default.len(), of(&other)), (1_100, mailboxes(0, 1)));
        assert_eq!(default.into_iter().collect::<HashSet<_>>(), mailboxes(0, 1_100).into_iter().collect());
        assert!(timeout(Duration::from_millis(50), heard.next()).await.is_err(), "something was said twice");
    }
}
