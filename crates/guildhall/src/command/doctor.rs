//! `guildhall doctor`: asks everything that the configuration names whether it works.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use guildhall_agent_registry::grpc;
use guildhall_config::{Config, Faults, Service, Shape};
use guildhall_domain::{Call, Error, Principal, TenantId};
use guildhall_rpc::{RemoteOptions, Transport};
use guildhall_store::SchemaState;
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use url::Url;

use super::{ConfigArgs, config::shape};
use crate::{
    failure::Failure,
    process::{Engines, Process},
    screen,
};

/// What works answers in far less.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Checks every engine and service that the configuration names: what was tried, how it went, what to do.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  guildhall doctor\n  guildhall doctor --for gateway --config /etc/guildhall.toml --json"
)]
pub(super) struct Doctor {
    #[command(flatten)]
    config: ConfigArgs,
    /// What is to run: up, or a service
    #[arg(long = "for", value_name = "SHAPE", default_value = "up", value_parser = shape)]
    shape: Shape,
    /// For scripts: JSON instead of lines
    #[arg(long)]
    json: bool,
}

/// What is wrong, and what to do.
type Trouble = (String, String);
type Outcome = Result<String, Trouble>;

/// One thing that was asked.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    tried: String,
    ok: bool,
    result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    fn new(what: &str, tried: impl Into<String>, outcome: Outcome) -> Self {
        let (what, tried) = (what.to_owned(), tried.into());
        match outcome {
            Ok(result) => Self { what, tried, ok: true, result, fix: None },
            Err((result, fix)) => Self { what, tried, ok: false, result, fix: Some(fix) },
        }
    }

    fn line(&self) -> String {
        let mark = if self.ok { "ok  " } else { "FAIL" };
        let fix = self.fix.as_ref().map(|fix| format!("\n      -> {fix}")).unwrap_or_default();
        format!("{mark}  {:<15} {}: {}{fix}", self.what, self.tried, self.result)
    }
}

impl Doctor {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let findings = match self.config.load(self.shape) {
            Ok(config) => examine(&config, self.shape).await,
            Err(faults) => of_the_configuration(&faults),
        };
        let well = findings.iter().all(|finding| finding.ok);
        if self.json {
            screen::say_json(&serde_json::json!({ "ok": well, "checks": findings }))?;
        } else {
            screen::say(findings.iter().map(Finding::line).collect::<Vec<_>>().join("\n"))?;
        }
        if well { Ok(()) } else { Err(Failure::shown()) }
    }
}

fn of_the_configuration(faults: &Faults) -> Vec<Finding> {
    let finding = |fault: &guildhall_config::Fault| {
        Finding::new("configuration", fault.key.clone(), Err((fault.problem.clone(), fault.fix.clone())))
    };
    faults.iter().map(finding).collect()
}

async fn examine(config: &Config, shape: Shape) -> Vec<Finding> {
    let mut findings = vec![Finding::new("configuration", "defaults, file, environment", Ok("is good".to_owned()))];
    let engines = Process::quiet().and_then(|process| Engines::connect(config, &process));
    let engines = match engines {
        Ok(engines) => engines,
        Err(error) => {
            findings.push(Finding::new(
                "engines",
                config.data_dir.display().to_string(),
                Err(explained(error, "data_dir")),
            ));
            return findings;
        }
    };
    let works = |()| "answers".to_owned();
    let (database, bus, hot) = futures::join!(
        database(config, &engines),
        async { answer(engines.bus.ping()).await.map(works).map_err(|error| explained(error, "bus.url")) },
        async { answer(engines.hot.ping()).await.map(works).map_err(|error| explained(error, "hot.url")) },
    );
    // A gateway keeps nothing in the database.
    if shape != Shape::Run(Service::Gateway) {
        findings.push(Finding::new("database", config.database.url.to_string(), database));
    }
    findings.push(Finding::new("bus", config.bus.url.to_string(), bus));
    findings.push(Finding::new("hot", config.hot.url.to_string(), hot));
    findings.extend(services(config, shape).await);
    if let Some(endpoint) = &config.telemetry.otlp_endpoint {
        findings.push(collector(endpoint).await);
    }
    findings
}

async fn answer<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(ANSWER_TIME, asked)
        .await
        .unwrap_or_else(|_| Err(Error::timeout(format!("no answer within {} s", ANSWER_TIME.as_secs()))))
}

/// What the hall's errors advise after a semicolon is meant for callers; whoever asks the doctor can do more.
fn explained(error: Error, key: &str) -> Trouble {
    let problem = error.message.split_once("; ").map_or(&*error.message, |(problem, _)| problem);
    (problem.to_owned(), format!("see that it runs and can be reached from here, and that {key} is right"))
}

async fn database(config: &Config, engines: &Engines) -> Outcome {
    let in_words = |error| explained(error, "database.url");
    let store = engines.store(config, "doctor").map_err(in_words)?;
    let state = answer(async {
        store.ping().await?;
        store.schema().await
    })
    .await;
    store.close().await;
    schema(state.map_err(in_words)?, config.database.migrate_at_start)
}

