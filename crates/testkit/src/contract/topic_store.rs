//! What every database under topics must do. An engine's crate stamps it with [`crate::topic_store_contract`], over
//! the [`Stage`] of the store.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::{slice, time::Duration};

use futures::future::join_all;
use guildhall_domain::{
    AgentId, ErrorCode, Result, TenantId, Timestamp,
    event::{Subscriber, TopicInfo, TopicSchema},
    mail::{Mailbox, Message, Recipient, delivery::HistoryQuery, kind},
    ports::{
        bus::Topic,
        mail_store::{Addressees, MailboxBound, Outgoing},
        topic_store::Feed,
    },
};
use serde_json::json;

use super::{
    eventually, insist,
    mail_store::letter,
    store::{NOW, Replica, Stage, act_in, hall, id, register_named, tenant},
};

/// Stamps the whole suite for one engine, bare and behind faults. `$stage` names an async function that gives
/// `Option<Stage>`, `None` when the run goes without that engine.
#[macro_export]
macro_rules! topic_store_contract {
    ($engine:ident, $stage:path) => {
        $crate::topic_store_contract! {
            @stamp $engine, $stage,
            a_schema_is_kept_with_every_version_before_it
            of_two_who_set_a_schema_at_once_one_is_told
            subscribing_again_changes_the_filter_and_keeps_the_first_moment
            a_feed_is_there_as_long_as_its_topic_has_subscribers
            an_agent_that_leaves_subscribes_to_nothing_any_more
            topics_are_those_with_a_schema_or_subscribers_in_their_order
            an_event_that_was_brought_is_not_brought_again
            an_event_for_one_whose_mailbox_is_full_is_brought_to_the_others
            a_feed_that_ended_and_began_anew_is_another
            replicas_that_bring_events_at_once_bring_each_once
        }
    };
    (@stamp $engine:ident, $stage:path, $($test:ident)*) => {
        mod $engine {
            mod bare {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::topic_store::$test(&stage).await;
                })*
            }

            mod behind_faults {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::topic_store::$test(&stage.behind_faults(3)).await;
                })*
            }
        }
    };
}

