//! Loading a configuration as the program does: layers, faults, what a shape needs, and the print.

use std::{collections::BTreeMap, fs, path::PathBuf};

use tempfile::TempDir;

use crate::{AuthMode, Config, Faults, Flags, Service, Shape, Sources};

/// Sources of a file with this text, this environment, and a home of its own.
struct Case {
    folder: TempDir,
    sources: Sources,
}

impl Case {
    fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guildhall.toml");
        fs::write(&path, file).unwrap();
        let environment = BTreeMap::from([("HOME".to_owned(), "/home/someone".to_owned())]);
        Self { folder, sources: Sources { file: Some(path), environment, flags: Flags::default() } }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, shape: Shape) -> Result<Config, Faults> {
        Config::load(&self.sources, shape)
    }

    fn faults(&self, shape: Shape) -> Vec<String> {
        let folder = self.folder.path().display().to_string();
        let faults = self.load(shape).err().unwrap_or_default();
        faults.iter().map(|fault| fault.to_string().replace(&folder, "DIR")).collect()
    }
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const KEY: &str = "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[test]
fn a_hall_needs_no_configuration() {
    let config = Case::new("").load(Shape::Up).unwrap();
    assert_eq!(config.auth.mode, AuthMode::Open);
    assert_eq!(config.gateway.listen.to_string(), "127.0.0.1:8016");
    assert_eq!(config.gateway.ws_listen.to_string(), "127.0.0.1:8015");
    assert_eq!(config.data_dir, PathBuf::from("/home/someone/.local/share/guildhall"));
    assert_eq!(config.database.url.expose(), "sqlite:/home/someone/.local/share/guildhall/guildhall.db");
    assert_eq!(config.bus.url.expose(), "embedded:/home/someone/.local/share/guildhall");
    assert_eq!(config.hot.url.expose(), "memory:");
    assert_eq!((config.limits.requests_per_second, config.limits.burst), (10.0, 20));
}

#[test]
fn flags_are_over_the_environment_over_the_file_over_the_defaults() {
    let mut case = Case::new("[gateway]\nlisten = '127.0.0.1:1'\nws_listen = '127.0.0.1:2'\n[limits]\nburst = 1\n")
        .env("GUILDHALL_GATEWAY__WS_LISTEN", "localhost:3")
        .env("GUILDHALL_LIMITS__BURST", "7");
    case.sources.flags = Flags { data_dir: Some("/data".into()), ws_listen: Some("127.0.0.1:4".into()), listen: None };
    let config = case.load(Shape::Up).unwrap();
    assert_eq!(config.gateway.listen.to_string(), "127.0.0.1:1");
    assert_eq!(config.gateway.ws_listen.to_string(), "127.0.0.1:4");
    assert_eq!(config.limits.burst, 7);
    assert_eq!(config.limits.requests_per_second, 10.0);
    assert_eq!(config.database.url.expose(), "sqlite:/data/guildhall.db");
}

