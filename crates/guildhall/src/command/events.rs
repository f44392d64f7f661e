//! `guildhall events`: a topic as it happens, and as it was.

use std::time::Duration;

use clap::{Args, Subcommand};
use futures::StreamExt;
use guildhall_domain::{AgentId, Timestamp, event::TopicEvent, mail::Body, ports::bus::Topic};
use serde::Deserialize;
use serde_json::{Value, json};

use super::time;
use crate::{
    failure::Failure,
    hall::{Hall, HallArgs},
    screen,
};

/// Follows a topic, shows what was published on it, publishes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  guildhall events tail ci.done\n  \
                        guildhall events tail ci.done --filter 'event.status == \"failed\"'\n  \
                        guildhall events replay ci.done --from 2026-11-20T10:00:00Z --json\n  \
                        guildhall events publish ci.done '{\"status\": \"failed\"}' --from ci")]
pub(super) struct Events {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows events as they are published, until it is stopped
    Tail {
        #[arg(value_name = "TOPIC")]
        topic: Topic,
        /// Go on after this sequence
        #[arg(long, value_name = "SEQUENCE")]
        after: Option<u64>,
        #[command(flatten)]
        reading: Reading,
    },
    /// Shows what was published and is still kept, the oldest first
    Replay {
        #[arg(value_name = "TOPIC")]
        topic: Topic,
        /// Not before: 2026-11-20T10:00:00Z
        #[arg(long, value_name = "TIME", value_parser = time)]
        from: Option<Timestamp>,
        /// Not after
        #[arg(long, value_name = "TIME", value_parser = time)]
        to: Option<Timestamp>,
        /// How many to show
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
        #[command(flatten)]
        reading: Reading,
    },
    /// Publishes an event
    Publish {
        #[arg(value_name = "TOPIC")]
        topic: Topic,
        /// Its content, JSON
        #[arg(value_name = "JSON")]
        event: String,
        /// In an open hall: the agent that publishes
        #[arg(long, value_name = "ID")]
        from: Option<AgentId>,
        #[command(flatten)]
        hall: HallArgs,
    },
}

#[derive(Debug, Args)]
struct Reading {
    /// A CEL expression over event and headers: 'event.status == "failed"'
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
    /// For scripts: one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hall: HallArgs,
}

#[derive(Deserialize)]
struct Page {
    events: Vec<TopicEvent>,
    next: Option<u64>,
}

/// The hall says something at least every 15 s on a stream that lives.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Between one broken stream and the next.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Events {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Tail { topic, after, reading } => reading.tail(&topic, after).await,
            Verb::Replay { topic, from, to, limit, reading } => reading.replay(&topic, from, to, limit).await,
            Verb::Publish { topic, event, from, hall } => {
                let event = Body::from_text(event)?;
                let path = ["api", "v1", "topics", topic.as_str(), "events"];
                let answer: Value =
                    hall.hall_for(from.as_ref(), "--from")?.post(&path, &json!({ "event": event })).await?;
                screen::say(format!("published: {}", answer["sequence"]))
            }
        }
    }
}

impl Reading {
    /// A stream that breaks is taken up again after the last event that was shown: none is missed, none shown twice.
    async fn tail(&self, topic: &Topic, after: Option<u64>) -> Result<(), Failure> {
        let hall = self.hall.hall()?;
        let mut after = after.map(|after| after.to_string());
        let mut has_worked = false;
        loop {
            match self.follow(&hall, topic, &mut after, &mut has_worked).await {
                // What never worked will not begin to by itself.
                Err(failure) if !has_worked => return Err(failure),
                Err(failure) => eprintln!("{}; trying again", failure.message()),
                Ok(()) => {}
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn follow(
        &self,
        hall: &Hall,
        topic: &Topic,
        after: &mut Option<String>,
        has_worked: &mut bool,
    ) -> Result<(), Failure> {
        let path = ["api", "v1", "topics", topic.as_str(), "stream"];
        let query = [("filter", self.filter.clone())];
        let mut events = hall.follow(&path, &query, after.as_deref(), SILENCE_MAX).await?;
        *has_worked = true;
        while let Some(event) = events.next().await {
            let event = event.map_err(|error| Failure::new(format!("the stream broke: {error}")))?;
            let Some(data) = event.data else { continue };
            match serde_json::from_str(&data) {
                Ok(event) => self.show(&event)?,
                // Why the hall ends the stream.
                Err(_) => return Err(Failure::new(data)),
            }
            *after = event.id.or(after.take());
        }
        Ok(())
    }

    async fn replay(
        &self,
        topic: &Topic,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
        limit: usize,
    ) -> Result<(), Failure> {
        let hall = self.hall.hall()?;
        let path = ["api", "v1", "topics", topic.as_str(), "events"];
        let (mut shown, mut after) = (0, None);
        while shown < limit {
            let query = [
                ("from", from.map(|at| at.to_string())),
                ("to", to.map(|at| at.to_string())),
                ("filter", self.filter.clone()),
                ("limit", Some((limit - shown).min(1_000).to_string())),
                ("after", after.map(|after: u64| after.to_string())),
            ];
            let page: Page = hall.get(&path, &query).await?;
            page.events.iter().try_for_each(|event| self.show(event))?;
            shown += page.events.len();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if shown == 0 && !self.json {
            eprintln!("nothing of {topic} fits, or nothing is kept");
        }
        Ok(())
    }

    fn show(&self, event: &TopicEvent) -> Result<(), Failure> {
        if self.json {
            return screen::say(serde_json::to_string(event).expect("an event that was read as JSON is JSON"));
        }
        let TopicEvent { sequence, published_at, publisher, event, .. } = event;
        screen::say(format!("{published_at}  {sequence}  {publisher}  {}", event.as_text()))
    }
}
