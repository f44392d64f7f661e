//! Hints, and what one node is told.

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use guildhall_domain::{
    Entropy,
    ports::bus::{Envelope, Hint, NodeName},
};

use super::{OTHER, PATIENCE, SUBJECT, Stage, envelope, heard, hint, insist, listen, number};
use crate::entropy::SeededEntropy;

pub async fn a_hint_reaches_everyone_who_listens_with_all_it_carried(stage: &Stage) {
    let bus = &stage.bus;
    let (mut one, mut two) = (listen(bus, SUBJECT).await, listen(bus, SUBJECT).await);
    let sent = envelope("a", "payload");
    hint(bus, SUBJECT, sent.clone()).await;
    for listener in [&mut one, &mut two] {
        assert_eq!(heard(listener).await, Hint { subject: SUBJECT.to_string(), envelope: sent.clone() });
    }
    drop(one);
    hint(bus, SUBJECT, envelope("a", "later")).await;
    while heard(&mut two).await.envelope.payload != "later" {}
}

pub async fn a_hint_sent_as_soon_as_someone_listens_is_heard(stage: &Stage) {
    let bus = &stage.bus;
    for i in 0..30 {
        let mut listener = listen(bus, SUBJECT).await;
        hint(bus, SUBJECT, envelope("a", i.to_string())).await;
        while number(&heard(&mut listener).await.envelope) != i {}
    }
}

pub async fn a_hint_is_heard_by_its_own_subject_only(stage: &Stage) {
    let bus = &stage.bus;
    let (mut here, mut elsewhere) = (listen(bus, SUBJECT).await, listen(bus, OTHER).await);
    hint(bus, OTHER, envelope("a", "elsewhere")).await;
    hint(bus, SUBJECT, envelope("a", "here")).await;
    assert_eq!(heard(&mut here).await.envelope.payload, "here");
    assert_eq!(heard(&mut elsewhere).await.envelope.payload, "elsewhere");
}

pub async fn a_listener_who_falls_behind_misses_the_oldest_and_hears_the_newest(stage: &Stage) {
    const SENT: usize = 3_000;
    let bus = &stage.bus;
    let (mut slow, mut quick) = (listen(bus, SUBJECT).await, listen(bus, SUBJECT).await);
    let send = async {
        for i in 0..SENT {
            hint(bus, SUBJECT, envelope("a", i.to_string())).await;
        }
    };
    let read = async { while number(&heard(&mut quick).await.envelope) + 1 < SENT {} };
    tokio::join!(send, read);
    let mut kept = Vec::new();
    while kept.last() != Some(&(SENT - 1)) {
        kept.push(number(&heard(&mut slow).await.envelope));
    }
    assert!(kept[0] > 0, "nothing was missed by a listener that slept through {SENT}");
    assert!(kept.len() > 500, "only {} of the newest were kept", kept.len());
    assert!(kept.is_sorted());
}

fn node(seed: u64) -> NodeName {
    NodeName::random(&SeededEntropy::new(seed) as &dyn Entropy)
}

async fn told(stage: &Stage, node: &NodeName) -> BoxStream<'static, Envelope> {
    insist(|| stage.bus.told(node)).await.unwrap()
}

async fn tell(stage: &Stage, node: &NodeName, payload: impl Into<Bytes>) {
    let envelope = envelope("a", payload);
    insist(|| stage.bus.tell(node, envelope.clone())).await.unwrap();
}

async fn next(told: &mut BoxStream<'static, Envelope>) -> Envelope {
    let next = tokio::time::timeout(PATIENCE, told.next()).await;
    next.expect("what a node was told did not come").expect("what a node is told ended")
}

pub async fn what_a_node_is_told_arrives_in_order_and_at_that_node_alone(stage: &Stage) {
    const SENT: usize = 500;
    let (here, there) = (node(1), node(2));
    let (mut at_here, mut at_there) = (told(stage, &here).await, told(stage, &there).await);
    for i in 0..SENT {
        tell(stage, &here, i.to_string()).await;
    }
    tell(stage, &there, "there").await;
    let mut numbers = Vec::new();
    while numbers.last() != Some(&(SENT - 1)) {
        let heard = next(&mut at_here).await;
        assert_eq!(heard, envelope("a", heard.payload.clone()), "something of the envelope was lost");
        numbers.push(number(&heard));
    }
    assert!(numbers.is_sorted(), "out of order: {numbers:?}");
    // A caller whose answer was lost says it again.
    numbers.dedup();
    assert_eq!(numbers, (0..SENT).collect::<Vec<_>>());
    assert_eq!(next(&mut at_there).await.payload, "there");
    // To nobody, and to one who has gone: no error, and nothing held up.
    tell(stage, &node(3), "nobody").await;
    drop(at_there);
    tell(stage, &there, "gone").await;
}

pub async fn a_node_that_falls_behind_misses_the_oldest_and_hears_the_newest(stage: &Stage) {
    const SENT: usize = 2_500;
    let slow = node(1);
    let mut at_slow = told(stage, &slow).await;
    for i in 0..SENT {
        tell(stage, &slow, i.to_string()).await;
    }
    // A word by another way shows that all was handed over.
    let mut last = told(stage, &node(2)).await;
    tell(stage, &node(2), "end").await;
    next(&mut last).await;
    let mut kept = Vec::new();
    while kept.last() != Some(&(SENT - 1)) {
        kept.push(number(&next(&mut at_slow).await));
    }
    assert!(kept.is_sorted());
    kept.dedup();
    assert!((500..2_200).contains(&kept.len()), "{} of {SENT} were kept for one that slept", kept.len());
}
