//! The keywords of one schema against those of another, by the types that they are about.

use std::{cmp::Ordering, collections::BTreeSet, sync::LazyLock};

use serde_json::{Number, Value};

use super::{
    Comparison, Keywords, Place,
    numbers::{compare, count, is_multiple, number},
    types::Types,
};
use crate::Schema;

static ANYTHING: LazyLock<Value> = LazyLock::new(|| Value::Bool(true));

/// Keywords that follow from nothing but themselves, with those that they are read together with, and the types that
/// they are about; `None`: all.
const AS_THEY_ARE: &[(&[&str], Option<Types>)] = &[
    (&["not"], None),
    (&["if", "then", "else"], None),
    (&["contains", "minContains", "maxContains"], Some(Types::ARRAY)),
    (&["dependentSchemas"], Some(Types::OBJECT)),
    (&["dependencies"], Some(Types::OBJECT)),
    (&["propertyNames"], Some(Types::OBJECT)),
    (&["contentEncoding", "contentMediaType", "contentSchema"], Some(Types::STRING)),
];

/// What else makes a part of a schema, beside its own keywords.
const OTHER_PARTS: &[&str] = &["$ref", "allOf", "anyOf", "oneOf"];

impl<'s> Comparison<'s> {
    pub(super) fn own_reasons(&mut self, old: &'s Keywords, new: &'s Keywords, place: &Place) -> Vec<String> {
        if let Some(reasons) = few_values(old, new, place) {
            return reasons;
        }
        let mut reasons = Vec::new();
        let lost = Types::of(old).without(Types::of(new));
        if !lost.is_empty() {
            reasons.push(place.reason(format_args!("{} is no longer allowed", lost.names())));
        }
        for keyword in ["enum", "const"] {
            if new.contains_key(keyword) {
                reasons.push(place.reason(format_args!("{keyword} allows certain values only, and did not before")));
            }
        }
        let types = Types::of(old).and(Types::of(new));
        if types.has(Types::NUMBER) {
            reasons.extend(number_reasons(old, new, types, place));
        }
        if types.has(Types::STRING) {
            reasons.extend(string_reasons(old, new, place));
        }
        if types.has(Types::ARRAY) {
            reasons.extend(self.array_reasons(old, new, place));
        }
        if types.has(Types::OBJECT) {
            reasons.extend(self.object_reasons(old, new, place));
        }
        for (keywords, about) in AS_THEY_ARE {
            if about.is_none_or(|about| types.has(about)) {
                reasons.extend(self.as_they_are(keywords, old, new, place));
            }
        }
        reasons
    }

    fn as_they_are(&self, keywords: &[&str], old: &Keywords, new: &Keywords, place: &Place) -> Option<String> {
        let nothing = Value::Null;
        let of = |schema: &Keywords, keyword: &str| schema.get(keyword).cloned().unwrap_or_else(|| nothing.clone());
        let is_there = new.contains_key(keywords[0]);
        let is_same = keywords.iter().all(|keyword| self.is_same(&of(old, keyword), &of(new, keyword)));
        (is_there && !is_same).then(|| {
            place.reason(format_args!("{} was added or changed, which cannot be shown to be compatible", keywords[0]))
        })
    }

    fn array_reasons(&mut self, old: &'s Keywords, new: &'s Keywords, place: &Place) -> Vec<String> {
        let mut reasons = count_reasons(old, new, "minItems", "maxItems", 0, place);
        let is_unique = |schema: &Keywords| schema.get("uniqueItems") == Some(&Value::Bool(true));
        let most = count(old, "maxItems").unwrap_or(u64::MAX);
        if is_unique(new) && !is_unique(old) && most > 1 {
            reasons.push(place.reason("uniqueItems was not asked for before"));
        }
        let (old_first, old_rest) = items(old);
        let (new_first, new_rest) = items(new);
        for i in 0..old_first.len().max(new_first.len()) {
            if i as u64 >= most {
                return reasons;
            }
            let (before, after) = (old_first.get(i).unwrap_or(old_rest), new_first.get(i).unwrap_or(new_rest));
            reasons.extend(self.reasons(before, after, &place.within(&i.to_string())));
        }
        if (old_first.len().max(new_first.len()) as u64) < most {
            reasons.extend(self.reasons(old_rest, new_rest, &place.within("*")));
        }
        if new.get("unevaluatedItems").is_some_and(|rule| *rule != Value::Bool(true)) {
            reasons.push(place.reason("unevaluatedItems cannot be shown to be compatible"));
        }
        reasons
    }

