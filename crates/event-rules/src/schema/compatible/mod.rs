//! Whether everything that fits one schema fits another, as far as the schemas' structure shows it.
//!
//! A schema is taken apart into what must hold at once: its own keywords, the branches of `allOf`, what `$ref` refers
//! to, and its alternatives. Each part of the new schema has to follow from a part of the old one. What no rule here
//! decides is named as a reason, so that an empty answer is a promise, and a long one perhaps too careful.

mod keywords;
mod numbers;
mod types;

use std::{ptr, sync::LazyLock};

use serde_json::{Map, Value};

use super::follow;

/// Named in one answer.
const REASONS_MAX: usize = 100;
/// Comparisons of parts: alternatives within alternatives could be compared for ever.
const COMPARISONS_MAX: usize = 20_000;
/// Of comparisons within each other.
const DEPTH_MAX: usize = 100;
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

type Keywords = Map<String, Value>;

static NONE: LazyLock<Keywords> = LazyLock::new(Map::new);

pub(super) fn reasons(old: &Value, new: &Value) -> Vec<String> {
    if old == new {
        return Vec::new();
    }
    let cannot_be_shown = |why: &str| vec![format!("at /: {why}, so this cannot be shown to be compatible")];
    for schema in [old, new] {
        if !is_2020_12(schema) {
            return cannot_be_shown("only schemas of draft 2020-12 are compared");
        }
    }
    let mut comparison = Comparison { old, new, under_way: Vec::new(), comparisons: 0, depth: 0 };
    let mut reasons = comparison.reasons(old, new, &Place::default());
    if comparison.comparisons > COMPARISONS_MAX {
        return cannot_be_shown("the schemas are too entangled to be compared");
    }
    reasons.dedup();
    reasons.truncate(REASONS_MAX);
    reasons
}

fn is_2020_12(schema: &Value) -> bool {
    schema.get("$schema").is_none_or(|named| named.as_str().is_some_and(|named| named.trim_end_matches('#') == DIALECT))
}

/// Where in an event.
#[derive(Clone, Default)]
struct Place {
    pointer: String,
    depth: usize,
}

impl Place {
    fn within(&self, name: &str) -> Self {
        let pointer = format!("{}/{}", self.pointer, name.replace('~', "~0").replace('/', "~1"));
        Self { pointer, depth: self.depth + 1 }
    }

    fn reason(&self, what: impl std::fmt::Display) -> String {
        format!("at {}: {what}", if self.pointer.is_empty() { "/" } else { &self.pointer })
    }
}

