//! Makes sections of values, key by key: serde stops at the first fault, and a reader wants all of them.

use std::{collections::BTreeMap, path::PathBuf};

use figment::{
    error::{Actual, Kind},
    value::{Dict, Value},
};
use serde::de::DeserializeOwned;

use crate::{
    Faults,
    layers::{Layers, variable},
    section::{
        Admin, AgentRegistry, Auth, Bus, Cluster, Database, Gateway, Hot, Limits, Mail, Outbound, Retention, Role,
        Secrets, Section, Telemetry,
    },
};

/// Below this likeness (0 to 1) a known key is no help for someone who wrote another.
const LIKENESS_MIN: f64 = 0.7;

const SEE_DEFAULTS: &str = "`guildhall config defaults` shows how it is written";

pub(crate) struct Reader<'a> {
    layers: &'a Layers,
    defaults: Dict,
    values: Dict,
    faults: &'a mut Faults,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(layers: &'a Layers, defaults: Dict, faults: &'a mut Faults) -> Self {
        let mut reader = Self { layers, defaults, values: layers.values(), faults };
        reader.refuse_unknown_sections();
        reader
    }

    /// A section with every value that can be used; faults for the others, which keep their default.
    pub(crate) fn section<T: Section>(&mut self) -> T {
        let defaults = dict(self.defaults.get(T::KEY)).cloned().unwrap_or_default();
        let values = self.given(T::KEY);
        self.read(T::KEY, defaults, values)
    }

    pub(crate) fn roles(&mut self) -> BTreeMap<String, Role> {
        let mut roles = BTreeMap::new();
        for (name, value) in self.given(Role::KEY) {
            let key = format!("{}.{name}", Role::KEY);
            match value {
                Value::Dict(_, values) => {
                    roles.insert(name, self.read(&key, Dict::new(), values));
                }
                _ => self.faults.add(key, "is not a section", "write [roles.<name>] with allow and deny below"),
            }
        }
        roles
    }

    pub(crate) fn data_dir(&mut self) -> Option<PathBuf> {
        let value = self.values.get("data_dir")?;
        match value.deserialize::<String>() {
            Ok(folder) if !folder.is_empty() => Some(folder.into()),
            _ => {
                self.faults.add("data_dir", "is not a path", "write it like \"/var/lib/guildhall\"");
                None
            }
        }
    }

    /// What was said about a section, by key.
    fn given(&mut self, section: &str) -> Dict {
        match self.values.remove(section) {
            Some(Value::Dict(_, values)) => values,
            Some(other) => {
                let origin = self.layers.origin(section, &other);
                let fix =
                    format!("name a key of it: [{section}] in the file, {}__… in the environment", variable(section));
                self.faults.add(section, format!("is a section, not a value ({origin})"), fix);
                Dict::new()
            }
            None => Dict::new(),
        }
    }

    fn read<T: DeserializeOwned>(&mut self, section: &str, defaults: Dict, values: Dict) -> T {
        let fields = fields_of::<T>();
        let mut usable = defaults.clone();
        for (name, value) in &values {
            if self.layers.is_default(value) {
                continue;
            }
            let key = format!("{section}.{name}");
            self.refuse_twice_given(&key, name, &values);
            match first_that_fits::<T>(&defaults, name, self.layers.readings(value)) {
                Ok(reading) => {
                    usable.insert(name.clone(), reading);
                }
                Err(error) => self.explain(&key, name, value, &error, fields),
            }
        }
        Value::from(usable).deserialize().expect("defaults and values that each fit on their own fit together")
    }

    /// Which of the two was meant cannot be known.
    fn refuse_twice_given(&mut self, key: &str, name: &str, values: &Dict) {
        let Some(in_place) = name.strip_suffix("_file") else { return };
        let Some(other) = values.get(in_place).filter(|value| !self.layers.is_default(value)) else { return };
        let in_place_key = key.trim_end_matches("_file").to_owned();
        let origin = self.layers.origin(&in_place_key, other);
        self.faults.add(in_place_key, format!("is given ({origin}), and {key} as well"), "keep one of the two");
    }

    fn explain(&mut self, key: &str, name: &str, value: &Value, error: &figment::Error, fields: &[&str]) {
        if let Kind::UnknownField(unknown, _) = &error.kind
            && unknown == name
        {
            return self.unknown(key, value);
        }
        let origin = self.layers.origin(key, value);
        // A key that may be given as a file holds a secret: its value is not repeated.
        let is_secret = fields.contains(&format!("{name}_file").as_str());
        let (problem, fix) = match &error.kind {
            Kind::Message(message) => {
                let (problem, fix) = message.split_once("; ").unwrap_or((message, SEE_DEFAULTS));
                (problem.to_owned(), fix.to_owned())
            }
            Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
                let given = if is_secret { "of another kind".to_owned() } else { in_words(actual) };
                (format!("is {given}"), format!("write {}", in_plain_words(expected)))
            }
            Kind::UnknownVariant(given, known) => {
                (format!("there is no {given:?}"), format!("write one of {}", known.join(", ")))
            }
            other => (other.to_string(), SEE_DEFAULTS.to_owned()),
        };
        self.faults.add(key, format!("{problem} ({origin})"), fix);
    }

    fn refuse_unknown_sections(&mut self) {
        let known = known_keys();
        let is_known = |name: &str| name == Role::KEY || known.iter().any(|key| key.split('.').next() == Some(name));
        let unknown: Vec<_> = self
            .values
            .iter()
            .filter(|(name, _)| !is_known(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        for (name, value) in unknown {
            match dict(Some(&value)) {
                Some(inner) if !inner.is_empty() => {
                    for (inner_name, inner_value) in inner {
                        self.unknown(&format!("{name}.{inner_name}"), inner_value);
                    }
                }
                _ => self.unknown(&name, &value),
            }
        }
    }

    fn unknown(&mut self, key: &str, value: &Value) {
        let origin = self.layers.origin(key, value);
        let fix = match closest(key) {
            Some(known) => format!("did you mean {known} ({} in the environment)?", variable(&known)),
            None => "remove it; `guildhall config defaults` shows every key there is".to_owned(),
        };
        self.faults.add(key, format!("there is no such key ({origin})"), fix);
    }
}

fn dict(value: Option<&Value>) -> Option<&Dict> {
    match value {
        Some(Value::Dict(_, dict)) => Some(dict),
        _ => None,
    }
}

/// The reading that the key takes. When none fits, why the first did not; for a list why the last did not, which is
/// the one that is a list.
fn first_that_fits<T: DeserializeOwned>(
    defaults: &Dict,
    name: &str,
    readings: Vec<Value>,
) -> Result<Value, Box<figment::Error>> {
    let mut errors = Vec::new();
    for reading in readings {
        let mut trial = defaults.clone();
        trial.insert(name.to_owned(), reading.clone());
        match Value::from(trial).deserialize::<T>() {
            Ok(_) => return Ok(reading),
            Err(error) => errors.push(Box::new(error)),
        }
    }
    let wants_a_list = matches!(&errors[0].kind, Kind::InvalidType(_, expected) if expected == "a sequence");
    let telling = if wants_a_list { errors.len() - 1 } else { 0 };
    Err(errors.swap_remove(telling))
}

/// The keys that a section knows, from the refusal of one that none knows.
fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let probe = Dict::from([("?".to_owned(), Value::from(true))]);
    match Value::from(probe).deserialize::<T>().err().map(|error| error.kind) {
        Some(Kind::UnknownField(_, fields)) => fields,
        _ => &[],
    }
}