const BOUND: MailboxBound = MailboxBound { messages: 10_000 };

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn at(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

fn schema(of: &str, version: u32, set_by: &str) -> TopicSchema {
    let schema = json!({ "type": "object", "required": ["ü", 1.5], "title": format!("{set_by}'s {version}") });
    TopicSchema { topic: topic(of), version, schema, set_at: at(version.into()), set_by: set_by.to_owned() }
}

async fn add_schema(replica: &Replica, tenant: &TenantId, schema: &TopicSchema) -> Result<()> {
    insist(async || replica.topics.add_schema(tenant, schema, act_in(tenant, "topic.schema", "")).await).await
}

async fn schema_becomes(
    replica: &Replica,
    tenant: &TenantId,
    of: &str,
    version: Option<u32>,
    wanted: Option<&TopicSchema>,
) {
    let found =
        async || Ok((replica.topics.schema(tenant, &topic(of), version).await?.as_ref() == wanted).then_some(()));
    eventually(&format!("version {version:?} of {of} in {tenant} is {wanted:?}"), found).await;
}

async fn subscribe(
    replica: &Replica,
    tenant: &TenantId,
    to: &str,
    agent: &str,
    filter: Option<&str>,
    since: Timestamp,
) {
    let subscriber = Subscriber { agent_id: id(agent), filter: filter.map(str::to_owned), since };
    let put = async || {
        replica.topics.put_subscriber(tenant, &topic(to), &subscriber, act_in(tenant, "topic.subscribe", agent)).await
    };
    insist(put).await.unwrap();
}

async fn unsubscribe(replica: &Replica, tenant: &TenantId, from: &str, agent: &str) -> bool {
    let remove = async || {
        replica
            .topics
            .remove_subscriber(tenant, &topic(from), &id(agent), act_in(tenant, "topic.unsubscribe", agent))
            .await
    };
    insist(remove).await.unwrap()
}

async fn subscribers_become(
    replica: &Replica,
    tenant: &TenantId,
    of: &str,
    wanted: &[(&str, Option<&str>, Timestamp)],
) {
    let wanted: Vec<Subscriber> = wanted
        .iter()
        .map(|(agent, filter, since)| Subscriber {
            agent_id: id(agent),
            filter: filter.map(str::to_owned),
            since: *since,
        })
        .collect();
    let found = async || Ok((replica.topics.subscribers(tenant, &topic(of)).await? == wanted).then_some(()));
    eventually(&format!("the subscribers of {of} in {tenant} are {wanted:?}"), found).await;
}

fn feed(tenant: &TenantId, of: &str, position: u64, since: Timestamp) -> Feed {
    Feed { tenant: tenant.clone(), topic: topic(of), position, since }
}

async fn feeds_become(replica: &Replica, wanted: &[Feed]) {
    let found = async || Ok((replica.topics.feeds().await? == wanted).then_some(()));
    eventually(&format!("the feeds are {wanted:?}"), found).await;
}

/// An event as mail.
fn event(of: &str, to: &[AgentId]) -> Outgoing {
    let letter = letter("publisher", "unused");
    let message = Message { to: Recipient::Topic(topic(of)), kind: kind::EVENT.to_owned(), ..letter.message };
    Outgoing { to: Addressees::Many(to.to_vec()), receipt: None, message, ..letter }
}

/// Whom it wakes; `None` when the feed has moved on, which a call does as well whose answer was lost.
async fn bring(
    replica: &Replica,
    feed: &Feed,
    to: u64,
    mail: &[Outgoing],
    bound: MailboxBound,
) -> Option<Vec<Mailbox>> {
    match insist(async || replica.topics.feed(feed, to, mail.to_vec(), bound).await).await {
        Ok(mut wake) => {
            wake.sort();
            wake.dedup();
            Some(wake)
        }
        Err(refused) => {
            assert_eq!(refused.code, ErrorCode::Conflict, "{refused}");
            None
        }
    }
}

/// The ids of what an agent was ever sent, in its order.
async fn mail_becomes(replica: &Replica, agent: &str, wanted: &[&Outgoing]) {
    let wanted: Vec<_> = wanted.iter().map(|mail| mail.message.message_id).collect();
    let (mailbox, query) = (Mailbox::Agent(id(agent)), HistoryQuery { after: None, limit: 1_000 });
    let found = async || {
        let history = replica.mail.history(&hall(), &mailbox, &query).await?;
        let found: Vec<_> = history.messages.iter().map(|kept| kept.message.message_id).collect();
        Ok((found == wanted && history.total == wanted.len() as u64).then_some(()))
    };
    eventually(&format!("{agent} was sent {wanted:?}"), found).await;
}

pub async fn a_schema_is_kept_with_every_version_before_it(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    schema_becomes(&one, &hall(), "ci", None, None).await;
    let versions = [schema("ci", 1, "ann"), schema("ci", 2, "ben")];
    for version in &versions {
        add_schema(&one, &hall(), version).await.unwrap();
    }
    schema_becomes(&other, &hall(), "ci", None, Some(&versions[1])).await;
    schema_becomes(&other, &hall(), "ci", Some(1), Some(&versions[0])).await;
    schema_becomes(&other, &hall(), "ci", Some(3), None).await;
    schema_becomes(&other, &hall(), "cd", None, None).await;
    schema_becomes(&other, &tenant("red"), "ci", None, None).await;
    for not_next in [schema("ci", 1, "eve"), schema("ci", 2, "eve"), schema("ci", 4, "eve"), schema("cd", 2, "eve")] {
        let refused = add_schema(&other, &hall(), &not_next).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Conflict, "{refused}");
    }
    schema_becomes(&one, &hall(), "ci", None, Some(&versions[1])).await;
}

pub async fn of_two_who_set_a_schema_at_once_one_is_told(stage: &Stage) {
    let replicas = ["ann", "ben", "eve"].map(|name| (stage.replica(name), schema("ci", 1, name)));
    let tenant = hall();
    let set = replicas.iter().map(|(replica, schema)| add_schema(replica, &tenant, schema));
    let outcomes = join_all(set).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let winner = outcomes.iter().position(Result::is_ok).unwrap();
    schema_becomes(&replicas[0].0, &hall(), "ci", None, Some(&replicas[winner].1)).await;
}

pub async fn subscribing_again_changes_the_filter_and_keeps_the_first_moment(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    subscribe(&one, &hall(), "ci", "bob", None, at(1)).await;
    subscribe(&one, &hall(), "ci", "ada", Some("event.ok"), at(2)).await;
    subscribers_become(&other, &hall(), "ci", &[("ada", Some("event.ok"), at(2)), ("bob", None, at(1))]).await;
    subscribe(&other, &hall(), "ci", "ada", Some("!event.ok"), at(3)).await;
    subscribe(&other, &hall(), "ci", "bob", Some("true"), at(4)).await;
    subscribe(&other, &tenant("red"), "ci", "ada", None, at(5)).await;
    subscribers_become(&one, &hall(), "ci", &[("ada", Some("!event.ok"), at(2)), ("bob", Some("true"), at(1))]).await;
    subscribers_become(&one, &tenant("red"), "ci", &[("ada", None, at(5))]).await;
    subscribers_become(&one, &hall(), "cd", &[]).await;
}