/// What must hold, beside the other parts of its schema.
#[derive(Clone, Copy)]
enum Part<'s> {
    Own(&'s Keywords),
    /// One of them at least.
    Any(&'s [Value]),
    /// Exactly one of them.
    One(&'s [Value]),
    /// Nothing fits.
    Never,
    /// It refers to what is not in the document, or to itself without end.
    Unknown,
}

struct Comparison<'s> {
    old: &'s Value,
    new: &'s Value,
    /// Pairs that are being compared, with the depth of their place. One that is met again deeper in the event holds
    /// if all the rest does.
    under_way: Vec<(*const Value, *const Value, usize)>,
    comparisons: usize,
    /// Of these within each other.
    depth: usize,
}

impl<'s> Comparison<'s> {
    /// Why what fits `old` might not fit `new`.
    fn reasons(&mut self, old: &'s Value, new: &'s Value, place: &Place) -> Vec<String> {
        if *new == Value::Bool(true) || self.is_same(old, new) {
            return Vec::new();
        }
        let (old_at, new_at) = (ptr::from_ref(old), ptr::from_ref(new));
        if let Some((_, _, depth)) = self.under_way.iter().find(|pair| (pair.0, pair.1) == (old_at, new_at)) {
            return if *depth < place.depth {
                Vec::new()
            } else {
                vec![place.reason("it refers to itself without end, and cannot be shown to be compatible")]
            };
        }
        self.under_way.push((old_at, new_at, place.depth));
        let reasons = self.reasons_of(&parts(self.old, old), new, place);
        self.under_way.pop();
        reasons
    }

    fn reasons_of(&mut self, olds: &[Part<'s>], new: &'s Value, place: &Place) -> Vec<String> {
        if olds.iter().any(|part| matches!(part, Part::Never)) {
            return Vec::new();
        }
        parts(self.new, new).into_iter().flat_map(|part| self.part_reasons(olds, part, place)).collect()
    }

    /// Why one part of the new schema does not follow from the old one: the shortest answer that a part of it gives.
    fn part_reasons(&mut self, olds: &[Part<'s>], new: Part<'s>, place: &Place) -> Vec<String> {
        self.comparisons += 1;
        if self.depth == DEPTH_MAX {
            self.comparisons = COMPARISONS_MAX + 1;
        }
        if self.comparisons > COMPARISONS_MAX {
            return vec![place.reason("it is too entangled to be compared")];
        }
        self.depth += 1;
        let reasons = match new {
            Part::Own(keywords) => self.shortest(olds, keywords, place),
            _ => self.why_not(olds, new, place).map(|why_not| place.reason(why_not)).into_iter().collect(),
        };
        self.depth -= 1;
        reasons
    }

    fn why_not(&mut self, olds: &[Part<'s>], new: Part<'s>, place: &Place) -> Option<&'static str> {
        match new {
            Part::Own(_) => None,
            Part::Any(branches) => {
                let is_shown = branches.iter().any(|branch| self.reasons_of(olds, branch, place).is_empty())
                    || self.is_covered(olds, new, place);
                (!is_shown).then_some("that it fits one of anyOf cannot be shown to be compatible")
            }
            Part::One(branches) => {
                let is_there = olds.iter().any(|part| match part {
                    Part::One(before) if before.len() == branches.len() => {
                        before.iter().zip(branches).all(|(before, branch)| self.is_same(before, branch))
                    }
                    _ => false,
                });
                (!is_there).then_some("that it fits exactly one of oneOf cannot be shown to be compatible")
            }
            Part::Never => Some("nothing is allowed here any more"),
            Part::Unknown => Some("a $ref that cannot be followed cannot be shown to be compatible"),
        }
    }

    fn shortest(&mut self, olds: &[Part<'s>], new: &'s Keywords, place: &Place) -> Vec<String> {
        let mut shortest: Option<Vec<String>> = None;
        for old in olds {
            let reasons = match *old {
                Part::Own(own) => self.own_reasons(own, new, place),
                Part::Any(_) | Part::One(_) if self.is_covered(&[*old], Part::Own(new), place) => Vec::new(),
                _ => continue,
            };
            if reasons.is_empty() {
                return reasons;
            }
            if shortest.as_ref().is_none_or(|shortest| reasons.len() < shortest.len()) {
                shortest = Some(reasons);
            }
        }
        shortest.unwrap_or_else(|| vec![place.reason("it cannot be shown to be compatible")])
    }

    /// Whether every alternative of one of the old parts leads to the new one.
    fn is_covered(&mut self, olds: &[Part<'s>], new: Part<'s>, place: &Place) -> bool {
        olds.iter().any(|old| {
            let (Part::Any(branches) | Part::One(branches)) = *old else { return false };
            branches.iter().all(|branch| {
                let branch = parts(self.old, branch);
                branch.iter().any(|part| matches!(part, Part::Never))
                    || self.part_reasons(&branch, new, place).is_empty()
            })
        })
    }

    /// Whether they are the same text, and what they refer to is, too.
    fn is_same(&self, old: &Value, new: &Value) -> bool {
        let mut seen = Vec::new();
        old == new && self.refers_to_the_same(old, &mut seen)
    }

    fn refers_to_the_same(&self, value: &Value, seen: &mut Vec<String>) -> bool {
        match value {
            Value::Object(fields) => fields.iter().all(|(name, value)| match value {
                Value::String(reference) if name == "$ref" => {
                    if seen.contains(reference) {
                        return true;
                    }
                    seen.push(reference.clone());
                    match (follow(self.old, reference), follow(self.new, reference)) {
                        (Some(old), Some(new)) => old == new && self.refers_to_the_same(old, seen),
                        _ => false,
                    }
                }
                value => self.refers_to_the_same(value, seen),
            }),
            Value::Array(items) => items.iter().all(|item| self.refers_to_the_same(item, seen)),
            _ => true,
        }
    }
}

fn parts<'s>(document: &'s Value, schema: &'s Value) -> Vec<Part<'s>> {
    let mut parts = Vec::new();
    take_apart(document, schema, &mut Vec::new(), &mut parts);
    parts
}

fn take_apart<'s>(document: &'s Value, schema: &'s Value, within: &mut Vec<*const Value>, parts: &mut Vec<Part<'s>>) {
    let at = ptr::from_ref(schema);
    if within.contains(&at) || within.len() > DEPTH_MAX || parts.len() > COMPARISONS_MAX {
        return parts.push(Part::Unknown);
    }
    within.push(at);
    match schema {
        Value::Bool(false) => parts.push(Part::Never),
        Value::Object(keywords) => {
            parts.push(Part::Own(keywords));
            if let Some(reference) = keywords.get("$ref") {
                match reference.as_str().and_then(|reference| follow(document, reference)) {
                    Some(meant) => take_apart(document, meant, within, parts),
                    None => parts.push(Part::Unknown),
                }
            }
            for branch in keywords.get("allOf").and_then(Value::as_array).into_iter().flatten() {
                take_apart(document, branch, within, parts);
            }
            parts.extend(keywords.get("anyOf").and_then(Value::as_array).map(|branches| Part::Any(branches)));
            parts.extend(keywords.get("oneOf").and_then(Value::as_array).map(|branches| Part::One(branches)));
        }
        // `true`, or what is no schema and was never taken.
        _ => parts.push(Part::Own(&NONE)),
    }
    within.pop();
}