/// Every key there is, less those of roles, whose names are free.
pub(crate) fn known_keys() -> Vec<String> {
    fn keys<T: Section>() -> impl Iterator<Item = String> {
        fields_of::<T>().iter().map(|field| format!("{}.{field}", T::KEY))
    }
    std::iter::once("data_dir".to_owned())
        .chain(keys::<Auth>())
        .chain(keys::<Gateway>())
        .chain(keys::<Database>())
        .chain(keys::<Bus>())
        .chain(keys::<Hot>())
        .chain(keys::<AgentRegistry>())
        .chain(keys::<Admin>())
        .chain(keys::<Cluster>())
        .chain(keys::<Limits>())
        .chain(keys::<Mail>())
        .chain(keys::<Secrets>())
        .chain(keys::<Telemetry>())
        .chain(keys::<Retention>())
        .chain(keys::<Outbound>())
        .collect()
}

/// The key that was probably meant: the same name in another section, the same words with other dividers, or the most
/// alike.
fn closest(wrong: &str) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |known: &String| {
        let spelling = strsim::normalized_damerau_levenshtein(known, wrong);
        if known.replace('.', "_") == wrong.replace('.', "_") {
            1.0
        } else if last(known) == last(wrong) {
            spelling.max(LIKENESS_MIN)
        } else {
            spelling
        }
    };
    known_keys()
        .into_iter()
        .map(|known| (likeness(&known), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

fn in_words(actual: &Actual) -> String {
    match actual {
        Actual::Str(text) => format!("the text {text:?}"),
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a section".to_owned(),
        other => other.to_string(),
    }
}

/// Serde says Rust's types.
fn in_plain_words(expected: &str) -> &str {
    match expected {
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a string" => "a text in quotes",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::layers::DEFAULTS;

    /// Keys of default.toml, those that are shown in a comment too.
    fn documented() -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        let mut section = String::new();
        for line in DEFAULTS.lines() {
            let line = line.strip_prefix("# ").unwrap_or(line);
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = format!("{name}.");
            } else if let Some((name, _)) = line.split_once(" = ")
                && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            {
                keys.insert(format!("{section}{name}"));
            }
        }
        keys
    }

    #[test]
    fn the_documented_keys_are_the_keys_there_are() {
        let mut known: BTreeSet<String> = known_keys().into_iter().collect();
        known.extend(fields_of::<Role>().iter().map(|field| format!("roles.auditor.{field}")));
        assert_eq!(documented(), known);
    }

    #[test]
    fn a_misspelt_or_misplaced_key_is_led_to_the_right_one() {
        for (wrong, right) in [
            ("gateway.lisen", "gateway.listen"),
            ("database_url", "database.url"),
            ("gateway.token_ttl", "auth.token_ttl"),
            ("gatway.listen", "gateway.listen"),
        ] {
            assert_eq!(closest(wrong).as_deref(), Some(right), "{wrong}");
        }
        assert_eq!(closest("llm.model"), None);
    }
}
