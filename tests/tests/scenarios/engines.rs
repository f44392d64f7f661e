//! An engine may be away at the start, or go away later: the hall says so, and goes on when it is back, by itself.

use std::time::{Duration, Instant};

use guildhall_tests::{Hall, Setup, engine::Engine, eventually, scenarios};
use serde_json::json;

scenarios! {
    health_names_every_engine(Setup::open());
    a_hall_whose_engines_are_away_at_the_start_waits_for_each(Setup::open().start_without_engines());
    a_database_that_goes_away_is_named_and_comes_back_without_a_restart(Setup::open().database_may_die());
    every_engine_may_go_away_and_come_back(Setup::open().database_may_die());
    an_engine_that_hangs_makes_no_call_wait_for_ever(Setup::open().database_may_die());
    a_replica_that_dies_is_stood_in_for(Setup::open().database_may_die());
    what_was_acknowledged_survives_the_death_of_every_process(Setup::open().database_may_die());
}

/// A few retries with backoff on a busy machine.
const SOON: Duration = Duration::from_secs(60);

async fn health_names_every_engine(hall: &Hall) {
    let names: &[&str] = match hall.shape() {
        guildhall_tests::Shape::Embedded => &["sqlite", "memory", "embedded"],
        guildhall_tests::Shape::Distributed => &["postgres", "redis", "nats"],
    };
    for gateway in 0..hall.gateways().len() {
        let health = hall.caller_of(gateway).get("/health").await.ok();
        assert_eq!(health["status"], "healthy", "{health}");
        for name in names {
            assert_eq!(health[name], "connected", "{name}: {health}");
        }
        assert_eq!(hall.caller_of(gateway).get("/ready").await.status, 200);
        let metrics = hall.caller_of(gateway).get("/metrics").await;
        assert_eq!(metrics.status, 200);
        assert!(metrics.text.contains("# TYPE "), "Prometheus text: {}", metrics.text);
    }
}

async fn ready_everywhere(hall: &Hall) {
    for service in hall.services() {
        service.ready().await;
    }
}

async fn registers(hall: &Hall, agent: &str) {
    eventually("agents can register again", SOON, async || {
        let body = json!({"agent_id": agent, "name": agent});
        (hall.agent(agent).post("/api/v1/agents/register", body).await.status == 200).then_some(())
    })
    .await;
}

