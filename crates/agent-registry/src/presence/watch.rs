//! The presence loop. Every replica reads the signs that others were given; the one that holds the lease says each
//! change of a status once, and takes the last signs to the database.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::TryStreamExt;
use guildhall_domain::{AgentId, Entropy, Presence, Result, TenantId, Timestamp, ports::AgentStore};
use guildhall_runtime::Trouble;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Gauge, SAVE_EVERY, Said,
    marks::{Announced, Marks},
};
use crate::{
    announce::Announcer,
    roster::{Roster, Shown},
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look sees every agent that joined within this time, with room for a slow one; none is silent so soon.
const JUST_JOINED: Duration = Duration::from_secs(5);
/// While the roster is still being read.
const LOOK_FIRST: Duration = Duration::from_millis(20);
/// Signs are read again this far back: gateways gather them for a second, and clocks differ.
const OVERLAP: Duration = Duration::from_secs(5);
/// Whatever came later than that is found by a reading that goes back to where everyone is offline.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
const TENANTS_AT_ONCE: usize = 16;
const SAVE_BATCH: usize = 1_000;
const SAVE_WITHIN: Duration = Duration::from_secs(2);

pub(crate) struct Watch {
    pub(crate) store: Arc<dyn AgentStore>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) marks: Arc<Marks>,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) announcer: Arc<Announcer>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// This process, as leases know it.
    pub(crate) holder: String,
    pub(crate) progress: Progress,
}

/// How far the loop has come.
#[derive(Default)]
pub(crate) struct Progress {
    /// When the marks began, as last seen.
    epoch: Option<Timestamp>,
    /// The last look that went well.
    looked_at: Option<Timestamp>,
    /// Since when looks have failed.
    away_since: Option<Instant>,
    swept_at: Option<Timestamp>,
    /// Set while this replica holds the lease, as far as it knows.
    watching: Option<Watching>,
}

struct Watching {
    /// Another one than the lease's: someone else has watched in between, and what is remembered here is old.
    fence: u64,
    told: HashMap<TenantId, Told>,
    /// Signs before this are in the database.
    saved_until: Option<Timestamp>,
    save_next: Option<Timestamp>,
}

/// What has been said of a tenant's agents.
#[derive(Default)]
struct Told {
    announced: HashMap<AgentId, Announced>,
    /// The list that was compared last: while it is the same one, there is nothing new.
    compared: Arc<Shown>,
}

impl Watching {
    fn begun(fence: u64) -> Self {
        Self { fence, told: HashMap::new(), saved_until: None, save_next: None }
    }
}