pub async fn a_feed_is_there_as_long_as_its_topic_has_subscribers(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    feeds_become(&one, &[]).await;
    assert!(!unsubscribe(&one, &hall(), "ci", "ada").await, "nobody was subscribed");
    subscribe(&one, &hall(), "ci", "ada", None, at(1)).await;
    subscribe(&other, &hall(), "ci", "bob", None, at(2)).await;
    subscribe(&other, &tenant("red"), "ci", "bob", None, at(3)).await;
    subscribe(&one, &hall(), "cd", "bob", None, at(4)).await;
    let feeds = [feed(&hall(), "cd", 0, at(4)), feed(&hall(), "ci", 0, at(1)), feed(&tenant("red"), "ci", 0, at(3))];
    feeds_become(&one, &feeds).await;

    // The first to come is the first to go: the feed is the topic's, not the agent's.
    assert!(unsubscribe(&other, &hall(), "ci", "ada").await || !stage.answers_once());
    feeds_become(&one, &feeds).await;
    assert!(unsubscribe(&one, &hall(), "ci", "bob").await || !stage.answers_once());
    feeds_become(&one, &[feeds[0].clone(), feeds[2].clone()]).await;
    subscribe(&one, &hall(), "ci", "eve", None, at(6)).await;
    feeds_become(&other, &[feeds[0].clone(), feed(&hall(), "ci", 0, at(6)), feeds[2].clone()]).await;
}

pub async fn an_agent_that_leaves_subscribes_to_nothing_any_more(stage: &Stage) {
    let replica = stage.replica("one");
    for agent in ["ada", "bob"] {
        register_named(&replica, agent).await;
        subscribe(&replica, &hall(), "ci", agent, None, at(1)).await;
    }
    for topic in ["cd", "ops"] {
        subscribe(&replica, &hall(), topic, "ada", None, at(1)).await;
    }
    subscribe(&replica, &tenant("red"), "cd", "ada", None, at(1)).await;
    insist(async || replica.agents.remove(&hall(), &id("ada"), act_in(&hall(), "agent.remove", "ada")).await)
        .await
        .unwrap();
    subscribers_become(&replica, &hall(), "ci", &[("bob", None, at(1))]).await;
    subscribers_become(&replica, &hall(), "cd", &[]).await;
    feeds_become(&replica, &[feed(&hall(), "ci", 0, at(1)), feed(&tenant("red"), "cd", 0, at(1))]).await;
}

pub async fn topics_are_those_with_a_schema_or_subscribers_in_their_order(stage: &Stage) {
    let replica = stage.replica("one");
    let topics_become = async |wanted: &[(&str, Option<u32>, usize)]| {
        let info = |(name, schema_version, subscribers): &(&str, Option<u32>, usize)| TopicInfo {
            topic: topic(name),
            schema_version: *schema_version,
            subscribers: *subscribers,
        };
        let wanted: Vec<TopicInfo> = wanted.iter().map(info).collect();
        let found = async || Ok((replica.topics.topics(&hall()).await? == wanted).then_some(()));
        eventually(&format!("the topics are {wanted:?}"), found).await;
    };
    topics_become(&[]).await;
    add_schema(&replica, &hall(), &schema("both", 1, "ann")).await.unwrap();
    add_schema(&replica, &hall(), &schema("both", 2, "ann")).await.unwrap();
    add_schema(&replica, &hall(), &schema("Schema.only", 1, "ann")).await.unwrap();
    for agent in ["ada", "bob"] {
        subscribe(&replica, &hall(), "both", agent, None, at(1)).await;
    }
    subscribe(&replica, &hall(), "followed", "ada", None, at(1)).await;
    subscribe(&replica, &tenant("red"), "elsewhere", "ada", None, at(1)).await;
    topics_become(&[("Schema.only", Some(1), 0), ("both", Some(2), 2), ("followed", None, 1)]).await;
    unsubscribe(&replica, &hall(), "both", "ada").await;
    unsubscribe(&replica, &hall(), "followed", "ada").await;
    topics_become(&[("Schema.only", Some(1), 0), ("both", Some(2), 1)]).await;
}

pub async fn an_event_that_was_brought_is_not_brought_again(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    for agent in ["ada", "bob"] {
        subscribe(&one, &hall(), "ci", agent, None, at(1)).await;
    }
    let [first, second, third] = [&["ada", "bob"][..], &["bob"], &["ada"]]
        .map(|to| event("ci", &to.iter().map(|agent| id(agent)).collect::<Vec<_>>()));
    let start = feed(&hall(), "ci", 0, at(1));
    let woken = bring(&one, &start, 7, &[first.clone(), second.clone()], BOUND).await;
    let both = ["ada", "bob"].map(|agent| Mailbox::Agent(id(agent))).to_vec();
    assert!(woken == Some(both) || !stage.answers_once(), "{woken:?}");
    feeds_become(&other, &[feed(&hall(), "ci", 7, at(1))]).await;
    mail_becomes(&other, "ada", &[&first]).await;
    mail_becomes(&other, "bob", &[&first, &second]).await;

    assert_eq!(bring(&other, &start, 7, slice::from_ref(&third), BOUND).await, None, "the feed has moved on");
    // Events that nobody wants are passed over.
    let woken = bring(&other, &feed(&hall(), "ci", 7, at(1)), 20, &[], BOUND).await;
    assert!(woken == Some(Vec::new()) || !stage.answers_once(), "{woken:?}");
    bring(&other, &feed(&hall(), "ci", 20, at(1)), 21, slice::from_ref(&third), BOUND).await;
    feeds_become(&one, &[feed(&hall(), "ci", 21, at(1))]).await;
    mail_becomes(&one, "ada", &[&first, &third]).await;
    mail_becomes(&one, "bob", &[&first, &second]).await;
}