fn schema(state: SchemaState, migrates_at_start: bool) -> Outcome {
    match state {
        SchemaState::Current { version } => Ok(format!("answers, its schema {version} is this version's")),
        SchemaState::Behind { version, newest } if migrates_at_start => {
            Ok(format!("answers, its schema {version} is brought to {newest} at the next start"))
        }
        SchemaState::Behind { version, newest } => {
            Err((format!("its schema is {version}, and this version needs {newest}"), "run `guildhall migrate`".into()))
        }
        SchemaState::Ahead { version, newest } => Err((
            format!("its schema {version} is of a newer version; this one's is {newest}"),
            "run that newer version".into(),
        )),
    }
}

async fn services(config: &Config, shape: Shape) -> Vec<Finding> {
    let gateway = &config.gateway;
    let mut findings = Vec::new();
    match shape {
        Shape::Run(Service::AgentRegistry) => {
            findings.push(listener("agent_registry", "agent_registry.listen", config.agent_registry.listen).await);
        }
        Shape::Run(Service::Gateway) => {
            for endpoint in &config.agent_registry.endpoints {
                let outcome = answer(registry(config, endpoint)).await;
                findings.push(Finding::new(
                    "agent-registry",
                    endpoint.clone(),
                    outcome.map_err(|error| explained(error, "agent_registry.endpoints")),
                ));
            }
        }
        Shape::Up | Shape::Keys | Shape::None => {}
    }
    if shape != Shape::Run(Service::AgentRegistry) {
        findings.push(listener("gateway", "gateway.listen", gateway.listen).await);
        findings.push(listener("websocket", "gateway.ws_listen", gateway.ws_listen).await);
    }
    if matches!(shape, Shape::Run(_)) {
        findings.push(listener("admin", "admin.listen", config.admin.listen).await);
    }
    findings
}

/// With the cluster secret, as a gateway asks.
async fn registry(config: &Config, endpoint: &str) -> Result<String, Error> {
    let options =
        RemoteOptions { cluster_secret: config.cluster.secret.clone(), ..RemoteOptions::new("agent-registry") };
    let registry = grpc::client(Transport::remote(&[endpoint.to_owned()], options)?);
    let call = Call::within(Principal::hall(TenantId::default(), "doctor"), ANSWER_TIME);
    registry.access(&call, None).await?;
    Ok("answers".to_owned())
}

/// A service either runs there already or can be started there.
async fn listener(what: &str, key: &str, address: SocketAddr) -> Finding {
    let mut reach = address;
    if address.ip().is_unspecified() {
        reach.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    let outcome = if answer(connects(reach)).await.is_ok() {
        Ok("something listens there: the service, if it runs".to_owned())
    } else {
        match TcpListener::bind(address).await {
            Ok(_) => Ok("is free".to_owned()),
            Err(error) => Err((format!("cannot be listened on ({error})"), format!("set {key} to another address"))),
        }
    };
    Finding::new(what, address.to_string(), outcome)
}

async fn connects(address: SocketAddr) -> Result<(), Error> {
    TcpStream::connect(address).await.map(drop).map_err(|error| Error::unavailable(error.to_string()))
}

async fn collector(endpoint: &str) -> Finding {
    let reached = async {
        let url = Url::parse(endpoint).map_err(|error| Error::invalid(error.to_string()))?;
        let address = (url.host_str().unwrap_or_default().to_owned(), url.port_or_known_default().unwrap_or(4317));
        TcpStream::connect(address).await.map_err(|error| Error::unavailable(error.to_string()))?;
        Ok("takes connections".to_owned())
    };
    let outcome = answer(reached).await.map_err(|error| explained(error, "telemetry.otlp_endpoint"));
    Finding::new("collector", endpoint, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_tried_why_it_failed_and_what_to_do() {
        let outcome = schema(SchemaState::Behind { version: 1, newest: 2 }, false);
        let finding = Finding::new("database", "sqlite:/x", outcome);
        insta::assert_snapshot!(finding.line(), @r#"
        FAIL  database        sqlite:/x: its schema is 1, and this version needs 2
              -> run `guildhall migrate`
        "#);
    }

    #[test]
    fn a_schema_that_the_next_start_brings_up_is_no_failure() {
        assert!(schema(SchemaState::Behind { version: 1, newest: 2 }, true).is_ok());
        assert!(schema(SchemaState::Ahead { version: 3, newest: 2 }, true).is_err());
    }

    #[test]
    fn advice_for_callers_is_not_taken_for_advice_to_operators() {
        let (problem, fix) = explained(Error::unavailable("postgres is away; repeat the call later"), "database.url");
        assert_eq!(problem, "postgres is away");
        assert!(fix.contains("database.url"), "{fix}");
    }

    #[tokio::test]
    async fn an_address_is_well_whether_the_service_runs_or_can_be_started_there() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        assert!(listener("gateway", "gateway.listen", address).await.result.contains("something listens"));
        drop(taken);
        assert_eq!(listener("gateway", "gateway.listen", address).await.result, "is free");
        let elsewhere = listener("gateway", "gateway.listen", "192.0.2.1:1".parse().unwrap()).await;
        assert!(!elsewhere.ok && elsewhere.fix.is_some_and(|fix| fix.contains("gateway.listen")));
    }
}
