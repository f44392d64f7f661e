//! The unread line: beside any tool result its caller is told of mail that waits.
//!
//! Counts come from memory. They are stale once a hint or an act of the agent's own has changed something, and are then
//! read again, but not more often than every 2 s, and no tool call waits for that longer than a moment: a mail service
//! that is slow or away costs a line, not an answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use guildhall_domain::{
    AgentId, Call, Clock, Principal, TenantId, Timestamp,
    mail::{
        Delivered, Mailbox, MessageId, Priority,
        delivery::{LEASE, Settling, Unread, Verdict},
    },
    ports::Mail,
};
use moka::sync::Cache;
use parking_lot::Mutex;
use rmcp::model::{CallToolResult, ContentBlock, MetaObject};
use serde_json::json;

use crate::{hall::MailWaiting, handover::Once, identity::query_value};

/// Agents whose counts are in memory; who is forgotten is read again.
const BOUND: u64 = 100_000;
const FORGET_AFTER: Duration = Duration::from_secs(10 * 60);
/// Messages that one agent holds and whose number is kept; of more, some are said to wait that do not.
const HELD_BOUND: usize = 1_000;
const READ_AT_MOST_EVERY: Duration = Duration::from_secs(2);
/// Hints may be lost.
const EMPTY_GOOD_FOR: Duration = Duration::from_secs(30);
/// What a tool call may wait for counts.
const PATIENCE: Duration = Duration::from_millis(50);
/// What reading them may take behind its back.
const READING_TIME: Duration = Duration::from_secs(2);
/// In the result's `_meta`; in a call's own it can be `off`.
pub(crate) const META_KEY: &str = "guildhall/unread";

pub(crate) struct UnreadCounts {
    mail: Arc<dyn Mail>,
    clock: Arc<dyn Clock>,
    known: Cache<(TenantId, AgentId), Arc<Known>>,
    /// Counts the changes of pools' mailboxes: an agent's counts hold those of its pool.
    pools_changed: AtomicU64,
}

#[derive(Default)]
struct Known(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    unread: Unread,
    /// When they were last asked for, whatever came of it.
    asked_at: Option<Instant>,
    asking: bool,
    stale: bool,
    pools_changed: u64,
    /// What the agent holds to settle by itself: it is unread to the mail service, and does not wait.
    held: Vec<Held>,
}

struct Held {
    message: MessageId,
    critical: bool,
    /// Until then it has its lease, and waits again afterwards.
    until: Timestamp,
}

impl UnreadCounts {
    pub(crate) fn new(mail: Arc<dyn Mail>, clock: Arc<dyn Clock>) -> Self {
        let known = Cache::builder().max_capacity(BOUND).time_to_idle(FORGET_AFTER).build();
        Self { mail, clock, known, pools_changed: AtomicU64::new(0) }
    }