pub async fn an_event_for_one_whose_mailbox_is_full_is_brought_to_the_others(stage: &Stage) {
    let replica = stage.replica("one");
    for agent in ["ada", "bob"] {
        subscribe(&replica, &hall(), "ci", agent, None, at(1)).await;
    }
    let events =
        [&["ada"][..], &["ada", "bob"]].map(|to| event("ci", &to.iter().map(|agent| id(agent)).collect::<Vec<_>>()));
    // Who is alone is no reason to stand still, either.
    let alone = Outgoing { to: Addressees::One(Mailbox::Agent(id("ada"))), ..event("ci", &[]) };
    let [first, second] = events;
    let bound = MailboxBound { messages: 1 };
    for (position, mail) in [(0, &first), (1, &second), (2, &alone)] {
        let to = position + 1;
        bring(&replica, &feed(&hall(), "ci", position, at(1)), to, slice::from_ref(mail), bound).await;
        feeds_become(&replica, &[feed(&hall(), "ci", to, at(1))]).await;
    }
    mail_becomes(&replica, "bob", &[&second]).await;
}

pub async fn a_feed_that_ended_and_began_anew_is_another(stage: &Stage) {
    let replica = stage.replica("one");
    subscribe(&replica, &hall(), "ci", "ada", None, at(1)).await;
    let before = feed(&hall(), "ci", 0, at(1));
    unsubscribe(&replica, &hall(), "ci", "ada").await;
    let late = event("ci", &[id("ada")]);
    assert_eq!(bring(&replica, &before, 5, slice::from_ref(&late), BOUND).await, None, "nobody subscribes");
    subscribe(&replica, &hall(), "ci", "ada", None, at(2)).await;
    assert_eq!(bring(&replica, &before, 5, slice::from_ref(&late), BOUND).await, None, "this is from before it came");
    feeds_become(&replica, &[feed(&hall(), "ci", 0, at(2))]).await;
    mail_becomes(&replica, "ada", &[]).await;
}

pub async fn replicas_that_bring_events_at_once_bring_each_once(stage: &Stage) {
    let replicas = ["one", "two", "three"].map(|name| stage.replica(name));
    for agent in ["ada", "bob"] {
        subscribe(&replicas[0], &hall(), "ci", agent, None, at(1)).await;
        subscribe(&replicas[0], &hall(), "cd", agent, None, at(1)).await;
    }
    let events = |of| (0..12).map(|_| event(of, &[id("ada"), id("bob")])).collect::<Vec<_>>();
    let topics = [("ci", events("ci")), ("cd", events("cd"))];
    // Each reads where the feed is, and brings the next two.
    let work = replicas.iter().flat_map(|replica| topics.iter().map(move |topic| (replica, topic)));
    let work = work.map(|(replica, (of, events))| async move {
        loop {
            let feeds = insist(async || replica.topics.feeds().await).await.unwrap();
            let Some(feed) = feeds.into_iter().find(|feed| feed.topic == topic(of)) else { continue };
            let done = usize::try_from(feed.position).unwrap();
            if done >= events.len() {
                return;
            }
            bring(replica, &feed, feed.position + 2, &events[done..done + 2], BOUND).await;
        }
    });
    join_all(work).await;
    for agent in ["ada", "bob"] {
        let (mailbox, query) = (Mailbox::Agent(id(agent)), HistoryQuery { after: None, limit: 1_000 });
        for (of, events) in &topics {
            let wanted: Vec<_> = events.iter().map(|mail| mail.message.message_id).collect();
            let found = async || {
                let history = replicas[0].mail.history(&hall(), &mailbox, &query).await?;
                let of_topic = history.messages.iter().filter(|kept| kept.message.to == Recipient::Topic(topic(of)));
                let found: Vec<_> = of_topic.map(|kept| kept.message.message_id).collect();
                Ok((found == wanted).then_some(()))
            };
            eventually(&format!("{agent} has each event of {of} once, in order"), found).await;
        }
    }
}
