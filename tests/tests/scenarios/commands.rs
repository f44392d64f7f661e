//! The command line: for people, and with `--json` for scripts.

use std::time::Duration;

use guildhall_tests::{Hall, Setup, eventually, program::Outcome, scenarios};
use serde_json::{Value, json};

scenarios! {
    config_check_names_every_fault_at_once(Setup::open());
    config_print_masks_secrets(Setup::open());
    doctor_says_what_is_wrong_and_what_to_do(Setup::open());
    connect_prints_an_entry_that_works(Setup::open());
    stdio_is_a_bridge_to_the_hall(Setup::open());
    migrating_again_changes_nothing(Setup::open());
    agents_are_listed_paused_resumed_and_removed(Setup::required());
    a_command_that_fails_says_so_to_its_caller(Setup::required());
}

async fn config_check_names_every_fault_at_once(hall: &Hall) {
    hall.run(&["config", "check"]).await.ok();

    let file = hall.folder().join("faulty.toml");
    std::fs::write(&file, "[gateway]\nlisten = \"nonsense\"\nmax_session = 7\n[auth]\nmode = \"maybe\"\n").unwrap();
    let mut check = hall.command(&["config", "check", "--config", file.to_str().unwrap()]);
    check.env_remove("GUILDHALL_GATEWAY__LISTEN").env_remove("GUILDHALL_AUTH__MODE");
    check.env("GUILDHALL_DATABASE__URL", "mysql://x").env("GUILDHALL_LIMITS__BURST", "0");
    check.env("GUILDHALL_AGENT_REGISTRY__IDLE_AFTER", "90s").env("GUILDHALL_AGENT_REGISTRY__OFFLINE_AFTER", "60s");
    let faults = Outcome::of(check).await.failed();
    let said = faults.stdout + &faults.stderr;
    let keys = [
        "gateway.listen",
        "gateway.max_session",
        "auth.mode",
        "database.url",
        "limits.burst",
        "agent_registry.offline_after",
    ];
    for key in keys {
        assert!(said.contains(&format!("{key}: ")), "{key} is not named: {said}");
    }
}

async fn config_print_masks_secrets(hall: &Hall) {
    let mut print = hall.command(&["config", "print"]);
    print.env("GUILDHALL_CLUSTER__SECRET", "correct-horse-battery-staple-and-more");
    print.env("GUILDHALL_SECRETS__KEYS", "k1:c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U=");
    print.env("GUILDHALL_HOT__URL", "redis://user:hunter2@127.0.0.1:1/0");
    let printed = Outcome::of(print).await.ok();
    for secret in ["correct-horse", "c2VjcmV0", "hunter2"] {
        assert!(!printed.stdout.contains(secret) && !printed.stderr.contains(secret), "{}", printed.stdout);
    }
    assert!(printed.stdout.contains("[gateway]") && printed.stdout.contains("127.0.0.1:1"), "{}", printed.stdout);
}

async fn doctor_says_what_is_wrong_and_what_to_do(hall: &Hall) {
    let well = hall.run(&["doctor"]).await.ok();
    for engine in ["database", "bus", "hot"] {
        assert!(well.stdout.to_lowercase().contains(engine), "{engine}: {}", well.stdout);
    }
    let mut doctor = hall.command(&["doctor"]);
    doctor.env("GUILDHALL_HOT__URL", "redis://:hunter2@127.0.0.1:1/0");
    let ill = Outcome::of(doctor).await.failed();
    let said = ill.stdout + &ill.stderr;
    assert!(said.contains("redis") && said.contains("hot.url"), "says what was tried, and which key it is: {said}");
    assert!(!said.contains("hunter2"), "{said}");
}