    fn object_reasons(&mut self, old: &'s Keywords, new: &'s Keywords, place: &Place) -> Vec<String> {
        let (old_required, new_required) = (required(old), required(new));
        let mut reasons: Vec<String> = new_required
            .difference(&old_required)
            .map(|field| place.reason(format_args!("the field {field} is required now")))
            .collect();
        reasons.extend(count_reasons(old, new, "minProperties", "maxProperties", old_required.len() as u64, place));
        reasons.extend(self.field_reasons(old, new, place));
        reasons.extend(dependent_reasons(old, new, &old_required, place));
        if new.get("unevaluatedProperties").is_some_and(|rule| *rule != Value::Bool(true)) {
            reasons.push(place.reason("unevaluatedProperties cannot be shown to be compatible"));
        }
        reasons
    }

    fn field_reasons(&mut self, old: &'s Keywords, new: &'s Keywords, place: &Place) -> Vec<String> {
        let (old_named, new_named) = (schemas(old, "properties"), schemas(new, "properties"));
        let (old_patterns, new_patterns) = (schemas(old, "patternProperties"), schemas(new, "patternProperties"));
        let old_others = old.get("additionalProperties").unwrap_or(&ANYTHING);
        let new_others = new.get("additionalProperties").unwrap_or(&ANYTHING);
        let mut reasons = Vec::new();
        for (name, after) in new_named.into_iter().flatten() {
            let place = place.within(name);
            match old_named.and_then(|fields| fields.get(name)) {
                Some(before) => reasons.extend(self.reasons(before, after, &place)),
                None if *old_others == Value::Bool(true) && old_patterns.is_none() => {
                    if !self.reasons(old_others, after, &place).is_empty() {
                        reasons.push(place.reason("the field could be anything before, and is restricted now"));
                    }
                }
                // It may have been one of those that a pattern names, or one of the others.
                None => {
                    for before in old_patterns.into_iter().flat_map(|patterns| patterns.values()).chain([old_others]) {
                        reasons.extend(self.reasons(before, after, &place));
                    }
                }
            }
        }
        for (pattern, after) in new_patterns.into_iter().flatten() {
            let place = place.within(&format!("<{pattern}>"));
            match old_patterns.and_then(|patterns| patterns.get(pattern)) {
                Some(before) => reasons.extend(self.reasons(before, after, &place)),
                None if *after == Value::Bool(true) => {}
                None => reasons.push(place.reason("fields of this pattern are restricted now, and were not before")),
            }
        }
        if *new_others == Value::Bool(true) {
            return reasons;
        }
        for (name, before) in old_named.into_iter().flatten() {
            if new_named.is_none_or(|fields| !fields.contains_key(name)) {
                reasons.extend(self.other_reasons(
                    before,
                    new_others,
                    &place.within(name),
                    "the field is no longer allowed",
                ));
            }
        }
        for (pattern, before) in old_patterns.into_iter().flatten() {
            if new_patterns.is_none_or(|patterns| !patterns.contains_key(pattern)) {
                let place = place.within(&format!("<{pattern}>"));
                reasons.extend(self.other_reasons(
                    before,
                    new_others,
                    &place,
                    "fields of this pattern are no longer allowed",
                ));
            }
        }
        let place = place.within("*");
        reasons.extend(self.other_reasons(
            old_others,
            new_others,
            &place,
            "fields that are not named are no longer allowed",
        ));
        reasons
    }

    fn other_reasons(&mut self, before: &'s Value, others: &'s Value, place: &Place, closed: &str) -> Vec<String> {
        let reasons = self.reasons(before, others, place);
        if *others == Value::Bool(false) && !reasons.is_empty() { vec![place.reason(closed)] } else { reasons }
    }
}

/// What allowed few values is asked for each of them.
fn few_values(old: &Keywords, new: &Keywords, place: &Place) -> Option<Vec<String>> {
    let values = match (old.get("const"), old.get("enum")) {
        (Some(value), _) => vec![value.clone()],
        (None, Some(Value::Array(values))) => values.clone(),
        _ => Types::of(old).values()?,
    };
    let (old, new) = (by_itself(old)?, by_itself(new)?);
    let lost = values.iter().filter(|value| old.is_valid(value) && !new.is_valid(value));
    Some(
        lost.map(|value| place.reason(format_args!("the value {:.100} is no longer allowed", value.to_string())))
            .collect(),
    )
}