impl Watch {
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let what = "signs of life cannot be read from the hot store; everyone's status stays as it is";
        let mut trouble = Trouble::new(what, self.entropy.clone());
        loop {
            let wait = if self.roster.is_loaded() {
                match self.look().await {
                    Ok(()) => {
                        trouble.is_over();
                        LOOK_EVERY
                    }
                    Err(error) => trouble.is(&error),
                }
            } else {
                LOOK_FIRST
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.leave().await;
    }

    pub(crate) async fn look(&mut self) -> Result<()> {
        let looked = self.look_at(self.gauge.now()).await;
        if looked.is_err() {
            self.progress.away_since.get_or_insert_with(Instant::now);
            // Time stands still where we last knew: a sign that cannot be read is no silence.
            if let Some(at) = self.progress.looked_at {
                self.gauge.freeze(at);
            }
        }
        looked
    }

    async fn look_at(&mut self, now: Timestamp) -> Result<()> {
        let epoch = self.marks.epoch(now).await?;
        if self.progress.epoch != Some(epoch) {
            self.begin(epoch).await?;
        } else if let Some(since) = self.gauge.frozen_at() {
            // Others may have been given signs that they could not pass on: time for them to do it. What a moment
            // cost is made up for by reading that far back.
            let away = self.progress.away_since.map_or(Duration::ZERO, |since| since.elapsed());
            if away > OVERLAP {
                self.hold(since, now, now + away.min(self.gauge.rule.offline_after) + OVERLAP);
            }
            self.put_all().await?;
        } else if self.marks.take_missed() {
            self.put_all().await?;
        }
        self.read(now).await?;
        self.gauge.thaw();
        self.progress.looked_at = Some(now);
        self.progress.away_since = None;

        let Some(fence) = self.marks.watch(&self.holder).await? else {
            self.progress.watching = None;
            return Ok(());
        };
        let known = self.progress.watching.take().filter(|watching| watching.fence == fence);
        let mut watching = known.unwrap_or_else(|| Watching::begun(fence));
        let said = self.say_changes(&mut watching, now).await;
        self.save(&mut watching, now).await;
        self.progress.watching = Some(watching);
        said
    }

    /// The marks are new to us: at our start, or because the hot store came back empty. Whoever counted as alive and
    /// has given no sign since then keeps its status until it had time for one.
    async fn begin(&mut self, epoch: Timestamp) -> Result<()> {
        // At our start memory has what was saved in the database, which is behind by as much as this.
        let knew = self.progress.looked_at.unwrap_or(epoch - SAVE_EVERY);
        self.hold(knew, epoch, epoch + self.gauge.rule.offline_after);
        self.put_all().await?;
        self.progress.swept_at = None;
        self.progress.epoch = Some(epoch);
        Ok(())
    }

    fn hold(&self, as_of: Timestamp, silent_since: Timestamp, until: Timestamp) {
        let moment = self.gauge.moment_at(as_of);
        for (_, tenant) in self.roster.tenants() {
            tenant.hold(|standing| (standing.seen < Some(silent_since)).then(|| moment.judge(standing)));
        }
        self.gauge.hold_until(until);
    }

    /// Puts what memory knows. Marks only rise, so that nothing newer is lost.
    async fn put_all(&self) -> Result<()> {
        let marks = &*self.marks;
        each(self.roster.tenants(), |(id, tenant)| async move {
            let standings = tenant.standings();
            let signs: Vec<_> = standings.iter().filter_map(|(agent, s)| Some((agent.clone(), s.seen?))).collect();
            let said: Vec<(AgentId, Said)> =
                standings.iter().filter_map(|(agent, s)| Some((agent.clone(), s.said()?))).collect();
            marks.put(&id, &signs, &said).await
        })
        .await
    }

    async fn read(&mut self, now: Timestamp) -> Result<()> {
        let sweep = self.progress.swept_at.is_none_or(|at| now.since(at) >= SWEEP_EVERY || now < at);
        let from = match self.progress.looked_at {
            Some(at) if !sweep => at - OVERLAP,
            _ => now - self.gauge.rule.offline_after - SWEEP_EVERY - OVERLAP,
        };
        let alive = self.marks.tenants(from).await?;
        let known = alive.into_iter().filter_map(|id| Some((self.roster.known_tenant(&id)?, id)));
        let marks = &*self.marks;
        each(known.collect(), |(tenant, id)| async move {
            tenant.signs(marks.signs(&id, from).await?);
            tenant.say(marks.said(&id, from).await?);
            Ok(())
        })
        .await?;
        if sweep {
            self.progress.swept_at = Some(now);
        }
        Ok(())
    }

    /// Each change is marked as said before it is said: whoever takes over does not say it again.
    async fn say_changes(&self, watching: &mut Watching, now: Timestamp) -> Result<()> {
        for (id, tenant) in self.roster.tenants() {
            let shown = tenant.shown(self.gauge.moment());
            if !watching.told.contains_key(&id) {
                let announced = self.marks.announced(&id).await?.into_iter().collect();
                watching.told.insert(id.clone(), Told { announced, compared: Arc::default() });
            }
            let Some(told) = watching.told.get_mut(&id) else { continue };
            if Arc::ptr_eq(&told.compared, &shown) {
                continue;
            }
            let (mut marks, mut changes) = (Vec::new(), Vec::new());
            for agent in shown.agents.iter() {
                match told.announced.get(&agent.agent_id) {
                    // New here: its joining was announced as active, because registering is a sign of life. One that
                    // was here before, and whose mark is lost, was announced with what it is.
                    None => {
                        marks.push((agent.agent_id.clone(), Announced::new(now, agent.status)));
                        if agent.status != Presence::Active && now.since(agent.registered_at) < JUST_JOINED {
                            changes.push((agent.clone(), Presence::Active));
                        }
                    }
                    Some(before) if before.status != agent.status => {
                        marks.push((agent.agent_id.clone(), before.then(now, agent.status)));
                        changes.push((agent.clone(), before.status));
                    }
                    Some(_) => {}
                }
            }
            if !marks.is_empty() {
                self.marks.announce(&id, &marks).await?;
            }
            told.announced.extend(marks);
            if told.announced.len() > shown.agents.len() {
                told.announced.retain(|agent, _| tenant.knows(agent));
            }
            told.compared = shown;
            for (agent, previous) in changes {
                self.announcer.status(&id, &agent.agent_id, agent.status, previous).await;
            }
        }
        Ok(())
    }

    /// Takes last signs to the database when it is time. A failure costs a restart some accuracy and nothing else.
    async fn save(&self, watching: &mut Watching, now: Timestamp) {
        if watching.save_next.is_some_and(|next| now < next) {
            return;
        }
        watching.save_next = Some(now + SAVE_EVERY);
        let from = watching.saved_until.map(|until| until - OVERLAP);
        let mut signs = Vec::new();
        for (id, tenant) in self.roster.tenants() {
            let seen = tenant.standings().into_iter().filter_map(|(agent, standing)| Some((agent, standing.seen?)));
            signs.extend(seen.filter(|(_, at)| Some(*at) >= from).map(|(agent, at)| (id.clone(), agent, at)));
        }
        for batch in signs.chunks(SAVE_BATCH) {
            match timeout(SAVE_WITHIN, self.store.save_last_seen(batch)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    return tracing::warn!(%error, "last signs of life were not saved; tried again in 60 s");
                }
                Err(_) => {
                    return tracing::warn!(
                        "last signs of life were not saved: the database is slow; tried again in 60 s"
                    );
                }
            }
        }
        watching.saved_until = Some(now);
    }

    /// In order: what is known goes to the database, and another replica may watch at once.
    async fn leave(mut self) {
        let Some(mut watching) = self.progress.watching.take() else { return };
        watching.save_next = None;
        self.save(&mut watching, self.gauge.now()).await;
        if let Err(error) = self.marks.stop_watching(&self.holder).await {
            tracing::debug!(%error, "the lease on watching presence runs out by itself");
        }
    }
}

async fn each<T, F>(items: Vec<T>, work: impl Fn(T) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    futures::stream::iter(items.into_iter().map(Ok)).try_for_each_concurrent(TENANTS_AT_ONCE, work).await
}