async fn connect_prints_an_entry_that_works(hall: &Hall) {
    for program in ["claude-code", "cursor", "codex"] {
        let printed = hall.run(&["connect", program, "--print", "--url", &hall.url(), "--agent", "worker"]).await.ok();
        let url = format!("{}/mcp?agent=worker", hall.url());
        assert!(printed.stdout.contains(&url), "{program}: {}", printed.stdout);
    }
    let unknown = hall.run(&["connect", "typewriter", "--print"]).await.failed();
    assert!(unknown.stderr.contains("claude-code"), "says what it knows: {}", unknown.stderr);
}

async fn stdio_is_a_bridge_to_the_hall(hall: &Hall) {
    hall.caller().register("neighbour").await;
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}});
    let lines = [
        initialize,
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "list_agents", "arguments": {}}}),
    ];
    let input = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let bridge = hall.command(&["stdio", "--url", &hall.url()]);
    let outcome = Outcome::with_input(bridge, &input).await.ok();
    let answers: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let answer = |id: u64| answers.iter().find(|answer| answer["id"] == id).unwrap_or_else(|| panic!("{answers:?}"));
    assert_eq!(answer(1)["result"]["protocolVersion"], "2025-11-25");
    let listed = &answer(2)["result"]["structuredContent"]["agents"];
    assert_eq!(listed[0]["id"], "neighbour", "{listed}");

    // A host that started it must not wait for ever when there is no hall.
    let nowhere = hall.command(&["stdio", "--url", "http://127.0.0.1:1"]);
    let outcome = Outcome::with_input(nowhere, &input).await;
    let answers: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(answers.iter().any(|answer| answer["id"] == 1 && answer["error"].is_object()), "{answers:?}");
}

async fn migrating_again_changes_nothing(hall: &Hall) {
    hall.caller().register("kept").await;
    let (one, other) = tokio::join!(hall.run(&["migrate"]), hall.run(&["migrate"]));
    one.ok();
    other.ok();
    assert_eq!(hall.caller().get("/api/v1/agents/kept").await.ok()["name"], "kept");
    hall.caller().register("later").await;
}

async fn agents_are_listed_paused_resumed_and_removed(hall: &Hall) {
    let token = hall.admin().register("worker").await;
    let worker = hall.caller().token(&token);
    eventually("it is listed", Duration::from_secs(5), async || {
        let list = hall.run(&["agents", "--json"]).await.ok().json();
        (list["agents"][0]["agent_id"] == "worker").then_some(())
    })
    .await;
    let table = hall.run(&["agents"]).await.ok().stdout;
    assert!(table.contains("worker") && table.contains("active"), "{table}");

    hall.run(&["agents", "pause", "worker", "--reason", "lunch"]).await.ok();
    eventually("it is refused", Duration::from_secs(6), async || {
        let answer = worker.get("/api/v1/agents").await;
        (answer.status == 403 && answer.text.contains("lunch")).then_some(())
    })
    .await;
    hall.run(&["agents", "resume", "worker"]).await.ok();
    eventually("it may call", Duration::from_secs(6), async || {
        (worker.get("/api/v1/agents").await.status == 200).then_some(())
    })
    .await;
    hall.run(&["agents", "remove", "worker"]).await.ok();
    let again = hall.run(&["agents", "remove", "worker"]).await.failed();
    assert!(again.stderr.contains("worker"), "{}", again.stderr);
}

async fn a_command_that_fails_says_so_to_its_caller(hall: &Hall) {
    let away = hall.run(&["agents", "--url", "http://127.0.0.1:1"]).await.failed();
    assert!(away.stderr.contains("127.0.0.1:1") && away.stdout.is_empty(), "{}", away.stderr);
    let mut nobody = hall.command(&["agents"]);
    nobody.env_remove("GUILDHALL_TOKEN");
    let refused = Outcome::of(nobody).await.failed();
    assert!(refused.stderr.contains("token"), "{}", refused.stderr);
    let unknown = hall.run(&["no-such-command"]).await.failed();
    assert!(unknown.stderr.contains("no-such-command"), "{}", unknown.stderr);
}