    /// Something may be taken that was not there before.
    pub(crate) fn hear(&self, waiting: &MailWaiting) {
        for mailbox in &*waiting.mailboxes {
            match mailbox {
                Mailbox::Agent(agent) => self.outdated(&waiting.tenant, agent),
                Mailbox::Pool(_) => {
                    self.pools_changed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn outdated(&self, tenant: &TenantId, agent: &AgentId) {
        self.change(tenant, agent, |_| {});
    }

    fn change(&self, tenant: &TenantId, agent: &AgentId, change: impl FnOnce(&mut Counts)) {
        if let Some(known) = self.known.get(&(tenant.clone(), agent.clone())) {
            let mut counts = known.0.lock();
            change(&mut counts);
            counts.stale = true;
        }
    }

    /// The agent has taken these.
    pub(crate) fn took(&self, tenant: &TenantId, agent: &AgentId, mail: &[Delivered], once: Once) {
        self.change(tenant, agent, |counts| {
            for one in mail {
                let critical = one.message.priority == Priority::Critical;
                if once == Once::Acknowledged {
                    counts.is_done(critical);
                } else if counts.held.len() < HELD_BOUND {
                    counts.held.push(Held { message: one.message.message_id, critical, until: one.lease_until });
                }
            }
        });
    }

    /// The agent has settled what it held.
    pub(crate) fn settled(&self, tenant: &TenantId, agent: &AgentId, settling: &Settling) {
        self.change(tenant, agent, |counts| {
            let place = counts.held.iter().position(|held| held.message == settling.message_id);
            match (place, &settling.verdict) {
                (Some(place), Verdict::Renew) => counts.held[place].until = self.clock.now() + LEASE,
                (Some(place), Verdict::Ack) => {
                    let critical = counts.held.swap_remove(place).critical;
                    counts.is_done(critical);
                }
                (Some(place), _) => drop(counts.held.swap_remove(place)),
                (None, _) => {}
            }
        });
    }

    /// These are in the agent's hands no more, and unsettled: they wait.
    pub(crate) fn gave_back(&self, tenant: &TenantId, agent: &AgentId, messages: &[MessageId]) {
        if !messages.is_empty() {
            self.change(tenant, agent, |counts| counts.held.retain(|held| !messages.contains(&held.message)));
        }
    }

    /// What waits for the caller, as far as is known; nothing for a caller that is no agent.
    pub(crate) async fn of(&self, principal: &Arc<Principal>) -> Unread {
        let Some(agent) = principal.agent() else { return Unread::default() };
        let known = self.known.get_with((principal.tenant.clone(), agent.clone()), Arc::default);
        let pools_changed = self.pools_changed.load(Ordering::Relaxed);
        {
            let mut counts = known.0.lock();
            if counts.asking || !counts.is_due(pools_changed) {
                return counts.waiting(self.clock.now());
            }
            counts.asking = true;
            counts.stale = false;
            counts.pools_changed = pools_changed;
            counts.asked_at = Some(Instant::now());
        }
        let (mail, reader) = (self.mail.clone(), known.clone());
        let call = Call::within(principal.clone(), READING_TIME);
        let reading = tokio::spawn(async move {
            let read = tokio::time::timeout(READING_TIME, mail.unread(&call, vec![agent])).await;
            let mut counts = reader.0.lock();
            counts.asking = false;
            let failed = match read {
                Ok(Ok(unread)) => {
                    counts.unread = unread.into_iter().next().unwrap_or_default();
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            counts.stale = true;
            tracing::debug!("unread mail could not be counted: {failed}");
        });
        let _ = tokio::time::timeout(PATIENCE, reading).await;
        let mut counts = known.0.lock();
        counts.waiting(self.clock.now())
    }
}

impl Counts {
    fn is_done(&mut self, critical: bool) {
        self.unread.waiting = self.unread.waiting.saturating_sub(1);
        self.unread.critical = self.unread.critical.saturating_sub(u64::from(critical));
    }

    fn waiting(&mut self, now: Timestamp) -> Unread {
        self.held.retain(|held| held.until > now);
        let critical = self.held.iter().filter(|held| held.critical).count() as u64;
        Unread {
            waiting: self.unread.waiting.saturating_sub(self.held.len() as u64),
            critical: self.unread.critical.saturating_sub(critical),
        }
    }

    fn is_due(&self, pools_changed: u64) -> bool {
        let Some(age) = self.asked_at.map(|at| at.elapsed()) else { return true };
        // What waits may have been taken through another gateway, of which there is no hint.
        let doubtful = self.stale || self.unread.waiting > 0 || self.pools_changed != pools_changed;
        age >= if doubtful { READ_AT_MOST_EVERY } else { EMPTY_GOOD_FOR }
    }
}

/// `?unread=off` in the address.
pub(crate) fn is_off(uri: &axum::http::Uri) -> bool {
    query_value(uri, "unread").as_deref() == Some("off")
}

/// Puts the counts into the result's `_meta`, and one line behind its content.
pub(crate) fn tell(result: &mut CallToolResult, unread: &Unread) {
    let Some(line) = line(unread) else { return };
    let counts = json!({"waiting": unread.waiting, "critical": unread.critical});
    result.meta.get_or_insert_with(MetaObject::default).0.insert(META_KEY.to_owned(), counts);
    result.content.push(ContentBlock::text(line));
}

fn line(unread: &Unread) -> Option<String> {
    let critical = match unread.critical {
        0 => String::new(),
        some => format!(" ({some} critical)"),
    };
    match unread.waiting {
        0 => None,
        1 => Some(format!("1 message waits for you{critical}: call check_inbox")),
        many => Some(format!("{many} messages wait for you{critical}: call check_inbox")),
    }
}
