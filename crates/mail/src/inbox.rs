//! Mailboxes as their owners see them: taking what waits, settling it, looking without taking.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use guildhall_domain::{
    AgentId, AgentQuery, Call, Error, Result, TenantId, TraceContext,
    mail::{
        Delivered, Mailbox, Message, MessageId,
        delivery::{History, HistoryQuery, NACK_DELAY_MAX, Settling, TAKE_MAX, TakeMail, Tracked, Unread, Verdict},
    },
    ports::mail_store::Taking,
};
use guildhall_guard::Operation;
use tokio::time::Instant;

use crate::{
    dead_letters::{self, Why},
    desk::{Desk, Reach},
    service::{MailService, count_fits, reason_fits},
    wake::Bell,
};

/// Longer, and a taker that died would hold up its sender's mail for as long.
const LEASE_MAX: Duration = Duration::from_secs(60 * 60);
const TAKER_MAX_BYTES: usize = 128;
const SETTLE_MAX: usize = 1_000;
const UNREAD_MAX: usize = 10_000;
const HISTORY_MAX: usize = 1_000;
/// Kept of a call's time for its answer, so that an empty one still arrives.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// Looked up one by one; more are found by going through the list of agents, whose pages cost one look-up each.
const LOOKED_UP: usize = 4;

impl MailService {
    pub(crate) async fn take_mail(&self, call: &Call, agent: &AgentId, take: TakeMail) -> Result<Vec<Delivered>> {
        self.desk.allow(call, Operation::TakeMail, agent)?;
        count_fits(take.limit, TAKE_MAX, "messages to take")?;
        if take.lease.is_zero() || take.lease > LEASE_MAX {
            return Err(Error::invalid(format!("a lease is 1 to {} ms", LEASE_MAX.as_millis())));
        }
        let taker = hand(agent, &take.taker)?;
        let mailboxes = self.desk.mailboxes(call, agent).await?;
        let tenant = &call.principal.tenant;
        let until = until(call, take.wait)?;
        let bells = || mailboxes.iter().map(|mailbox| Bell::Mailbox(tenant.clone(), mailbox.clone())).collect();
        let look = || {
            self.take_or_put_back(Taking {
                tenant: tenant.clone(),
                mailboxes: mailboxes.clone(),
                taker: taker.clone(),
                limit: take.limit,
                lease: take.lease,
                told: take.told,
                now: self.desk.clock.now(),
            })
        };
        let taken = self.desk.waker.look_until(until, bells, look, |taken| !taken.mail.is_empty()).await?.hand_over();
        metrics::counter!("guildhall_mail_taken_total").increment(taken.len() as u64);
        Ok(taken)
    }

    fn take_or_put_back(&self, taking: Taking) -> OnItsWay {
        let desk = self.desk.clone();
        let take = async move {
            let (tenant, mailboxes) = (taking.tenant.clone(), taking.mailboxes.clone());
            let mail = desk.mail.take(taking).await?;
            Ok(InHand { mail, tenant, mailboxes, desk })
        };
        OnItsWay(Some(take.boxed()))
    }

    pub(crate) async fn settle_each(
        &self,
        call: &Call,
        agent: &AgentId,
        settlings: Vec<Settling>,
    ) -> Result<Vec<Result<()>>> {
        self.desk.allow(call, Operation::TakeMail, agent)?;
        count_fits(settlings.len(), SETTLE_MAX, "messages to settle")?;
        for settling in &settlings {
            match &settling.verdict {
                Verdict::Nack { delay, .. } if delay.is_some_and(|delay| delay > NACK_DELAY_MAX) => {
                    return Err(Error::invalid(format!("delay_ms is at most {}", NACK_DELAY_MAX.as_millis())));
                }
                Verdict::Nack { reason, .. } => reason_fits(reason.as_deref().unwrap_or_default())?,
                Verdict::Refuse { reason } => reason_fits(reason)?,
                Verdict::Ack | Verdict::Return | Verdict::Renew => {}
            }
        }
        let mailboxes = self.desk.mailboxes(call, agent).await?;
        let verdicts: Vec<_> = settlings.iter().map(|settling| Said::of(&settling.verdict)).collect();
        let tenant = &call.principal.tenant;
        let settled = self.desk.mail.settle(tenant, &mailboxes, settlings, self.desk.clock.now()).await?;
        let mut put_back = false;
        for (said, result) in verdicts.iter().zip(&settled) {
            let verdict = if result.is_ok() { said.word } else { "stale" };
            metrics::counter!("guildhall_mail_settled_total", "verdict" => verdict).increment(1);
            if verdict == "refuse" {
                dead_letters::count(Why::Refused, 1);
            }
            put_back |= said.puts_back && result.is_ok();
        }
        // What was settled lets its sender's next one go, which whoever settled looks for by itself; so only who waits
        // here beside it is woken. What was put back is for anyone.
        if put_back {
            self.desk.waker.waiting(tenant, mailboxes, &call.trace);
        } else {
            self.desk.waker.waiting_here(tenant, agent);
        }
        Ok(settled)
    }

