//! Wakes whoever waits for mail or for a request: in this process at once, elsewhere by a hint.
//!
//! Hints go out behind the answer and may be lost; what is queued at once goes out as one hint a tenant, so that many
//! sends cost the bus little. Whoever waits looks by itself every 2 s as well, so a lost hint costs at most that.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use guildhall_domain::{
    AgentId, Clock, Entropy, Principal, Result, TenantId, TraceContext,
    clock::new_ulid,
    mail::{Mailbox, MessageId, RequestState, subject},
    ports::{
        Bus,
        bus::{Envelope, Hint, Subject},
    },
};
use guildhall_runtime::{Task, Trouble};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::SERVICE;

/// How often who waits looks by itself.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Who waits beyond that is not woken: it only looks by itself. A place takes some 200 bytes.
const SEATS_MAX: usize = 100_000;
/// News that may wait for a slow bus. The next are dropped.
const QUEUED_MAX: usize = 4_096;
/// News that are put together into as few hints as they fit.
const TOGETHER: usize = 512;
/// Mailboxes in one hint: 70 KB at most, where a bus takes 512.
const IN_A_HINT: usize = 500;
const HINT_WITHIN: Duration = Duration::from_secs(2);
/// Carried by hints, so that a process passes over its own.
const ORIGIN: &str = "origin";

/// What someone waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Bell {
    Mailbox(TenantId, Mailbox),
    Request(TenantId, MessageId),
}

pub(crate) struct Waker {
    bells: Arc<Bells>,
    queue: mpsc::Sender<News>,
}

enum News {
    Waiting { tenant: TenantId, mailboxes: Vec<Mailbox>, trace: TraceContext },
    Request { tenant: TenantId, request_id: MessageId, state: RequestState, trace: TraceContext },
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WaitingHint {
    pub(crate) mailboxes: Vec<Mailbox>,
}

#[derive(Serialize, Deserialize)]
struct RequestHint {
    request_id: MessageId,
    state: RequestState,
}

impl Waker {
    pub(crate) fn new(bus: Arc<dyn Bus>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> (Self, Vec<Task>) {
        let origin = new_ulid(&*clock, &*entropy).to_string();
        let bells = Arc::new(Bells::default());
        let (queue, outlet) = mpsc::channel(QUEUED_MAX);
        let outlet = Outlet { queue: outlet, bus: bus.clone(), clock, origin: origin.clone() };
        let ear = Ear { bus, bells: bells.clone(), origin, entropy };
        let tasks = vec![
            Task::new("mail.hints", |stop| outlet.run(stop)),
            Task::new("mail.wake", |stop| async move { ear.run(stop).await }),
        ];
        (Self { bells, queue }, tasks)
    }

    /// Something may be taken from these mailboxes.
    pub(crate) fn waiting(&self, tenant: &TenantId, mailboxes: Vec<Mailbox>, trace: &TraceContext) {
        if mailboxes.is_empty() {
            return;
        }
        self.bells.ring(mailboxes.iter().map(|mailbox| Bell::Mailbox(tenant.clone(), mailbox.clone())));
        self.tell(News::Waiting { tenant: tenant.clone(), mailboxes, trace: trace.clone() });
    }

    /// Something may be taken from this agent's mailbox; whoever waits elsewhere finds it by itself.
    pub(crate) fn waiting_here(&self, tenant: &TenantId, agent: &AgentId) {
        self.bells.ring([Bell::Mailbox(tenant.clone(), Mailbox::Agent(agent.clone()))]);
    }

    /// A request was answered, moved on or ended.
    pub(crate) fn request(&self, tenant: &TenantId, request_id: MessageId, state: RequestState, trace: &TraceContext) {
        self.bells.ring([Bell::Request(tenant.clone(), request_id)]);
        self.tell(News::Request { tenant: tenant.clone(), request_id, state, trace: trace.clone() });
    }

    fn tell(&self, news: News) {
        if self.queue.try_send(news).is_err() {
            tracing::debug!("the bus is behind: a hint about mail was dropped");
        }
    }

    /// Looks; and as long as that is not enough, again whenever one of the bells rings and at least every 2 s, until
    /// the time is over. Gives what it saw last.
    pub(crate) async fn look_until<T, F: Future<Output = Result<T>>>(
        &self,
        until: Instant,
        bells: impl FnOnce() -> Vec<Bell>,
        look: impl Fn() -> F,
        enough: impl Fn(&T) -> bool,
    ) -> Result<T> {
        if until <= Instant::now() {
            return look().await;
        }
        // Before the look: what comes right after it is not slept through.
        let seat = Seat::take(&self.bells, bells());
        loop {
            let seen = look().await?;
            let now = Instant::now();
            if enough(&seen) || now >= until {
                return Ok(seen);
            }
            // Rung or not: what there is to see, the next look sees.
            let _ = timeout_at(until.min(now + LOOK_EVERY), seat.notify.notified()).await;
        }
    }
}

/// Who waits for what.
#[derive(Default)]
struct Bells(Mutex<Seats>);

#[derive(Default)]
struct Seats {
    by_bell: HashMap<Bell, Vec<Arc<Notify>>>,
    taken: usize,
}

impl Bells {
    fn ring(&self, bells: impl IntoIterator<Item = Bell>) {
        let seats = self.0.lock();
        if seats.taken == 0 {
            return;
        }
        for bell in bells {
            seats.by_bell.get(&bell).into_iter().flatten().for_each(|notify| notify.notify_one());
        }
    }

    fn is_empty(&self) -> bool {
        self.0.lock().taken == 0
    }
}

/// A place at some bells. Whoever sits there hears every ring since it sat down.
struct Seat {
    bells: Arc<Bells>,
    at: Vec<Bell>,
    notify: Arc<Notify>,
}

impl Seat {
    fn take(bells: &Arc<Bells>, mut at: Vec<Bell>) -> Self {
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

/// Says what is queued to the other processes.
struct Outlet {
    queue: mpsc::Receiver<News>,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    origin: String,
}

impl Outlet {
    async fn run(mut self, stop: CancellationToken) {
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
struct Ear {
    bus: Arc<dyn Bus>,
    bells: Arc<Bells>,
    origin: String,
    entropy: Arc<dyn Entropy>,
}

impl Ear {
    async fn run(self, stop: CancellationToken) {
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
        timeout(Duration::from_secs(5), first.notify.notified()).await.expect("the first was not woken");
        timeout(Duration::from_secs(5), second.notify.notified()).await.expect("the second was not woken");
        drop(first);
        bells.ring([a]);
        bells.ring([b]);
        timeout(Duration::from_secs(5), second.notify.notified()).await.expect("who stayed was not woken");
        drop(second);
        assert!(bells.is_empty() && bells.0.lock().by_bell.is_empty());
    }
}
