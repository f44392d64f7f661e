//! How deep an event may nest for its schema, so that a check is no work without end.
//!
//! A schema whose branches each lead to itself, as those of trees do, may look at a place twice as often as at the one
//! above it. How often it looks at one place, level by level, decides how deep the events are that it can check.

use std::{
    collections::{BTreeSet, HashMap},
    ptr,
};

use serde_json::{Map, Value};

/// At one place. Each look takes well under a microsecond.
const LOOKS_MAX: u64 = 5_000;
/// Levels of an event: none nests deeper than JSON is read.
const LEVELS_MAX: usize = 128;
/// A schema that cannot check events of so few levels is refused.
const LEVELS_MIN: usize = 4;
/// References and branches at one place within each other.
const WITHIN_MAX: usize = 256;

type Keywords = Map<String, Value>;

/// The levels of events that can be checked; or what is wrong.
pub(super) fn levels(schema: &Value) -> Result<usize, String> {
    let mut reach = Reach { document: schema, looks: HashMap::new(), places: HashMap::new() };
    for level in 0..LEVELS_MAX {
        if reach.looks(schema, level)? > LOOKS_MAX {
            if level < LEVELS_MIN {
                return Err(format!(
                    "its branches multiply: a place {level} levels deep in an event would be looked at more than \
                     {LOOKS_MAX} times"
                ));
            }
            return Ok(level);
        }
    }
    Ok(LEVELS_MAX)
}

/// How deep a value nests; 0 for one without fields and items.
pub(super) fn depth(value: &Value) -> usize {
    let deepest = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or(0)
}

struct Reach<'s> {
    document: &'s Value,
    /// By schema and level below its place.
    looks: HashMap<(*const Value, usize), u64>,
    /// What looks at a schema's place together with it.
    places: HashMap<*const Value, Vec<&'s Keywords>>,
}

impl<'s> Reach<'s> {
    /// At a place `level` levels below the schema's own.
    fn looks(&mut self, schema: &'s Value, level: usize) -> Result<u64, String> {
        let key = (ptr::from_ref(schema), level);
        if let Some(looks) = self.looks.get(&key) {
            return Ok(*looks);
        }
        let here = self.here(schema)?;
        let looks = match level.checked_sub(1) {
            None => here.len() as u64,
            Some(below) => self.at_a_field(&here, below)?.max(self.at_an_item(&here, below)?),
        };
        self.looks.insert(key, looks);
        Ok(looks)
    }

    /// As often as a field of any one name is looked at.
    fn at_a_field(&mut self, here: &[&'s Keywords], level: usize) -> Result<u64, String> {
        let names: BTreeSet<&str> =
            here.iter().flat_map(|keywords| fields(keywords, "properties")).map(|(name, _)| &**name).collect();
        let mut every = 0_u64;
        for keywords in here {
            let patterns = fields(keywords, "patternProperties").map(|(_, schema)| schema);
            let others = ["unevaluatedProperties", "propertyNames"].into_iter().filter_map(|name| keywords.get(name));
            for schema in patterns.chain(others) {
                every = every.saturating_add(self.looks(schema, level)?);
            }
        }
        let mut most = 0;
        for name in names.into_iter().map(Some).chain([None]) {
            let mut looks = every;
            for keywords in here {
                let named = name.and_then(|name| keywords.get("properties")?.get(name));
                if let Some(schema) = named.or_else(|| keywords.get("additionalProperties")) {
                    looks = looks.saturating_add(self.looks(schema, level)?);
                }
            }
            most = looks.max(most);
        }
        Ok(most)
    }

    fn at_an_item(&mut self, here: &[&'s Keywords], level: usize) -> Result<u64, String> {
        let mut looks = 0_u64;
        for keywords in here {
            let first = several(keywords, "prefixItems").chain(several(keywords, "items"));
            let rest = ["items", "additionalItems"].into_iter().filter_map(|name| keywords.get(name));
            let mut one_of = 0;
            for schema in first.chain(rest) {
                one_of = self.looks(schema, level)?.max(one_of);
            }
            looks = looks.saturating_add(one_of);
            for schema in ["contains", "unevaluatedItems"].into_iter().filter_map(|name| keywords.get(name)) {
                looks = looks.saturating_add(self.looks(schema, level)?);
            }
        }
        Ok(looks)
    }

    fn here(&mut self, schema: &'s Value) -> Result<Vec<&'s Keywords>, String> {
        let key = ptr::from_ref(schema);
        if let Some(known) = self.places.get(&key) {
            return Ok(known.clone());
        }
        let mut here = Vec::new();
        self.gather(schema, &mut Vec::new(), &mut here)?;
        self.places.insert(key, here.clone());
        Ok(here)
    }

    fn gather(
        &self,
        schema: &'s Value,
        within: &mut Vec<*const Value>,
        here: &mut Vec<&'s Keywords>,
    ) -> Result<(), String> {
        let Value::Object(keywords) = schema else { return Ok(()) };
        if within.contains(&ptr::from_ref(schema)) {
            return Err("it refers to itself without end".into());
        }
        if within.len() == WITHIN_MAX {
            return Err(format!("its branches and references nest more than {WITHIN_MAX} levels deep"));
        }
        here.push(keywords);
        if here.len() as u64 > LOOKS_MAX {
            return Err(format!("its branches multiply: one place would be looked at more than {LOOKS_MAX} times"));
        }
        within.push(ptr::from_ref(schema));
        for branch in self.branches(schema, keywords)? {
            self.gather(branch, within, here)?;
        }
        within.pop();
        Ok(())
    }

    fn branches(&self, schema: &Value, keywords: &'s Keywords) -> Result<Vec<&'s Value>, String> {
        if keywords.contains_key("$id") && !ptr::eq(schema, self.document) {
            return Err("an $id below the root is not taken: refer to parts by their place, as in #/$defs/name".into());
        }
        if let Some(dynamic) = ["$dynamicRef", "$recursiveRef"].iter().find(|name| keywords.contains_key(**name)) {
            return Err(format!("{dynamic} is not taken: refer to parts by their place, as in $ref: #/$defs/name"));
        }
        let mut branches = Vec::new();
        if let Some(reference) = keywords.get("$ref").and_then(Value::as_str) {
            branches.push(super::follow(self.document, reference).ok_or_else(|| {
                format!(
                    "$ref {reference:.200} is not a place in the schema, as #/$defs/name is: nothing is fetched from elsewhere"
                )
            })?);
        }
        branches.extend(["allOf", "anyOf", "oneOf"].into_iter().flat_map(|name| several(keywords, name)));
        branches.extend(["not", "if", "then", "else"].into_iter().filter_map(|name| keywords.get(name)));
        let dependent = ["dependentSchemas", "dependencies"].into_iter().flat_map(|name| fields(keywords, name));
        branches.extend(dependent.map(|(_, schema)| schema));
        Ok(branches)
    }
}

fn several<'s>(keywords: &'s Keywords, name: &str) -> impl Iterator<Item = &'s Value> {
    keywords.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn fields<'s>(keywords: &'s Keywords, name: &str) -> impl Iterator<Item = (&'s String, &'s Value)> {
    keywords.get(name).and_then(Value::as_object).into_iter().flatten()
}
