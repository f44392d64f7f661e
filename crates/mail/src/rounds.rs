//! What the clock and the size of a message leave to be done behind the answers. Every replica goes its rounds; what
//! is due is a row, done by whoever comes first.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use guildhall_domain::{Result, TenantId, Timestamp, TraceContext, mail::Mailbox};
use guildhall_runtime::{Task, Trouble};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    dead_letters::{self, Why},
    desk::Desk,
    requests,
};

/// How late what another replica left undone is taken up, and how late a lease's end is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Between two parts of much that is old: who sends meanwhile comes first.
const FORGET_ON: Duration = Duration::from_millis(100);
/// Deadlines remembered here; those beyond are met by the look of every second.
const DEADLINES_MAX: usize = 100_000;

/// What makes a round begin before its time.
#[derive(Default)]
pub(crate) struct Alarm {
    /// A message for many was accepted.
    pub(crate) expand: Notify,
    deadlines: Mutex<BinaryHeap<Reverse<Timestamp>>>,
    /// A request ends before all that were known.
    sooner: Notify,
}

impl Alarm {
    /// A request that this replica took ends then at the latest.
    pub(crate) fn end_at(&self, deadline: Timestamp) {
        let mut deadlines = self.deadlines.lock();
        if deadlines.len() >= DEADLINES_MAX {
            return;
        }
        let sooner = deadlines.peek().is_none_or(|Reverse(next)| deadline < *next);
        deadlines.push(Reverse(deadline));
        if sooner {
            self.sooner.notify_one();
        }
    }

    /// Forgets those that are past, and says how long it is to the next.
    fn next_deadline(&self, now: Timestamp) -> Option<Duration> {
        let mut deadlines = self.deadlines.lock();
        while deadlines.peek().is_some_and(|Reverse(next)| *next <= now) {
            deadlines.pop();
        }
        deadlines.peek().map(|Reverse(next)| next.since(now))
    }
}

/// When a round begins again.
enum Next {
    /// There is more to do.
    AtOnce,
    Within(Duration),
}

pub(crate) fn tasks(desk: &Arc<Desk>, alarm: &Arc<Alarm>) -> Vec<Task> {
    let (expand, lapse, time_out, forget) =
        (round(desk, alarm), round(desk, alarm), round(desk, alarm), round(desk, alarm));
    vec![
        Task::new("mail.expand", |stop| async move {
            let wide = "mail for many does not reach its mailboxes";
            expand.go(wide, stop, Round::expand, &expand.alarm.expand).await;
        }),
        Task::new("mail.lapse", |stop| async move {
            lapse.go("leases and expired mail are not seen to", stop, Round::lapse, &lapse.never).await;
        }),
        Task::new("mail.time-out", |stop| async move {
            let requests = "requests whose time is over are not ended";
            time_out.go(requests, stop, Round::time_out, &time_out.alarm.sooner).await;
        }),
        Task::new("mail.forget", |stop| async move {
            forget.go("old mail is not forgotten", stop, Round::forget, &forget.never).await;
        }),
    ]
}

struct Round {
    desk: Arc<Desk>,
    alarm: Arc<Alarm>,
    /// The kick of a round that none comes to.
    never: Notify,
}

fn round(desk: &Arc<Desk>, alarm: &Arc<Alarm>) -> Round {
    Round { desk: desk.clone(), alarm: alarm.clone(), never: Notify::new() }
}

impl Round {
    /// Again and again until `stop`; while an engine is away, at growing distances.
    async fn go(
        &self,
        what: &'static str,
        stop: CancellationToken,
        work: impl AsyncFn(&Self) -> Result<Next>,
        kick: &Notify,
    ) {
        let mut trouble = Trouble::new(what, self.desk.entropy.clone());
        while !stop.is_cancelled() {
            let wait = match work(self).await {
                Ok(next) => {
                    trouble.is_over();
                    match next {
                        Next::AtOnce => continue,
                        Next::Within(wait) => wait,
                    }
                }
                // A kick does not shorten it: the engine is away for everyone.
                Err(error) => {
                    let rest = trouble.is(&error);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(rest) => continue,
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = kick.notified() => {}
            }
        }
    }

    async fn expand(&self) -> Result<Next> {
        let expanded = self.desk.mail.expand(self.desk.bound, self.desk.clock.now()).await?;
        self.wake(expanded.wake);
        Ok(if expanded.more { Next::AtOnce } else { Next::Within(LOOK_EVERY) })
    }

    async fn lapse(&self) -> Result<Next> {
        let lapsed = self.desk.mail.lapse(self.desk.clock.now()).await?;
        dead_letters::count(Why::Expired, lapsed.expired);
        dead_letters::count(Why::Attempts, lapsed.dead.saturating_sub(lapsed.expired));
        self.wake(lapsed.wake);
        Ok(if lapsed.more { Next::AtOnce } else { Next::Within(LOOK_EVERY) })
    }

    async fn time_out(&self) -> Result<Next> {
        let ended = self.desk.mail.time_out(self.desk.clock.now()).await?;
        let any = !ended.is_empty();
        for (tenant, request) in ended {
            requests::count(request.state);
            self.desk.waker.request(&tenant, request.request_id, request.state, &TraceContext::default());
        }
        if any {
            return Ok(Next::AtOnce);
        }
        let next = self.alarm.next_deadline(self.desk.clock.now());
        Ok(Next::Within(next.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)))
    }

    async fn forget(&self) -> Result<Next> {
        let more = self.desk.mail.forget(self.desk.retention, self.desk.clock.now()).await?;
        Ok(Next::Within(if more { FORGET_ON } else { FORGET_EVERY }))
    }

    fn wake(&self, mailboxes: Vec<(TenantId, Mailbox)>) {
        let mut tenants: HashMap<TenantId, Vec<Mailbox>> = HashMap::new();
        for (tenant, mailbox) in mailboxes {
            tenants.entry(tenant).or_default().push(mailbox);
        }
        for (tenant, mailboxes) in tenants {
            self.desk.waker.waiting(&tenant, mailboxes, &TraceContext::default());
        }
    }
}