async fn a_hall_whose_engines_are_away_at_the_start_waits_for_each(hall: &Hall) {
    for gateway in 0..hall.gateways().len() {
        let caller = hall.caller_of(gateway);
        eventually("it listens although its engines are away", SOON, async || {
            let health = caller.request(reqwest::Method::GET, "/health").send().await.ok()?;
            (health.status() == 200).then_some(())
        })
        .await;
    }
    let mut away = hall.engines();
    while !away.is_empty() {
        // Not a moment's luck: it stays so.
        for _ in 0..5 {
            for gateway in 0..hall.gateways().len() {
                let ready = hall.caller_of(gateway).get("/ready").await;
                assert_eq!(ready.status, 503, "{}", ready.text);
                assert_eq!(hall.caller_of(gateway).get("/health").await.status, 200);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for service in hall.services() {
            assert!(service.process.is_running(), "it waits, and does not give up");
        }
        if away.len() == hall.engines().len() {
            let early = json!({"agent_id": "early", "name": "x"});
            let refused = hall.agent("early").post("/api/v1/agents/register", early).await;
            assert!([503, 504].contains(&refused.status), "{} {}", refused.status, refused.text);
        }
        away.remove(0).give_back().await;
    }
    ready_everywhere(hall).await;
    registers(hall, "patient").await;
    for engine in hall.engines() {
        let said = hall.services().any(|service| service.process.log().contains(engine.name()));
        assert!(said, "the log says that it waited for {}", engine.name());
    }
}

async fn a_database_that_goes_away_is_named_and_comes_back_without_a_restart(hall: &Hall) {
    hall.caller().register("before").await;
    hall.database().take_away().await;
    let body = json!({"agent_id": "during", "name": "x"});
    let refused = hall.agent("during").post("/api/v1/agents/register", body).await;
    let (status, body) = (refused.status, refused.json());
    assert!(status == 503 && body["error"] == "Unavailable" || status == 504 && body["error"] == "Timeout", "{body}");
    assert_eq!(body["success"], false);
    assert!(body["message"].as_str().unwrap().contains("database"), "says what is away: {body}");
    // What memory can answer is answered.
    assert_eq!(hall.caller().get("/api/v1/agents").await.ok()["total"], 1);

    hall.database().give_back().await;
    registers(hall, "after").await;
    ready_everywhere(hall).await;
}

async fn every_engine_may_go_away_and_come_back(hall: &Hall) {
    for (number, engine) in hall.engines().into_iter().enumerate() {
        let agent = format!("agent-{number}");
        hall.caller().register(&agent).await;
        engine.take_away().await;
        // Whoever holds SQLite's lock keeps writers out, and a probe only reads.
        if !matches!(engine, Engine::Sqlite(_)) {
            eventually("the hall is no longer ready, and says why", SOON, async || {
                let ready = hall.caller().get("/ready").await;
                (ready.status == 503 && ready.text.contains(engine.name())).then_some(())
            })
            .await;
        }
        // It stays up: an orchestrator must not kill it for another's death.
        assert_eq!(hall.caller().get("/health").await.status, 200);
        assert_ne!(hall.caller().get("/api/v1/agents").await.status, 500);
        engine.give_back().await;
        ready_everywhere(hall).await;
        registers(hall, &format!("late-{number}")).await;
    }
    for service in hall.services() {
        assert!(service.process.is_running(), "no restart was needed");
    }
}

/// A call's deadline is 30 s; a test's own client gives up after 60.
const DEADLINE: Duration = Duration::from_secs(35);

async fn an_engine_that_hangs_makes_no_call_wait_for_ever(hall: &Hall) {
    hall.caller().register("before").await;
    for engine in hall.engines() {
        engine.hang().await;
        let asked = Instant::now();
        let body = json!({"agent_id": format!("during-{}", engine.name()), "name": "x"});
        let (writer, reader, prober) = (hall.agent("during"), hall.agent("before"), hall.caller());
        let (write, read, health) = tokio::join!(
            writer.post("/api/v1/agents/register", body),
            reader.get("/api/v1/agents/before"),
            prober.get("/health"),
        );
        assert!(asked.elapsed() < DEADLINE, "{}: {:?}", engine.name(), asked.elapsed());
        assert!([200, 503, 504].contains(&write.status), "{}: {} {}", engine.name(), write.status, write.text);
        assert_eq!(read.status, 200, "memory can answer without {}: {}", engine.name(), read.text);
        assert_eq!(health.status, 200, "{}", engine.name());
        engine.go_on().await;
        registers(hall, &format!("after-{}", engine.name())).await;
        ready_everywhere(hall).await;
    }
}

async fn a_replica_that_dies_is_stood_in_for(hall: &Hall) {
    hall.caller().register("before").await;
    for service in hall.one_of_each() {
        service.process.kill();
    }
    if hall.gateways().len() > 1 {
        for number in 0..20 {
            let agent = format!("during-{number}");
            // The first call may still meet the dead one; a repeat of the same registration is harmless.
            eventually("another replica answers", Duration::from_secs(5), async || {
                let body = json!({"agent_id": agent, "name": "x"});
                (hall.agent(&agent).post("/api/v1/agents/register", body).await.status == 200).then_some(())
            })
            .await;
            assert_eq!(hall.caller().get("/api/v1/agents/before").await.status, 200);
        }
    }
    for service in hall.one_of_each() {
        service.process.start();
    }
    ready_everywhere(hall).await;
    for _ in 0..6 {
        assert_eq!(hall.caller().get("/api/v1/agents/before").await.ok()["name"], "before");
    }
    registers(hall, "after").await;
}

async fn what_was_acknowledged_survives_the_death_of_every_process(hall: &Hall) {
    for number in 0..20 {
        hall.caller().register(&format!("agent-{number:02}")).await;
    }
    for service in hall.services() {
        service.process.kill();
    }
    if let Engine::Postgres(postgres) = hall.database() {
        postgres.restart().await;
    }
    for service in hall.services() {
        service.process.start();
    }
    ready_everywhere(hall).await;
    eventually("all of them are known", SOON, async || {
        (hall.caller().get("/api/v1/agents").await.ok()["total"] == 20).then_some(())
    })
    .await;
}
