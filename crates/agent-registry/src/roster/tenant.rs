//! The agents of one tenant, in memory: their records, their standing, and the list as it was last shown.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use guildhall_domain::{
    Agent, AgentId, AgentPage, AgentQuery, Presence, Timestamp,
    agent::{PAGE_DEFAULT, PAGE_MAX},
};
use parking_lot::Mutex;

use crate::presence::{Moment, Said, Standing};

/// New signs of life show in lists this late at most: a list of thousands is not rebuilt for every heartbeat.
const SIGNS_SHOW_WITHIN: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(crate) struct TenantRoster {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    members: BTreeMap<AgentId, Member>,
    /// The version of each removal that an older change might still follow.
    gone: HashMap<AgentId, u64>,
    shown: Arc<Shown>,
    news: News,
}

struct Member {
    agent: Arc<Agent>,
    standing: Standing,
}

/// What has happened since the list was last shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    #[default]
    None,
    Signs,
    Records,
}

/// Everyone in the order of ids, judged at one moment. Never changed, only replaced.
#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) agents: Arc<[Arc<Agent>]>,
    judged_at: Timestamp,
    /// When time alone changes a status.
    good_until: Option<Timestamp>,
}

impl TenantRoster {
    /// True when it was news: an older version never replaces a newer one.
    pub(super) fn put(&self, agent: Agent) -> bool {
        let mut book = self.book.lock();
        if book.gone.get(&agent.agent_id).is_some_and(|gone| *gone >= agent.version) {
            return false;
        }
        match book.members.get_mut(&agent.agent_id) {
            Some(member) if member.agent.version >= agent.version => return false,
            Some(member) => {
                if let Some(seen) = agent.last_heartbeat {
                    member.standing.sign(seen);
                }
                member.agent = Arc::new(agent);
            }
            None => {
                let standing = Standing::since(agent.last_heartbeat);
                book.members.insert(agent.agent_id.clone(), Member { agent: Arc::new(agent), standing });
            }
        }
        book.news = News::Records;
        true
    }

    pub(super) fn drop_out(&self, agent: &AgentId, version: u64) {
        let mut book = self.book.lock();
        if book.members.get(agent).is_some_and(|member| member.agent.version < version) {
            book.members.remove(agent);
            book.news = News::Records;
        }
        let gone = book.gone.entry(agent.clone()).or_default();
        *gone = version.max(*gone);
    }

    /// Changes up to `version` have all been seen: no older one can follow.
    pub(super) fn forget_gone(&self, version: u64) {
        self.book.lock().gone.retain(|_, gone| *gone > version);
    }

    pub(crate) fn get(&self, agent: &AgentId, moment: Moment) -> Option<Arc<Agent>> {
        let mut book = self.book.lock();
        let member = book.members.get_mut(agent)?;
        member.show(moment);
        Some(member.agent.clone())
    }

    pub(crate) fn list(&self, query: &AgentQuery, moment: Moment) -> AgentPage {
        self.shown(moment).page(query)
    }

    pub(crate) fn shown(&self, moment: Moment) -> Arc<Shown> {
        let mut book = self.book.lock();
        if !book.shown.is_good(book.news, moment) {
            book.shown = Arc::new(show(&mut book.members, moment));
            book.news = News::None;
        }
        book.shown.clone()
    }

    /// Takes signs of life of those who are here.
    pub(crate) fn signs(&self, signs: impl IntoIterator<Item = (AgentId, Timestamp)>) {
        self.each(signs, Standing::sign);
    }

    pub(crate) fn say(&self, said: impl IntoIterator<Item = (AgentId, Said)>) {
        self.each(said, Standing::say);
    }

    fn each<T>(&self, news: impl IntoIterator<Item = (AgentId, T)>, take: fn(&mut Standing, T) -> bool) {
        let mut book = self.book.lock();
        let book = &mut *book;
        for (agent, what) in news {
            if let Some(member) = book.members.get_mut(&agent)
                && take(&mut member.standing, what)
            {
                book.news = book.news.max(News::Signs);
            }
        }
    }

