//! What is done to the hall in a fault run, one fault after another.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Dice,
    record::{Record, Saw},
};
use crate::{Hall, Shape, engine::Engine};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Hall,
    Gateway,
    Registry,
    Nats,
    Redis,
    Postgres,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `kill -9`, and started again.
    Kill,
    /// SIGSTOP: connections stay open and nobody answers; then SIGCONT.
    Stop,
    /// The wire to it is cut; what was sent meanwhile arrives late.
    Cut,
}

/// Every fault of a run, in the order before they are shuffled.
pub struct Plan(Vec<(Part, Kind)>);

/// The embedded hall dies in mid-commit so many times a round.
const KILLS_OF_THE_EMBEDDED: u64 = 6;

impl Plan {
    pub fn new(shape: Shape, rounds: u64) -> Self {
        let one_round: Vec<(Part, Kind)> = match shape {
            Shape::Embedded => {
                (0..KILLS_OF_THE_EMBEDDED).map(|_| (Part::Hall, Kind::Kill)).chain([(Part::Hall, Kind::Stop)]).collect()
            }
            Shape::Distributed => [Part::Gateway, Part::Registry, Part::Nats, Part::Redis, Part::Postgres]
                .into_iter()
                .flat_map(|part| [Kind::Kill, Kind::Stop, Kind::Cut].map(|kind| (part, kind)))
                .collect(),
        };
        Self((0..rounds).flat_map(|_| one_round.clone()).collect())
    }

    fn shuffled(mut self, dice: &mut Dice) -> Vec<(Part, Kind)> {
        for last in (1..self.0.len()).rev() {
            let other = usize::try_from(dice.below(last as u64 + 1)).unwrap();
            self.0.swap(last, other);
        }
        self.0
    }
}

/// Does it all; gives how often each fault was done.
pub async fn inflict(hall: &Hall, plan: Plan, dice: &mut Dice, record: &Record) -> BTreeMap<String, u64> {
    let mut done = BTreeMap::new();
    for (part, kind) in plan.shuffled(dice) {
        // In the middle of whatever goes on.
        tokio::time::sleep(dice.millis(300, 1_500)).await;
        record.note(Saw::Fault { part: format!("{part:?}"), kind: format!("{kind:?}") });
        let replica = usize::try_from(dice.below(2)).unwrap();
        let time = dice.millis(300, 3_000);
        one(hall, part, kind, replica, time).await;
        *done.entry(format!("{part:?} {kind:?}").to_lowercase()).or_insert(0) += 1;
        for service in hall.services() {
            service.ready().await;
        }
    }
    done
}

async fn one(hall: &Hall, part: Part, kind: Kind, replica: usize, time: Duration) {
    let service = match part {
        Part::Hall => Some(&hall.gateways()[0]),
        Part::Gateway => Some(&hall.gateways()[replica]),
        Part::Registry => Some(&hall.registries()[replica]),
        Part::Nats | Part::Redis | Part::Postgres => None,
    };
    match (kind, service) {
        (Kind::Kill, Some(service)) => {
            service.process.kill();
            tokio::time::sleep(time / 4).await;
            service.process.start();
        }
        (Kind::Stop, Some(service)) => {
            service.process.pause();
            tokio::time::sleep(time).await;
            service.process.resume();
        }
        (Kind::Kill, None) => {
            engine(hall, part).take_away().await;
            tokio::time::sleep(time / 4).await;
            engine(hall, part).give_back().await;
        }
        (Kind::Stop, None) => {
            engine(hall, part).hang().await;
            tokio::time::sleep(time).await;
            engine(hall, part).go_on().await;
        }
        (Kind::Cut, _) => {
            let wire = match part {
                Part::Hall => unreachable!("an embedded hall has no wires"),
                Part::Gateway => hall.wire(&format!("gateway-{replica}")),
                Part::Registry => hall.wire(&format!("registry-{replica}")),
                Part::Nats => hall.wire("nats"),
                Part::Redis => hall.wire("redis"),
                Part::Postgres => hall.wire("postgres"),
            };
            wire.cut();
            tokio::time::sleep(time).await;
            wire.mend();
        }
    }
}

fn engine(hall: &Hall, part: Part) -> Engine<'_> {
    let fits = |engine: &Engine<'_>| {
        matches!(
            (part, engine),
            (Part::Nats, Engine::Nats(_)) | (Part::Redis, Engine::Redis(_)) | (Part::Postgres, Engine::Postgres(_))
        )
    };
    hall.engines().into_iter().find(fits).expect("a distributed hall stands on all three")
}
