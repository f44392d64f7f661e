//! The direction of dependencies: `guildhall → services → ports in domain ← engines`. Tests may depend on anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde::Deserialize;

/// Crates of other people that do I/O, or that tie a word of the domain to one protocol or engine.
const IO: [&str; 14] = [
    "async-nats",
    "axum",
    "deadpool-redis",
    "figment",
    "hyper",
    "mio",
    "prost",
    "redis",
    "reqwest",
    "rmcp",
    "socket2",
    "sqlx",
    "tokio",
    "tonic",
];

const SERVICES: [&str; 7] =
    ["agent-registry", "gateway", "mail", "matrix-bridge", "schema-cache", "summarizer", "sync"];
const ENGINES: [&str; 3] = ["bus", "hot", "store"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None`: what the program is built with; otherwise `dev` or `build`.
    kind: Option<String>,
}

/// A package's name, and the names of those it is built with.
type Graph = BTreeMap<String, BTreeSet<String>>;

pub(crate) fn faults() -> Vec<String> {
    faults_in(&graph())
}

fn graph() -> Graph {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .expect("cargo is there: it has just built this program");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON of a known shape");
    let names: BTreeMap<&str, &str> = metadata.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
    let mut graph = Graph::new();
    for node in &metadata.resolve.nodes {
        let built_with = node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        let built_with = built_with.map(|dep| names[dep.pkg.as_str()].to_owned());
        graph.entry(names[node.id.as_str()].to_owned()).or_default().extend(built_with);
    }
    graph
}

fn faults_in(graph: &Graph) -> Vec<String> {
    let mut faults = Vec::new();
    for (package, built_with) in graph {
        let Some(package) = house_name(package) else { continue };
        for used in built_with.iter().filter_map(|name| house_name(name)) {
            if let Some(rule) = broken_rule(package, used) {
                faults.push(format!("crates/{package} depends on {used}: {rule}"));
            }
        }
    }
    let of_domain = everything_below("guildhall-domain", graph);
    faults.extend(IO.iter().filter(|io| of_domain.contains(**io)).map(|io| {
        format!("crates/domain is built with {io}: it holds words and ports, and does no I/O (cargo tree -i {io})")
    }));
    faults
}

/// The folder under `crates/` of a crate of the house.
fn house_name(package: &str) -> Option<&str> {
    if package == "guildhall" { Some(package) } else { package.strip_prefix("guildhall-") }
}

fn broken_rule(package: &str, used: &str) -> Option<&'static str> {
    let is_service = |name| SERVICES.contains(&name);
    let is_engine = |name| ENGINES.contains(&name);
    match (package, used) {
        ("tests" | "testkit", _) => None,
        (_, "testkit" | "tests") => Some("only tests may (under [dev-dependencies])"),
        ("guildhall", _) => None,
        (_, "guildhall") => Some("nothing depends on the program"),
        ("domain", _) => Some("domain depends on nothing of the house"),
        (package, used) if is_service(package) && is_service(used) => {
            Some("a service knows another by its port in domain alone")
        }
        (package, used) if is_service(package) && is_engine(used) => {
            Some("a service knows an engine by its port in domain alone")
        }
        (package, used) if is_engine(package) && (is_engine(used) || is_service(used)) => {
            Some("an engine knows the ports in domain, and neither services nor other engines")
        }
        (_, used) if is_service(used) => Some("only the program's wiring knows a service"),
        _ => None,
    }
}

fn everything_below<'g>(package: &str, graph: &'g Graph) -> BTreeSet<&'g str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = vec![package];
    while let Some(next) = open.pop() {
        for used in graph.get(next).into_iter().flatten() {
            if found.insert(used.as_str()) {
                open.push(used);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(edges: &[(&str, &str)]) -> Vec<String> {
        let mut graph = Graph::new();
        for (package, used) in edges {
            graph.entry((*package).to_owned()).or_default().insert((*used).to_owned());
        }
        faults_in(&graph)
    }

    #[test]
    fn the_house_as_it_is_meant_to_be_has_no_fault() {
        let edges = [
            ("guildhall", "guildhall-gateway"),
            ("guildhall", "guildhall-store"),
            ("guildhall-gateway", "guildhall-domain"),
            ("guildhall-store", "guildhall-domain"),
            ("guildhall-store", "sqlx"),
            ("guildhall-domain", "serde"),
            ("guildhall-tests", "guildhall-testkit"),
        ];
        assert_eq!(faults_of(&edges), Vec::<String>::new());
    }

    #[test]
    fn a_service_that_imports_a_sibling_or_an_engine_fails() {
        assert_eq!(faults_of(&[("guildhall-gateway", "guildhall-agent-registry")]).len(), 1);
        assert_eq!(faults_of(&[("guildhall-gateway", "guildhall-store")]).len(), 1);
        assert_eq!(faults_of(&[("guildhall-store", "guildhall-bus")]).len(), 1);
        assert_eq!(faults_of(&[("guildhall-rpc", "guildhall-gateway")]).len(), 1);
        assert_eq!(faults_of(&[("guildhall-rpc", "guildhall-testkit")]).len(), 1);
    }

    #[test]
    fn io_that_reaches_domain_through_another_crate_fails() {
        assert_eq!(faults_of(&[("guildhall-domain", "innocent"), ("innocent", "tokio")]).len(), 1);
    }
}