    /// Fixes what everyone counts as, for as long as statuses are held.
    pub(crate) fn hold(&self, status: impl Fn(&Standing) -> Presence) {
        let mut book = self.book.lock();
        for member in book.members.values_mut() {
            let status = status(&member.standing);
            member.standing.hold(status);
        }
        book.news = News::Records;
    }

    pub(crate) fn knows(&self, agent: &AgentId) -> bool {
        self.book.lock().members.contains_key(agent)
    }

    pub(crate) fn standings(&self) -> Vec<(AgentId, Standing)> {
        self.book.lock().members.iter().map(|(id, member)| (id.clone(), member.standing)).collect()
    }
}

impl Member {
    /// Brings the record's presence up to the moment. Copies the record only if it changed and is in a list.
    fn show(&mut self, moment: Moment) {
        let status = moment.judge(&self.standing);
        if self.agent.status != status || self.agent.last_heartbeat != self.standing.seen {
            let agent = Arc::make_mut(&mut self.agent);
            agent.status = status;
            agent.last_heartbeat = self.standing.seen;
        }
    }
}

fn show(members: &mut BTreeMap<AgentId, Member>, moment: Moment) -> Shown {
    let mut good_until: Option<Timestamp> = None;
    let mut agents = Vec::with_capacity(members.len());
    for member in members.values_mut() {
        member.show(moment);
        agents.push(member.agent.clone());
        if let Some(next) = moment.next_change(&member.standing) {
            good_until = Some(good_until.map_or(next, |until| until.min(next)));
        }
    }
    Shown { agents: agents.into(), judged_at: moment.now, good_until }
}

impl Shown {
    fn is_good(&self, news: News, moment: Moment) -> bool {
        let aged = moment.now < self.judged_at || moment.now >= self.judged_at + SIGNS_SHOW_WITHIN;
        let turned = moment.now < self.judged_at || self.good_until.is_some_and(|until| moment.now >= until);
        match news {
            News::None => !turned,
            News::Signs => !turned && !aged,
            News::Records => false,
        }
    }

    fn page(&self, query: &AgentQuery) -> AgentPage {
        let limit = if query.limit == 0 { PAGE_DEFAULT } else { query.limit.min(PAGE_MAX) };
        let after = |id: &AgentId| query.after.as_ref().is_none_or(|after| id > after);
        if query.status.is_some() || query.capability.is_some() || query.role.is_some() {
            let matching: Vec<&Arc<Agent>> = self.agents.iter().filter(|agent| matches(query, agent)).collect();
            let from = matching.partition_point(|agent| !after(&agent.agent_id));
            let rest = &matching[from..];
            let agents: Arc<[Arc<Agent>]> = rest.iter().take(limit).copied().cloned().collect();
            return AgentPage { next: next(&agents, rest.len()), total: matching.len(), agents };
        }
        let from = self.agents.partition_point(|agent| !after(&agent.agent_id));
        let rest = &self.agents[from..];
        let whole = from == 0 && rest.len() <= limit;
        let agents = if whole { self.agents.clone() } else { rest[..rest.len().min(limit)].into() };
        AgentPage { next: next(&agents, rest.len()), total: self.agents.len(), agents }
    }
}

fn matches(query: &AgentQuery, agent: &Agent) -> bool {
    query.status.is_none_or(|status| agent.status == status)
        && query.capability.as_deref().is_none_or(|capability| agent.capabilities.contains(capability))
        && query.role.as_deref().is_none_or(|role| agent.roles.contains(role))
}

/// Where the next page begins, if this one has left anything out.
fn next(page: &[Arc<Agent>], rest: usize) -> Option<AgentId> {
    (page.len() < rest).then(|| page.last().map(|agent| agent.agent_id.clone())).flatten()
}
