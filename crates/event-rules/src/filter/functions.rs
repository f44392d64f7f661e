//! The functions of filters: CEL's own, with `matches` by a pattern that was read beforehand.

use std::any::Any;

use cel::{
    Env, ExecutionError,
    common::{
        types::{CelBool, CelString, DYN_TYPE, Type},
        value::{CowVal, StaticVal, Val},
    },
};
use regex::{Regex, RegexBuilder};

use super::budget;

/// Of CEL's standard library; macros are none. What else it has (bytes, optionals) is of no use to a filter.
pub(super) const KNOWN: &[&str] = &[
    "bool",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "int",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "type",
    "uint",
];
/// Names of types, which `type(x)` gives.
pub(super) const TYPES: &[&str] =
    &["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

pub(super) const MATCHES: &str = "@matches";
/// The first pattern's variable is `@pattern0`.
pub(super) const PATTERN_VARIABLE: &str = "@pattern";
/// Patterns of one filter, and the bytes that each may take once it is compiled: together half a megabyte a filter.
pub(super) const PATTERNS_MAX: usize = 4;
const PATTERN_MAX_BYTES: usize = 128 * 1024;

pub(super) fn environment() -> Env {
    let mut environment = Env::stdlib();
    let added = environment
        .add_overload(budget::CHARGE, "charge", any::<2>(), budget::charge)
        .and_then(|()| environment.add_overload(budget::LOOP, "loop", any::<3>(), budget::charge_loop))
        .and_then(|()| environment.add_overload(MATCHES, "matches", any::<3>(), matches));
    added.expect("no name of the library begins with @");
    environment
}

/// Arguments of whatever type.
fn any<const NUMBER: usize>() -> Vec<Type> {
    [(); NUMBER].map(|()| DYN_TYPE).into()
}

/// A regular expression of a filter's text. Matching takes time linear in the text it is matched with.
#[derive(Debug, Clone)]
pub(super) struct Pattern(Regex);

impl Pattern {
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        let compiled =
            RegexBuilder::new(pattern).size_limit(PATTERN_MAX_BYTES).dfa_size_limit(PATTERN_MAX_BYTES).build();
        compiled.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => format!(
                "the pattern takes more than {PATTERN_MAX_BYTES} bytes once it is compiled: make its repeats smaller, \
                 or write [A-Za-z0-9_] where \\w stands"
            ),
            error => format!("the pattern is not a regular expression: {error}"),
        })
    }
}

static TYPE: Type = Type::new_unspecified_type("guildhall.pattern");

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &TYPE
    }

    fn cel_type() -> &'static Type {
        &TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

/// `@matches(@budget, pattern, text)`
fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let budget = budget::of(&args)?;
    let pattern = args.get(1).and_then(|pattern| pattern.downcast_ref::<Pattern>());
    let (Some(pattern), Some(text)) = (pattern, args.get(2)) else {
        return Err(ExecutionError::missing_argument_or_target());
    };
    let text = text
        .downcast_ref::<CelString>()
        .ok_or_else(|| ExecutionError::no_such_member_overload("matches", vec![text.get_type().name().to_owned()]))?;
    budget.spend(1 + text.inner().len() as u64)?;
    Ok(CowVal::owned(CelBool::from(pattern.0.is_match(text.inner()))))
}
