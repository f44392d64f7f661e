//! The agents of one tenant, in memory: their records, their standing, and the list as it was last shown.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use guildhall_domain::{
    Agent, AgentId, AgentPage, AgentQuery, Presence, Timestamp,
    agent::{Delivery, PAGE_DEFAULT, PAGE_MAX},
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

    /// A part of everyone is taken from the records while the list is old: whoever joins is told of some others, and
    /// with each that joined the list of all would be made anew.
    pub(crate) fn list(&self, query: &AgentQuery, moment: Moment) -> AgentPage {
        let mut book = self.book.lock();
        let is_part = query.is_of_everyone() && limit_of(query) < book.members.len();
        if is_part && !book.shown.is_good(book.news, moment) {
            return part(&mut book.members, query, moment);
        }
        let shown = book.shown(moment);
        drop(book);
        shown.page(query)
    }

    /// Those that want their mail brought this way.
    pub(crate) fn wanting(&self, delivery: Delivery, moment: Moment) -> Vec<Arc<Agent>> {
        let mut book = self.book.lock();
        let wanting = book.members.values_mut().filter(|member| member.agent.delivery == delivery);
        let shown = wanting.map(|member| {
            member.show(moment);
            member.agent.clone()
        });
        shown.collect()
    }

    pub(crate) fn shown(&self, moment: Moment) -> Arc<Shown> {
        self.book.lock().shown(moment)
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
    pub(crate) fn hold(&self, status: impl Fn(&Standing) -> Option<Presence>) {
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

impl Book {
    fn shown(&mut self, moment: Moment) -> Arc<Shown> {
        if !self.shown.is_good(self.news, moment) {
            self.shown = Arc::new(show(&mut self.members, moment));
            self.news = News::None;
        }
        self.shown.clone()
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

fn limit_of(query: &AgentQuery) -> usize {
    if query.limit == 0 { PAGE_DEFAULT } else { query.limit.min(PAGE_MAX) }
}

fn part(members: &mut BTreeMap<AgentId, Member>, query: &AgentQuery, moment: Moment) -> AgentPage {
    let total = members.len();
    let from = query.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut rest = members.range_mut::<AgentId, _>((from, Bound::Unbounded)).map(|(_, member)| {
        member.show(moment);
        member.agent.clone()
    });
    let agents: Arc<[Arc<Agent>]> = rest.by_ref().take(limit_of(query)).collect();
    let more = usize::from(rest.next().is_some());
    AgentPage { next: next(&agents, agents.len() + more), total, agents }
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
        let limit = limit_of(query);
        let after = |id: &AgentId| query.after.as_ref().is_none_or(|after| id > after);
        if !query.is_of_everyone() {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use guildhall_domain::{Clock, TenantId, agent::Delivery};
    use guildhall_testkit::clock::FixedClock;
    use serde_json::Map;

    use super::*;
    use crate::presence::Gauge;

    fn id(name: &str) -> AgentId {
        AgentId::new(name).unwrap()
    }

    fn agent(name: &str, version: u64, seen: Timestamp) -> Agent {
        Agent {
            tenant: TenantId::default(),
            agent_id: id(name),
            name: format!("{name} {version}"),
            session_id: None,
            status: Presence::Offline,
            capabilities: BTreeSet::new(),
            roles: BTreeSet::new(),
            pool: None,
            delivery: Delivery::Poll,
            webhook_url: None,
            metadata: Map::new(),
            public_key: None,
            old_keys: Vec::new(),
            paused: None,
            registered_at: seen,
            last_heartbeat: Some(seen),
            version,
            token_epoch: 0,
        }
    }

    fn stage() -> (Arc<FixedClock>, Gauge, TenantRoster) {
        let clock = Arc::new(FixedClock::default());
        let gauge = Gauge::new(Default::default(), clock.clone());
        gauge.thaw();
        (clock, gauge, TenantRoster::default())
    }

    fn names(roster: &TenantRoster, gauge: &Gauge) -> Vec<String> {
        roster.shown(gauge.moment()).agents.iter().map(|agent| agent.name.clone()).collect()
    }

    #[test]
    fn changes_that_come_in_another_order_leave_the_newest() {
        let (clock, gauge, roster) = stage();
        let now = clock.now();
        assert!(roster.put(agent("a", 3, now)));
        assert!(!roster.put(agent("a", 2, now)), "an older record replaced a newer one");
        roster.drop_out(&id("b"), 5);
        assert!(!roster.put(agent("b", 4, now)), "who was removed came back by an older change");
        roster.drop_out(&id("a"), 2);
        assert_eq!(names(&roster, &gauge), ["a 3"], "an older removal took a newer record away");
        assert!(roster.put(agent("b", 6, now)));
        roster.drop_out(&id("a"), 7);
        assert_eq!(names(&roster, &gauge), ["b 6"]);
        roster.forget_gone(7);
        assert!(roster.book.lock().gone.is_empty(), "removals are remembered for ever");
    }

    #[test]
    fn an_update_of_the_record_keeps_the_newest_sign_of_life() {
        let (clock, gauge, roster) = stage();
        roster.put(agent("a", 1, clock.now()));
        clock.advance(Duration::from_secs(70));
        roster.signs([(id("a"), clock.now())]);
        roster.put(agent("a", 2, clock.now() - Duration::from_secs(70)));
        let shown = roster.get(&id("a"), gauge.moment()).unwrap();
        assert_eq!((shown.status, shown.last_heartbeat), (Presence::Active, Some(clock.now())));
    }

    #[test]
    fn a_list_is_rebuilt_for_a_record_at_once_for_signs_soon_and_for_time_when_it_matters() {
        let (clock, gauge, roster) = stage();
        roster.put(agent("a", 1, clock.now()));
        let first = roster.shown(gauge.moment());
        clock.advance(Duration::from_secs(59));
        assert!(Arc::ptr_eq(&first, &roster.shown(gauge.moment())), "nothing has changed");
        clock.advance(Duration::from_secs(1));
        let idle = roster.shown(gauge.moment());
        assert_eq!(idle.agents[0].status, Presence::Idle);
        assert_eq!(first.agents[0].status, Presence::Active, "a list that was handed out has changed");

        roster.signs([(id("a"), clock.now()), (id("stranger"), clock.now())]);
        assert!(Arc::ptr_eq(&idle, &roster.shown(gauge.moment())), "rebuilt for every heartbeat");
        assert_eq!(roster.get(&id("a"), gauge.moment()).unwrap().status, Presence::Active);
        clock.advance(SIGNS_SHOW_WITHIN);
        assert_eq!(roster.shown(gauge.moment()).agents[0].status, Presence::Active);

        roster.put(agent("b", 2, clock.now()));
        assert_eq!(roster.shown(gauge.moment()).agents.len(), 2);
    }

    #[test]
    fn a_whole_list_is_handed_out_without_a_copy() {
        let (clock, gauge, roster) = stage();
        for n in 0..50 {
            roster.put(agent(&format!("a-{n:02}"), n + 1, clock.now()));
        }
        let page = roster.list(&AgentQuery::default(), gauge.moment());
        assert!(Arc::ptr_eq(&page.agents, &roster.shown(gauge.moment()).agents));
        let query = AgentQuery { limit: 20, after: Some(id("a-24")), ..AgentQuery::default() };
        let page = roster.list(&query, gauge.moment());
        assert_eq!((page.total, page.agents.len(), page.next), (50, 20, Some(id("a-44"))));
        let query = AgentQuery { after: Some(id("a-44")), ..query };
        let last = roster.list(&query, gauge.moment());
        assert_eq!((last.agents.len(), last.next), (5, None));
    }

    #[test]
    fn a_part_of_everyone_is_the_same_whether_the_list_is_old_or_new_and_makes_no_list() {
        let (clock, gauge, roster) = stage();
        for n in 0..50 {
            roster.put(agent(&format!("a-{n:02}"), n + 1, clock.now()));
        }
        clock.advance(Duration::from_secs(60));
        roster.signs([(id("a-07"), clock.now())]);
        let pages = || {
            [
                (1, None),
                (20, None),
                (49, None),
                (20, Some("a-24")),
                (5, Some("a-44")),
                (6, Some("a-44")),
                (9, Some("b")),
            ]
            .map(|(limit, after)| AgentQuery { limit, after: after.map(id), ..AgentQuery::default() })
            .map(|query| roster.list(&query, gauge.moment()))
        };
        let old = pages();
        assert_eq!(roster.book.lock().news, News::Records, "the list was made for a part of it");
        roster.shown(gauge.moment());
        assert_eq!(old, pages());
        assert_eq!(old[1].agents[7].status, Presence::Active);
    }
}