#[test]
fn a_variable_means_what_its_key_takes() {
    let config = Case::new("")
        .env("GUILDHALL_AUTH__MODE", "required")
        .env("GUILDHALL_GATEWAY__ALLOWED_HOSTS", "hall.example.org, localhost:9")
        .env("GUILDHALL_OUTBOUND__ALLOW", r#"["10.0.0.0/8"]"#)
        .env("GUILDHALL_DATABASE__MIGRATE_AT_START", "false")
        .env("GUILDHALL_CLUSTER__SECRET", "01234567890123456789012345678901")
        .env("GUILDHALL_BUS__URL", "")
        .load(Shape::Up)
        .unwrap();
    assert_eq!(config.auth.mode, AuthMode::Required);
    assert_eq!(config.gateway.allowed_hosts, ["hall.example.org", "localhost:9"]);
    assert_eq!(config.outbound.allow.len(), 1);
    assert!(!config.database.migrate_at_start);
    assert!(config.bus.is_embedded(), "an empty variable took the place of the default");
}

#[test]
fn variables_that_are_not_meant_for_it_do_no_harm() {
    Case::new("")
        .env("GUILDHALL_TOKEN", "t")
        .env("GUILDHALL_URL", "http://127.0.0.1:8016")
        .env("GUILDHALL_GATEWAY_SERVICE_HOST", "10.0.0.1")
        .env("GUILDHALL_GATEWAY_SERVICE_PORT_HTTP", "8016")
        .env("GUILDHALL_AGENT_REGISTRY_PORT", "tcp://10.0.0.1:8021")
        .env("GUILDHALL_AGENT_REGISTRY_PORT_8021_TCP_ADDR", "10.0.0.1")
        .load(Shape::Up)
        .unwrap();
}

#[test]
fn every_fault_is_named_at_once() {
    let case = Case::new(
        r#"
        dat_dir = "/data"
        [auth]
        mode = "opne"
        token_ttl = "1 day"
        [gateway]
        listen = "8016"
        max_sesions = 5
        max_sessions = "many"
        allowed_origins = ["https://app.example.org/page"]
        [database]
        url = "mysql://u:pa55word@db/hall"
        [agent_registry]
        endpoints = ["registry:8021"]
        idle_after = "2m"
        [limits]
        requests_per_second = 0
        [retention]
        events_size = "1GB"
        [outbound]
        allow = ["10.0.0.0/99"]
        [secrets]
        keys = ["k1:short"]
        [roles.auditor]
        allow = "audit"
        alow = []
        deny = ["audit.raed"]
        [llm]
        model = "x"
        "#,
    )
    .env("GUILDHALL_DATABASE_URL", "postgres://db")
    .env("GUILDHALL_HOT", "memory:")
    .env("GUILDHALL_BUS__URL", "nats//bus");
    insta::assert_snapshot!(case.faults(Shape::Up).join("\n"), @r#"
    dat_dir: there is no such key (in DIR/guildhall.toml); did you mean data_dir (GUILDHALL_DATA_DIR in the environment)?
    database_url: there is no such key (in GUILDHALL_DATABASE_URL); did you mean database.url (GUILDHALL_DATABASE__URL in the environment)?
    llm.model: there is no such key (in DIR/guildhall.toml); remove it; `guildhall config defaults` shows every key there is
    auth.mode: there is no "opne" (in DIR/guildhall.toml); write one of open, required
    auth.token_ttl: is not a duration (in DIR/guildhall.toml); write it like "500ms", "90s", "24h" or "7d"
    gateway.listen: is not an address and port (in DIR/guildhall.toml); write it like "127.0.0.1:8016"
    gateway.max_sesions: there is no such key (in DIR/guildhall.toml); did you mean gateway.max_sessions (GUILDHALL_GATEWAY__MAX_SESSIONS in the environment)?
    gateway.max_sessions: is the text "many" (in DIR/guildhall.toml); write a whole number, 0 or more
    hot: is a section, not a value (in GUILDHALL_HOT); name a key of it: [hot] in the file, GUILDHALL_HOT__… in the environment
    roles.auditor.allow: is the text "audit" (in DIR/guildhall.toml); write a list
    roles.auditor.alow: there is no such key (in DIR/guildhall.toml); remove it; `guildhall config defaults` shows every key there is
    retention.events_size: is not a size (in DIR/guildhall.toml); write it like "64KiB", "1MiB" or "2GiB"
    outbound.allow: "10.0.0.0/99" is not a network (in DIR/guildhall.toml); write it like "10.1.0.0/16"
    gateway.allowed_origins: "https://app.example.org/page" is not an origin; write scheme, host and port alone: "https://app.example.org"
    database.url: is not the address of an engine that the hall knows; write it like "sqlite:" or "postgres://user:password@host/database"
    bus.url: is not the address of an engine that the hall knows; write it like "embedded:" or "nats://host:4222"
    agent_registry.endpoints: "registry:8021" is not an address of a service; write it like "http://registry.internal:8021"
    agent_registry.offline_after: an agent must be idle before it is offline; make idle_after longer than nothing and shorter than offline_after
    limits.requests_per_second: every call would be refused; make it more than 0
    secrets.keys: a secrets key is <id>:<32 bytes in base64>; `openssl rand -base64 32` makes the second part
    roles.auditor.deny: nothing matches the permission audit.raed; write tool:<name>, read:<name>, topic:<name> or one of agents.register, agents.list, agents.get, agents.remove, agents.pause, agents.resume, agents.set_key, agents.heartbeat, agents.report_heartbeats, tokens.issue, tokens.revoke, registration_keys.manage, signing_keys.rotate, access.read, audit.record, audit.read, audit.verify, messages.send, messages.take, messages.read, dead_letters.read, dead_letters.redrive, dead_letters.purge, messages.bring, requests.send, requests.answer, sockets.open, topics.publish, topics.read, topics.subscribe, topics.manage, resources.read, tools.call
    "#);
}

#[test]
fn an_open_hall_refuses_to_be_reached_from_elsewhere_and_says_why() {
    let case = Case::new("[gateway]\nlisten = '0.0.0.0:8016'\nws_listen = '[::]:8015'\n");
    insta::assert_snapshot!(case.faults(Shape::None).join("\n"), @r#"
    gateway.listen: 0.0.0.0:8016 can be reached from other machines, and auth.mode = "open" believes every caller to be whoever it says; set auth.mode = "required", or listen on 127.0.0.1
    gateway.ws_listen: [::]:8015 can be reached from other machines, and auth.mode = "open" believes every caller to be whoever it says; set auth.mode = "required", or listen on 127.0.0.1
    "#);
    let required =
        Case::new("[auth]\nmode = 'required'\n[gateway]\nlisten = '0.0.0.0:8016'\nws_listen = '[::]:8015'\n");
    required.load(Shape::Up).unwrap();
}

#[test]
fn a_service_alone_is_refused_engines_that_lie_inside_one_process() {
    let case = Case::new("");
    insta::assert_snapshot!(case.faults(Shape::Run(Service::AgentRegistry)).join("\n"), @r#"
    database.url: sqlite:/home/someone/.local/share/guildhall/guildhall.db lies inside one process, and `guildhall run agent-registry` is one of several; set it to an engine that all of them reach, like "postgres://user:password@host/database", or use `guildhall up`
    bus.url: embedded:/home/someone/.local/share/guildhall lies inside one process, and `guildhall run agent-registry` is one of several; set it to an engine that all of them reach, like "nats://host:4222", or use `guildhall up`
    hot.url: memory: lies inside one process, and `guildhall run agent-registry` is one of several; set it to an engine that all of them reach, like "redis://host:6379/0", or use `guildhall up`
    "#);
    insta::assert_snapshot!(case.faults(Shape::Run(Service::Gateway)).join("\n"), @r#"
    bus.url: embedded:/home/someone/.local/share/guildhall lies inside one process, and `guildhall run gateway` is one of several; set it to an engine that all of them reach, like "nats://host:4222", or use `guildhall up`
    hot.url: memory: lies inside one process, and `guildhall run gateway` is one of several; set it to an engine that all of them reach, like "redis://host:6379/0", or use `guildhall up`
    "#);
}

#[test]
fn services_that_leave_the_machine_or_share_a_database_need_their_secrets() {
    let distributed =
        "[database]\nurl='postgres://u:p@db/h'\n[bus]\nurl='nats://a:4222,nats://b:4222'\n[hot]\nurl='redis://c'\n";
    let registry = Case::new(&format!("{distributed}[agent_registry]\nlisten='0.0.0.0:8021'\n"));
    insta::assert_snapshot!(registry.faults(Shape::Run(Service::AgentRegistry)).join("\n"), @r#"
    cluster.secret: is not set, and gRPC leaves this machine (agent_registry.listen); set cluster.secret or cluster.secret_file to the same 32 characters or more in every service
    secrets.keys: is empty, and every process on this Postgres database must seal with the same keys; set secrets.keys or secrets.keys_file, for example to "k1:<output of `openssl rand -base64 32`>"
    "#);
    let gateway = Case::new(&format!("{distributed}[agent_registry]\nendpoints=['http://registry:8021']\n"));
    insta::assert_snapshot!(gateway.faults(Shape::Run(Service::Gateway)).join("\n"), @"cluster.secret: is not set, and gRPC leaves this machine (agent_registry.endpoints); set cluster.secret or cluster.secret_file to the same 32 characters or more in every service");

    let complete = registry.env("GUILDHALL_CLUSTER__SECRET", SECRET).env("GUILDHALL_SECRETS__KEYS", KEY);
    complete.load(Shape::Run(Service::AgentRegistry)).unwrap();
    gateway.env("GUILDHALL_CLUSTER__SECRET", SECRET).load(Shape::Run(Service::Gateway)).unwrap();
}

#[test]
fn a_secret_comes_from_its_file_and_a_bad_file_is_a_fault() {
    let case = Case::new("");
    let secret = case.file("secret", &format!("{SECRET}\n"));
    let keys = case.file("keys", &format!("# the newer first\nk2:{}\n\n{KEY}\n", "A".repeat(43) + "="));
    let url = case.file("url", "postgres://u:pa55@db/hall\n");
    let case = case
        .env("GUILDHALL_CLUSTER__SECRET_FILE", &secret.display().to_string())
        .env("GUILDHALL_SECRETS__KEYS_FILE", &keys.display().to_string())
        .env("GUILDHALL_DATABASE__URL_FILE", &url.display().to_string());
    let config = case.load(Shape::Up).unwrap();
    assert_eq!(config.database.url.expose(), "postgres://u:pa55@db/hall");
    assert_eq!(config.secrets.keys.len(), 2);
    let debug = format!("{config:?}{}", config.print_masked());
    assert!(!debug.contains("pa55") && !debug.contains(SECRET) && !debug.contains("AAAA"), "{debug}");

    let empty = case.file("empty", "\n");
    let both = case
        .env("GUILDHALL_CLUSTER__SECRET_FILE", "/nowhere/at/all")
        .env("GUILDHALL_HOT__URL_FILE", &empty.display().to_string())
        .env("GUILDHALL_DATABASE__URL", "sqlite:");
    insta::assert_snapshot!(both.faults(Shape::Up).join("\n"), @r#"
    database.url: is given (in GUILDHALL_DATABASE__URL), and database.url_file as well; keep one of the two
    hot.url_file: DIR/empty is empty; make it a file with the secret in it that this program may read
    cluster.secret_file: /nowhere/at/all cannot be read (No such file or directory (os error 2)); make it a file with the secret in it that this program may read
    "#);
}

#[test]
fn a_short_secret_and_the_mask_of_a_print_are_refused() {
    let short = Case::new("[cluster]\nsecret = 'short'\n");
    insta::assert_snapshot!(short.faults(Shape::Up).join("\n"), @"cluster.secret: is too short to be safe; use 32 characters at least, for example from `openssl rand -hex 32`");
    let masked = Case::new(
        "[cluster]\nsecret = '***'\n[database]\nurl = 'postgres://u:***@db/hall'\n[secrets]\nkeys = ['***']\n",
    );
    insta::assert_snapshot!(masked.faults(Shape::Up).join("\n"), @r#"
    cluster.secret: holds the mask that `guildhall config print` shows in place of a secret; put the secret itself there, or its file in cluster.secret_file
    secrets.keys: holds the mask that `guildhall config print` shows in place of a secret; put the secret itself there, or its file in secrets.keys_file
    database.url: holds the mask that `guildhall config print` shows in place of a secret; put the secret itself there, or its file in database.url_file
    "#);
}

#[test]
fn a_named_file_must_be_there_and_a_broken_one_is_shown_without_its_text() {
    let mut absent = Case::new("");
    absent.sources.file = Some(absent.folder.path().join("other.toml"));
    insta::assert_snapshot!(absent.faults(Shape::Up).join("\n"), @"DIR/other.toml: cannot be read (No such file or directory (os error 2)); name a file that is there with --config");
    let broken = Case::new("[cluster]\nsecret = hunter2hunter2\n");
    insta::assert_snapshot!(broken.faults(Shape::Up).join("\n"), @r#"DIR/guildhall.toml: is not TOML: TOML parse error at line 2, column 10, invalid string, expected `"`, `'`; correct the line, then check again"#);
}

#[test]
fn a_value_of_the_wrong_type_for_a_secret_is_not_repeated() {
    let case =
        Case::new("[cluster]\nsecret = 123456789\n[secrets]\nkeys = 'k1:topsecret'\n[database]\nurl = ['p4ss']\n");
    let faults = case.faults(Shape::Up).join("\n");
    assert!(faults.contains("cluster.secret") && faults.contains("secrets.keys") && faults.contains("database.url"));
    assert!(!faults.contains("123456789") && !faults.contains("topsecret") && !faults.contains("p4ss"), "{faults}");
}

#[test]
fn what_is_printed_loads_again_and_means_the_same() {
    let case = Case::new(&format!(
        "[auth]\nmode = 'required'\n[gateway]\nallowed_hosts = ['hall.example.org']\n[cluster]\nsecret = '{SECRET}'\n\
         [database]\nurl = 'postgres://u:pa55@db/hall'\n[secrets]\nkeys = ['{KEY}']\n\
         [roles.auditor]\nallow = ['audit.*']\n[telemetry]\notlp_endpoint = 'http://127.0.0.1:4317'\n"
    ));
    let printed = case.load(Shape::Up).unwrap().print_masked();
    assert!(!printed.contains("pa55") && !printed.contains(SECRET) && !printed.contains("AAAA"), "{printed}");
    insta::assert_snapshot!(printed, @r#"
    data_dir = "/home/someone/.local/share/guildhall"

    [auth]
    mode = "required"
    token_ttl = "1d"

    [gateway]
    listen = "127.0.0.1:8016"
    ws_listen = "127.0.0.1:8015"
    allowed_hosts = ["hall.example.org"]
    allowed_origins = []
    max_sessions = 10000
    max_sockets = 20000
    session_idle = "30m"

    [database]
    url = "postgres://u:***@db/hall"
    max_connections = 16
    migrate_at_start = true

    [bus]
    url = "embedded:/home/someone/.local/share/guildhall"
    nats_syncs_always = false

    [hot]
    url = "memory:"

    [agent_registry]
    listen = "127.0.0.1:8021"
    endpoints = ["http://127.0.0.1:8021"]
    idle_after = "1m"
    offline_after = "90s"

    [admin]
    listen = "127.0.0.1:8020"

    [cluster]
    secret = "***"

    [limits]
    requests_per_second = 10.0
    burst = 20

    [mail]
    mailbox_messages = 10000

    [secrets]
    keys = ["***"]

    [roles.auditor]
    allow = ["audit.*"]
    deny = []

    [telemetry]
    log_format = "text"
    log_filter = "info,rmcp=error"
    otlp_endpoint = "http://127.0.0.1:4317"

    [retention]
    events_age = "7d"
    events_size = "1GiB"
    mail_age = "30d"
    mail_size = "10GiB"

    [outbound]
    allow = []
    "#);
    let again = Case::new(&printed).load(Shape::None).unwrap();
    assert_eq!(again.print_masked(), printed);
}

#[test]
fn a_print_of_a_secret_file_names_the_file_alone_so_that_it_loads_again() {
    let case = Case::new("");
    let secret = case.file("secret", SECRET);
    let case = case.env("GUILDHALL_CLUSTER__SECRET_FILE", &secret.display().to_string());
    let printed = case.load(Shape::Up).unwrap().print_masked();
    assert!(printed.contains("secret_file = ") && !printed.contains("***"), "{printed}");
    Case::new(&printed).load(Shape::Up).unwrap();
}
