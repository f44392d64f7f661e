//! Publishing: keys, tenants, sizes, and how safe an answer is.

use futures::future::join_all;
use guildhall_domain::{
    ErrorCode, PrincipalKind, TenantId,
    ports::bus::{Envelope, ReplayFrom, Topic},
};

use super::{Follower, SUBJECT, Stage, envelope, heard, hint, insist, listen, number, publish, tenant, topic};

pub async fn a_key_published_again_adds_nothing_and_says_so(stage: &Stage) {
    let bus = &stage.bus;
    let log = topic("t");
    let first = publish(bus, &log, "key", envelope("a", "1")).await;
    let again = publish(bus, &log, "key", envelope("a", "2")).await;
    assert!(again.duplicate);
    assert_eq!(again.sequence, first.sequence);
    let at_once = join_all((3..20).map(|i| publish(bus, &log, "contested", envelope("a", i.to_string())))).await;
    assert!(at_once.iter().filter(|published| !published.duplicate).count() <= 1);
    let places: std::collections::BTreeSet<u64> = at_once.iter().map(|published| published.sequence).collect();
    assert_eq!(places.len(), 1, "one key is in two places: {places:?}");
    publish(bus, &log, "end", envelope("a", "99")).await;
    let mut follower = Follower::of(bus, &TenantId::default(), &log, ReplayFrom::After(0));
    let there = follower.numbers_up_to(99).await;
    assert_eq!((there.len(), there[0]), (3, 1), "{there:?}");
}

pub async fn a_key_is_its_publishers_and_its_topics_own(stage: &Stage) {
    let bus = &stage.bus;
    let (here, elsewhere) = (topic("a"), topic("a.b"));
    let mut person = envelope("a", "2");
    person.principal.kind = PrincipalKind::Person;
    let mut foreign = envelope("a", "3");
    foreign.principal.tenant = tenant("other");
    let mut sequences = Vec::new();
    for (log, envelope) in [
        (&here, envelope("a", "0")),
        (&here, envelope("b", "1")),
        (&here, person),
        (&here, foreign),
        (&elsewhere, envelope("a", "4")),
    ] {
        let first = publish(bus, log, "key", envelope.clone()).await;
        let again = publish(bus, log, "key", envelope.clone()).await;
        assert!(again.duplicate && again.sequence == first.sequence);
        sequences.push((wide(&envelope.principal.tenant, log), first.sequence));
    }
    let places: std::collections::BTreeSet<_> = sequences.iter().collect();
    assert_eq!(places.len(), sequences.len(), "another's event was taken for a repeat: {sequences:?}");
    let mut follower = Follower::of(bus, &TenantId::default(), &here, ReplayFrom::After(0));
    assert_eq!(follower.numbers_up_to(2).await, [0, 1, 2]);
}

fn wide(tenant: &TenantId, topic: &Topic) -> String {
    format!("{tenant} {topic}")
}

pub async fn nothing_crosses_a_tenant_or_a_topic(stage: &Stage) {
    let bus = &stage.bus;
    let tenants = ["a", "b", "a-b", "0"].map(tenant);
    let topics = ["x", "X", "x.y", "x.y.z", "y", "a.x", "b", "x-y", "x_y", "0"].map(topic);
    let logs: Vec<(TenantId, Topic)> =
        tenants.iter().flat_map(|tenant| topics.iter().map(|topic| (tenant.clone(), topic.clone()))).collect();
    for round in ["first", "last"] {
        for (tenant, topic) in &logs {
            let mut envelope = envelope("a", format!("{round} of {}", wide(tenant, topic)));
            envelope.principal.tenant = tenant.clone();
            publish(bus, topic, round, envelope).await;
        }
    }
    for (tenant, topic) in &logs {
        let mut follower = Follower::of(bus, tenant, topic, ReplayFrom::After(0));
        for round in ["first", "last"] {
            assert_eq!(follower.next().await.envelope.payload, format!("{round} of {}", wide(tenant, topic)));
        }
    }
}

pub async fn an_answer_says_how_safe_the_event_is(stage: &Stage) {
    let published = publish(&stage.bus, &topic("t"), "key", envelope("a", "1")).await;
    assert_eq!(published.durability, stage.durability);
    // Without a key every publish counts.
    let (log, envelope) = (topic("t"), envelope("a", "2"));
    let one = insist(|| stage.bus.publish(&envelope.principal.tenant, &log, None, envelope.clone())).await.unwrap();
    let two = insist(|| stage.bus.publish(&envelope.principal.tenant, &log, None, envelope.clone())).await.unwrap();
    assert!(!one.duplicate && !two.duplicate && two.sequence > one.sequence);
}

pub async fn a_topic_that_an_engine_could_misread_is_refused(stage: &Stage) {
    for bad in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "*",
        "a.*",
        ">",
        "a.>",
        "a b",
        "a\n",
        "$SYS",
        "ä",
        "-a",
        "'; --",
        &"x".repeat(129),
    ] {
        assert!(Topic::new(bad).is_err_and(|error| error.code == ErrorCode::InvalidParams), "{bad:?} was taken");
    }
    let longest = topic(&"x".repeat(128));
    publish(&stage.bus, &longest, "key", envelope("a", "1")).await;
    let mut follower = Follower::of(&stage.bus, &TenantId::default(), &longest, ReplayFrom::After(0));
    assert_eq!(number(&follower.next().await.envelope), 1);
}

pub async fn what_is_too_large_is_refused_and_what_is_just_small_enough_is_not(stage: &Stage) {
    const MOST: usize = 512 * 1024;
    let (bus, log) = (&stage.bus, topic("t"));
    let sized = |bytes: usize| Envelope { headers: vec![], ..envelope("a", vec![0xff; bytes]) };
    let over = sized(MOST + 1);
    let refused = [
        insist(|| bus.publish(&over.principal.tenant, &log, Some("over"), over.clone())).await.map(drop),
        insist(|| bus.hint(SUBJECT, over.clone())).await,
    ];
    for answer in refused {
        assert_eq!(answer.unwrap_err().code, ErrorCode::PayloadTooLarge);
    }
    let mut listener = listen(bus, SUBJECT).await;
    hint(bus, SUBJECT, sized(MOST)).await;
    assert_eq!(heard(&mut listener).await.envelope, sized(MOST));
    publish(bus, &log, "most", sized(MOST)).await;
    let mut follower = Follower::of(bus, &TenantId::default(), &log, ReplayFrom::After(0));
    assert_eq!(follower.next().await.envelope, sized(MOST));
}

pub async fn ping_says_that_the_engine_answers(stage: &Stage) {
    insist(|| stage.bus.ping()).await.unwrap();
}