/// A part's own keywords as a schema, if they stand for themselves.
fn by_itself(keywords: &Keywords) -> Option<Schema> {
    let mut own = keywords.clone();
    OTHER_PARTS.iter().for_each(|keyword| drop(own.remove(*keyword)));
    own.retain(|keyword, _| keyword != "$defs" && keyword != "definitions");
    let own = Value::Object(own);
    if refers(&own) { None } else { Schema::compile(&own).ok() }
}

fn refers(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, value)| name == "$ref" || refers(value)),
        Value::Array(items) => items.iter().any(refers),
        _ => false,
    }
}

fn number_reasons(old: &Keywords, new: &Keywords, types: Types, place: &Place) -> Vec<String> {
    let mut reasons = Vec::new();
    // Upwards and downwards: an old bound lies within the new one when it is as far, and farther where the new one
    // excludes itself and the old one does not.
    for (bound, exclusive, farther) in
        [("minimum", "exclusiveMinimum", Ordering::Greater), ("maximum", "exclusiveMaximum", Ordering::Less)]
    {
        let holds = |limit: &Number, excludes: bool| {
            let is_within = |name: &str, old_excludes: bool| {
                number(old, name)
                    .and_then(|before| compare(before, limit))
                    .is_some_and(|order| order == farther || order == Ordering::Equal && (old_excludes || !excludes))
            };
            is_within(bound, false) || is_within(exclusive, true)
        };
        for (name, excludes) in [(bound, false), (exclusive, true)] {
            if let Some(limit) = number(new, name)
                && !holds(limit, excludes)
            {
                reasons.push(place.reason(format_args!("{name} is {limit} now, and did not limit as much before")));
            }
        }
    }
    if let Some(step) = number(new, "multipleOf") {
        let is_whole = !types.has(Types::FRACTION) && step.as_f64() == Some(1.0);
        let was = number(old, "multipleOf").is_some_and(|before| is_multiple(step, before));
        if !is_whole && !was {
            reasons.push(place.reason(format_args!("it must be a multiple of {step} now")));
        }
    }
    reasons
}

fn string_reasons(old: &Keywords, new: &Keywords, place: &Place) -> Vec<String> {
    let mut reasons = count_reasons(old, new, "minLength", "maxLength", 0, place);
    for keyword in ["pattern", "format"] {
        if let Some(after) = new.get(keyword)
            && old.get(keyword) != Some(after)
        {
            reasons.push(place.reason(format_args!("the {keyword} {after:.100} was not asked for before")));
        }
    }
    reasons
}

fn count_reasons(old: &Keywords, new: &Keywords, least: &str, most: &str, at_least: u64, place: &Place) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(now) = count(new, least)
        && now > count(old, least).unwrap_or(0).max(at_least)
    {
        reasons.push(place.reason(format_args!("{least} is {now} now, and was less before")));
    }
    if let Some(now) = count(new, most)
        && count(old, most).is_none_or(|before| now < before)
    {
        reasons.push(place.reason(format_args!("{most} is {now} now, and was more before")));
    }
    reasons
}

fn dependent_reasons(old: &Keywords, new: &Keywords, old_required: &BTreeSet<&str>, place: &Place) -> Vec<String> {
    let names = |value: &'_ Value| -> BTreeSet<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut reasons = Vec::new();
    for (field, needed) in schemas(new, "dependentRequired").into_iter().flatten() {
        let before =
            schemas(old, "dependentRequired").and_then(|fields| fields.get(field)).map(names).unwrap_or_default();
        for needed in names(needed) {
            if !before.contains(&needed) && !old_required.contains(&*needed) {
                reasons.push(place.reason(format_args!("the field {needed} is required now beside {field}")));
            }
        }
    }
    reasons
}

fn required(keywords: &Keywords) -> BTreeSet<&str> {
    keywords.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn schemas<'s>(keywords: &'s Keywords, name: &str) -> Option<&'s Keywords> {
    keywords.get(name).and_then(Value::as_object)
}

/// The schemas of the first items, and that of all others.
fn items(keywords: &Keywords) -> (&[Value], &Value) {
    let first = keywords.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    (first, keywords.get("items").unwrap_or(&ANYTHING))
}
