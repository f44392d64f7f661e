//! What a topic accepts: a JSON Schema, compiled once and asked for every event.

mod compatible;
mod reach;

use guildhall_domain::{Error, Result, event::SCHEMA_MAX_BYTES, mail::Body};
use jsonschema::{Draft, PatternOptions, Retrieve, Uri, ValidationError, Validator};
use serde_json::Value;

/// Faults of one event that an error names; the others are counted.
const FAULTS_MAX: usize = 10;
/// Of one fault's text, which quotes what is wrong.
const FAULT_MAX_CHARS: usize = 200;
/// One pattern, once it is compiled.
const PATTERN_MAX_BYTES: usize = 1024 * 1024;

/// A schema that was understood.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    /// Of events that it can check.
    levels: usize,
}

impl Schema {
    pub fn compile(schema: &Value) -> Result<Self> {
        let bytes = schema.to_string().len();
        if bytes > SCHEMA_MAX_BYTES {
            return Err(Error::invalid(format!(
                "the schema is {bytes} bytes of JSON; at most {SCHEMA_MAX_BYTES} are taken"
            )));
        }
        if !schema.is_object() && !schema.is_boolean() {
            return Err(Error::invalid("a schema is a JSON object, or true for anything and false for nothing"));
        }
        let levels = reach::levels(schema).map_err(unusable)?;
        let validator = jsonschema::options()
            .with_draft(draft(schema)?)
            .should_validate_formats(true)
            .with_retriever(Nothing)
            .with_pattern_options(
                PatternOptions::regex().size_limit(PATTERN_MAX_BYTES).dfa_size_limit(PATTERN_MAX_BYTES),
            )
            .build(schema)
            // The schema is the instance here: of the schema of schemas, or of what reads it.
            .map_err(|error| unusable(fault(&error, error.instance_path().as_str())))?;
        Ok(Self { validator, levels })
    }

    /// `InvalidParams` with what is wrong and where.
    pub fn check(&self, content: &Body) -> Result<()> {
        let value: Value = content.parse()?;
        let depth = reach::depth(&value);
        if depth > self.levels {
            return Err(Error::invalid(format!(
                "the event nests {depth} levels deep, and the topic's schema, whose branches multiply, can check {}",
                self.levels
            )));
        }
        if self.is_valid(&value) {
            return Ok(());
        }
        let mut faults = Vec::new();
        let mut more = 0_usize;
        for error in self.validator.iter_errors(&value) {
            if faults.len() < FAULTS_MAX {
                faults.push(fault(&error, error.instance_path().as_str()));
            } else {
                more += 1;
            }
        }
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        Err(Error::invalid(format!("the event does not fit the topic's schema: {}{more}", faults.join("; "))))
    }

    fn is_valid(&self, value: &Value) -> bool {
        self.validator.is_valid(value)
    }

    /// Why events that fit `old` might not fit `new`; empty when all that do still will. What cannot be shown to be
    /// compatible is named too.
    pub fn compatible(old: &Value, new: &Value) -> Vec<String> {
        compatible::reasons(old, new)
    }
}

fn unusable(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("the schema cannot be used: {why}"))
}

/// What of the document a reference means.
fn follow<'s>(document: &'s Value, reference: &str) -> Option<&'s Value> {
    let pointer = reference.strip_prefix('#')?;
    // Escapes of URLs are left to those who need them.
    if pointer.contains('%') { None } else { document.pointer(pointer) }
}

/// 2020-12 unless the schema says otherwise.
fn draft(schema: &Value) -> Result<Draft> {
    let Some(named) = schema.get("$schema") else { return Ok(Draft::Draft202012) };
    match Draft::default().detect(schema) {
        Draft::Unknown => Err(Error::invalid(format!(
            "the schema's $schema, {:.100}, is no draft that is known here: leave it out, or name one of JSON Schema's own",
            named.to_string()
        ))),
        draft => Ok(draft),
    }
}

fn fault(error: &ValidationError<'_>, place: &str) -> String {
    let place = if place.is_empty() { "/" } else { place };
    let what = error.to_string();
    let short: String = what.chars().take(FAULT_MAX_CHARS).collect();
    let cut = if short.len() < what.len() { "…" } else { "" };
    format!("at {place}: {short}{cut}")
}

/// No schema is fetched from anywhere.
struct Nothing;

impl Retrieve for Nothing {
    fn retrieve(&self, uri: &Uri<String>) -> std::result::Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("{uri} is not fetched: a topic's schema refers only to itself, so put it into $defs").into())
    }
}

#[cfg(test)]
mod tests;
