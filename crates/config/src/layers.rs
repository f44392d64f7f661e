//! Where values come from, one over the other: the defaults, a file, the environment, flags.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};

use crate::Faults;

/// The defaults, which are the documentation as well.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// The file that is read when none is named and it is there.
pub const DEFAULT_FILE: &str = "guildhall.toml";

const PREFIX: &str = "GUILDHALL_";
/// Variables of the command line, which are no keys.
const NOT_KEYS: [&str; 4] = ["GUILDHALL_CONFIG", "GUILDHALL_URL", "GUILDHALL_TOKEN", "GUILDHALL_TOKEN_FILE"];

/// What the command line says over everything else.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub data_dir: Option<PathBuf>,
    pub listen: Option<String>,
    pub ws_listen: Option<String>,
}

/// Everything a configuration is made of. The environment is passed in, so that a test can own it.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `None`: `guildhall.toml` of the working directory, if it is there.
    pub file: Option<PathBuf>,
    pub environment: BTreeMap<String, String>,
    pub flags: Flags,
}

const FILE: &str = "file";
const ENVIRONMENT: &str = "environment";
const FLAGS: &str = "flags";

/// Values with the name of the layer they are from, which figment keeps with each.
struct Layer {
    name: &'static str,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// The layers laid over each other, with the way back from a value to where it was said.
pub(crate) struct Layers {
    figment: Figment,
    file: Option<PathBuf>,
}

impl Layers {
    pub(crate) fn read(sources: &Sources, faults: &mut Faults) -> Self {
        let (file, values) = read_file(sources.file.as_deref(), faults);
        let figment = Figment::from(Toml::string(DEFAULTS))
            .merge(Layer { name: FILE, values })
            .merge(Layer { name: ENVIRONMENT, values: from_environment(&sources.environment) })
            .merge(Layer { name: FLAGS, values: from_flags(&sources.flags) });
        Self { figment, file }
    }

    /// What the layers say together.
    pub(crate) fn values(&self) -> Dict {
        self.figment.extract().expect("layers are dictionaries that have been read already")
    }

    fn name_of(&self, value: &Value) -> &str {
        self.figment.get_metadata(value.tag()).map_or("", |layer| layer.name.as_ref())
    }

    pub(crate) fn is_default(&self, value: &Value) -> bool {
        ![FILE, ENVIRONMENT, FLAGS].contains(&self.name_of(value))
    }

    /// A variable holds text; what it means depends on the key. So it is read as it stands, as a value, and as a list.
    pub(crate) fn readings(&self, value: &Value) -> Vec<Value> {
        let as_it_stands = value.clone();
        match value.as_str() {
            Some(text) if self.name_of(value) == ENVIRONMENT => {
                let tag = value.tag();
                let list = text.split(',').map(|item| Value::from(item.trim())).collect();
                let parsed: Value = text.parse().expect("figment reads any text as some value");
                vec![as_it_stands, parsed, Value::Array(tag, list)]
            }
            _ => vec![as_it_stands],
        }
    }

    /// Where a value was said, for a person to find it.
    pub(crate) fn origin(&self, key: &str, value: &Value) -> String {
        match self.name_of(value) {
            FILE => self.file.as_deref().map_or_else(String::new, |file| format!("in {}", file.display())),
            ENVIRONMENT => format!("in {}", variable(key)),
            FLAGS => "on the command line".to_owned(),
            _ => "by default".to_owned(),
        }
    }
}

/// The environment variable of a key.
pub(crate) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

fn read_file(named: Option<&Path>, faults: &mut Faults) -> (Option<PathBuf>, Dict) {
    let file = named.unwrap_or(Path::new(DEFAULT_FILE));
    let shown = file.display().to_string();
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => return (None, Dict::new()),
        Err(error) => {
            faults.add(shown, format!("cannot be read ({error})"), "name a file that is there with --config");
            return (None, Dict::new());
        }
    };
    match Toml::from_str::<Dict>(&text) {
        Ok(values) => (Some(file.to_owned()), values),
        Err(error) => {
            faults.add(shown, without_source_text(&error.to_string()), "correct the line, then check again");
            (None, Dict::new())
        }
    }
}

/// The parser quotes the line at fault, which may hold a secret: kept are the place and the reason.
fn without_source_text(message: &str) -> String {
    let kept: Vec<_> = message.lines().filter(|line| !line.contains('|') && !line.trim().is_empty()).collect();
    format!("is not TOML: {}", kept.join(", "))
}

fn from_environment(environment: &BTreeMap<String, String>) -> Dict {
    let mut values = Dict::new();
    for (name, text) in environment {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        if text.is_empty() || NOT_KEYS.contains(&name.as_str()) || is_service_link(name, text) {
            continue;
        }
        let levels: Vec<_> = key.to_lowercase().split("__").map(str::to_owned).collect();
        insert(&mut values, &levels, text);
    }
    values
}

fn insert(values: &mut Dict, levels: &[String], text: &str) {
    match levels {
        [] => {}
        [last] => {
            values.insert(last.clone(), Value::from(text));
        }
        [first, rest @ ..] => {
            let inner = values.entry(first.clone()).or_insert_with(|| Value::from(Dict::new()));
            // A section given as text and by key at once: the text stays, and is named as a fault.
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, text);
            }
        }
    }
}

/// Kubernetes tells every pod the addresses of services in variables named after them: a service `guildhall-gateway`
/// makes `GUILDHALL_GATEWAY_PORT=tcp://…` and its like, which nobody meant as configuration.
fn is_service_link(name: &str, text: &str) -> bool {
    let about_a_port = name.contains("_PORT_") && ["_TCP", "_UDP"].iter().any(|protocol| name.contains(protocol));
    let about_a_service = name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
    let an_address = name.ends_with("_PORT") && text.contains("://");
    !name.contains("__") && (about_a_port || about_a_service || an_address)
}

fn from_flags(flags: &Flags) -> Dict {
    let mut values = Dict::new();
    if let Some(folder) = &flags.data_dir {
        values.insert("data_dir".into(), Value::from(folder.display().to_string()));
    }
    for (key, address) in [("listen", &flags.listen), ("ws_listen", &flags.ws_listen)] {
        if let Some(address) = address {
            insert(&mut values, &["gateway".to_owned(), key.to_owned()], address);
        }
    }
    values
}
