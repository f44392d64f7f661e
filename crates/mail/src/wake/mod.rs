//! Wakes whoever waits for mail or for a request: in this process at once, elsewhere by a hint.
//!
//! Hints go out behind the answer and may be lost; what is queued at once goes out as one hint a tenant, so that many
//! sends cost the bus little. Whoever waits looks by itself every 2 s as well, so a lost hint costs at most that.

mod bells;
mod hints;

use std::{sync::Arc, time::Duration};

use guildhall_domain::{
    AgentId, Clock, Entropy, Result, TenantId, TraceContext,
    clock::new_ulid,
    mail::{Mailbox, MessageId, RequestState},
    ports::Bus,
};
use guildhall_runtime::Task;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

pub(crate) use self::{bells::Bell, hints::WaitingHint};
use self::{
    bells::{Bells, Seat},
    hints::{Ear, Outlet},
};

/// How often who waits looks by itself.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// News that may wait for a slow bus. The next are dropped.
const QUEUED_MAX: usize = 4_096;

pub(crate) struct Waker {
    bells: Arc<Bells>,
    queue: mpsc::Sender<News>,
}

/// What the other processes are to be told.
enum News {
    Waiting { tenant: TenantId, mailboxes: Vec<Mailbox>, trace: TraceContext },
    Request { tenant: TenantId, request_id: MessageId, state: RequestState, trace: TraceContext },
}

impl Waker {
    pub(crate) fn new(bus: Arc<dyn Bus>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> (Self, Vec<Task>) {
        let origin = new_ulid(&*clock, &*entropy).to_string();
        let bells = Arc::new(Bells::default());
        let (queue, outlet) = mpsc::channel(QUEUED_MAX);
        let outlet = Outlet::new(outlet, bus.clone(), clock, origin.clone());
        let ear = Ear::new(bus, bells.clone(), origin, entropy);
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
            let _ = timeout_at(until.min(now + LOOK_EVERY), seat.rung()).await;
        }
    }
}