    pub(crate) async fn give_back_all(&self, call: &Call, agent: &AgentId, taker: &str) -> Result<u64> {
        self.desk.allow(call, Operation::TakeMail, agent)?;
        let taker = hand(agent, taker)?;
        let mailboxes = self.desk.mailboxes(call, agent).await?;
        let tenant = &call.principal.tenant;
        let given_back = self.desk.mail.give_back(tenant, &mailboxes, &taker).await?;
        if given_back > 0 {
            self.desk.waker.waiting(tenant, mailboxes, &call.trace);
        }
        Ok(given_back)
    }

    pub(crate) async fn count_unread(&self, call: &Call, agents: Vec<AgentId>) -> Result<Vec<Unread>> {
        for agent in &agents {
            self.desk.allow(call, Operation::ReadMail, agent)?;
        }
        if agents.is_empty() {
            return Ok(Vec::new());
        }
        count_fits(agents.len(), UNREAD_MAX, "agents")?;
        let pools = self.desk.pools(call, &agents).await?;
        // Each agent's own mailbox in its place, and behind them the pools, each once.
        let mut mailboxes: Vec<_> = agents.iter().cloned().map(Mailbox::Agent).collect();
        let mut pool_at: HashMap<&str, usize> = HashMap::new();
        for pool in pools.values() {
            pool_at.entry(pool).or_insert_with(|| {
                mailboxes.push(Mailbox::Pool(pool.clone()));
                mailboxes.len() - 1
            });
        }
        let counted = self.desk.mail.unread(&call.principal.tenant, &mailboxes).await?;
        let of_pool = |agent: &AgentId| pools.get(agent).map(|pool| &counted[pool_at[pool.as_str()]]);
        let sum = |(agent, own): (&AgentId, &Unread)| match of_pool(agent) {
            Some(pool) => Unread { waiting: own.waiting + pool.waiting, critical: own.critical + pool.critical },
            None => own.clone(),
        };
        Ok(agents.iter().zip(&counted).map(sum).collect())
    }

    pub(crate) async fn look_ahead(&self, call: &Call, agent: &AgentId, limit: usize) -> Result<Vec<Message>> {
        self.desk.allow(call, Operation::ReadMail, agent)?;
        count_fits(limit, TAKE_MAX, "messages to look at")?;
        let mailboxes = self.desk.mailboxes(call, agent).await?;
        self.desk.mail.peek(&call.principal.tenant, &mailboxes, limit, self.desk.clock.now()).await
    }

    pub(crate) async fn look_back(&self, call: &Call, agent: &AgentId, query: HistoryQuery) -> Result<History> {
        self.desk.allow(call, Operation::ReadMail, agent)?;
        count_fits(query.limit, HISTORY_MAX, "messages of the history")?;
        self.desk.agent(call, agent).await?;
        self.desk.mail.history(&call.principal.tenant, &Mailbox::Agent(agent.clone()), &query).await
    }

    /// Nobody but its sender, its receivers and those who may read everyone's learns that a message exists.
    pub(crate) async fn track(&self, call: &Call, message: MessageId) -> Result<Tracked> {
        let (store, tenant) = (&self.desk.mail, &call.principal.tenant);
        let unknown = || Error::not_found(format!("there is no message {message} that you sent or received"));
        let agent = match self.desk.reach(call, Operation::ReadMail)? {
            Reach::Anyone => return store.message(tenant, message, None).await?.ok_or_else(unknown),
            Reach::Own(agent) => agent,
        };
        let own = self.desk.mailboxes(call, &agent).await?;
        match store.message(tenant, message, Some(&own)).await? {
            Some(tracked) if tracked.message.from == agent => {
                store.message(tenant, message, None).await?.ok_or_else(unknown)
            }
            Some(tracked) if !tracked.deliveries.is_empty() => Ok(tracked),
            Some(_) | None => Err(unknown()),
        }
    }
}

impl Desk {
    /// Which of them are in a pool.
    async fn pools(&self, call: &Call, agents: &[AgentId]) -> Result<HashMap<AgentId, String>> {
        let mut pools = HashMap::new();
        if agents.len() <= LOOKED_UP {
            for agent in agents {
                if let Some(pool) = self.known(call, agent).await?.and_then(|record| record.pool.clone()) {
                    pools.insert(agent.clone(), pool);
                }
            }
            return Ok(pools);
        }
        let asked: HashSet<&AgentId> = agents.iter().collect();
        self.each_page(call, AgentQuery::default(), |page| {
            let of_these = page.iter().filter(|agent| asked.contains(&agent.agent_id));
            pools.extend(of_these.filter_map(|agent| Some((agent.agent_id.clone(), agent.pool.clone()?))));
            true
        })
        .await?;
        Ok(pools)
    }
}

/// Mail that is being taken. It is taken to the end also when the caller goes meanwhile: what nobody is left to be
/// given is put back at once, and not when its lease has run out. Only then has it a task of its own, for each costs
/// the waking of a thread.
struct OnItsWay(Option<BoxFuture<'static, Result<InHand>>>);

impl Future for OnItsWay {
    type Output = Result<InHand>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Out of its place while it is asked: one that panics is not asked again.
        let mut take = self.0.take().expect("a taking that is over is not asked again");
        let taken = take.poll_unpin(cx);
        if taken.is_pending() {
            self.0 = Some(take);
        }
        taken
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if let (Some(take), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { drop(take.await) });
        }
    }
}

/// Mail that was taken and is on its way to its taker. Dropped, it is put back.
struct InHand {
    mail: Vec<Delivered>,
    tenant: TenantId,
    mailboxes: Vec<Mailbox>,
    desk: Arc<Desk>,
}

impl InHand {
    fn hand_over(mut self) -> Vec<Delivered> {
        std::mem::take(&mut self.mail)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if self.mail.is_empty() {
            return;
        }
        // Without a runtime the process is ending.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let put_back = |one: &Delivered| Settling {
            message_id: one.message.message_id,
            lease: one.lease,
            verdict: Verdict::Return,
        };
        let settlings = self.mail.iter().map(put_back).collect();
        let (tenant, mailboxes, desk) = (self.tenant.clone(), std::mem::take(&mut self.mailboxes), self.desk.clone());
        runtime.spawn(async move {
            match desk.mail.settle(&tenant, &mailboxes, settlings, desk.clock.now()).await {
                Ok(_) => desk.waker.waiting(&tenant, mailboxes, &TraceContext::default()),
                Err(error) => tracing::debug!(%error, "mail that nobody was left to take comes back with its lease"),
            }
        });
    }
}

/// When a wait is over: before the call's own deadline.
pub(crate) fn until(call: &Call, wait: Duration) -> Result<Instant> {
    let left = call.remaining()?.saturating_sub(ANSWER_WITHIN);
    Ok(Instant::now() + wait.min(left))
}

/// What a lease is held by. Agents' ids have no slash: no agent's hand begins like another's.
fn hand(agent: &AgentId, taker: &str) -> Result<String> {
    if taker.is_empty() || taker.len() > TAKER_MAX_BYTES || taker.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "a taker is named by 1 to {TAKER_MAX_BYTES} bytes without control characters"
        )));
    }
    Ok(format!("{agent}/{taker}"))
}

/// What is left of a verdict once it has gone into the database.
struct Said {
    word: &'static str,
    /// Whether the mail may be taken again at once.
    puts_back: bool,
}

impl Said {
    fn of(verdict: &Verdict) -> Self {
        let (word, puts_back) = match verdict {
            Verdict::Ack => ("ack", false),
            Verdict::Nack { delay, .. } => ("nack", delay.is_some_and(|delay| delay.is_zero())),
            Verdict::Refuse { .. } => ("refuse", false),
            Verdict::Return => ("return", true),
            Verdict::Renew => ("renew", false),
        };
        Self { word, puts_back }
    }
}
