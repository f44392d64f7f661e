//! Which events a reader wants: a CEL expression over one event.
//!
//! The variables are `event` (its content), `headers` (names to texts), `topic`, `publisher`, `sequence` and
//! `published_at` (a timestamp). A filter that cannot be evaluated on an event, or that gives anything but `true`, does
//! not match it. The text is parsed, checked and woven with its accounting once ([`weave`]); evaluating spends from a
//! [`budget`], and ends without a match when there is none left.

mod budget;
mod facts;
mod functions;
mod weave;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
    thread,
};

use cel::{
    Context, Env, Value,
    common::{types::CelBool, value::CowVal},
    context::VariableResolver,
    parser::{Expression, ParseError, Parser},
};
use guildhall_domain::{
    Error, Result,
    event::{FILTER_MAX_BYTES, TopicEvent},
};

pub use self::facts::Facts;
use self::{
    budget::Budget,
    functions::Pattern,
    weave::{Fault, Woven},
};

/// For the library's parser, which nests its calls as deep as the text does: with the longest text it was seen to need
/// a third of this in a debug build.
const PARSER_STACK_BYTES: usize = 64 * 1024 * 1024;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(functions::environment()));

/// A filter that was understood. Cheap to clone.
#[derive(Clone)]
pub struct Filter(Arc<Parsed>);

struct Parsed {
    expression: Expression,
    patterns: Vec<Pattern>,
}

impl Filter {
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > FILTER_MAX_BYTES {
            return Err(Error::invalid(format!(
                "the filter is {} bytes long; at most {FILTER_MAX_BYTES} are taken",
                text.len()
            )));
        }
        let parsed = thread::scope(|scope| {
            let parser = thread::Builder::new().name("filter-parser".into()).stack_size(PARSER_STACK_BYTES);
            let parser = parser
                .spawn_scoped(scope, || parse(text))
                .map_err(|error| Error::unavailable(format!("a filter cannot be parsed for now: {error}")))?;
            // A panic of the parser is a fault of the library in the face of this text, and ends nothing else.
            parser.join().unwrap_or_else(|_| Err(refused("it is written in a way that the parser does not survive")))
        })?;
        Ok(Self(Arc::new(parsed)))
    }

    pub fn matches(&self, event: &TopicEvent) -> bool {
        Facts::of(event).is_ok_and(|facts| self.matches_facts(&facts))
    }

    /// As [`Self::matches`], for an event that many filters look at.
    pub fn matches_facts(&self, facts: &Facts) -> bool {
        let seen = Seen { facts, patterns: &self.0.patterns, budget: Budget::default() };
        // What the library panics at must not take a task of the hall with it.
        catch_unwind(AssertUnwindSafe(|| seen.is_true(&self.0.expression))).unwrap_or(false)
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").finish_non_exhaustive()
    }
}

fn parse(text: &str) -> Result<Parsed> {
    let (expression, source) = Parser::new().parse_with_source_info(text).map_err(|errors| {
        let first = errors.errors.into_iter().next();
        first.map_or_else(|| refused("it does not parse"), |first| does_not_parse(&first))
    })?;
    let Woven { expression, patterns } = weave::weave(expression).map_err(|Fault { at, what }| {
        let at = source.offset_for(at).map(|(start, _)| place(text, start));
        refused(format!("{}{what}", at.unwrap_or_default()))
    })?;
    Ok(Parsed { expression, patterns })
}

fn does_not_parse(error: &ParseError) -> Error {
    let (line, column) = error.pos;
    // The library says this as it would to its own developers.
    let what = if error.msg.contains("Recursion limit") { "it nests too deep" } else { &error.msg };
    refused(format!("line {line}, column {}: {what:.300}", column.max(1)))
}

/// `offset` counts characters.
fn place(text: &str, offset: u32) -> String {
    let before: Vec<char> = text.chars().take(usize::try_from(offset).unwrap_or(usize::MAX)).collect();
    let line = before.iter().filter(|c| **c == '\n').count() + 1;
    let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
    format!("line {line}, column {column}: ")
}

fn refused(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!(
        "the filter is not a CEL expression that can be used: {why}; an example: event.kind == \"build\" && has(event.branch)"
    ))
}

/// One event under one filter's eyes.
struct Seen<'f> {
    facts: &'f Facts,
    patterns: &'f [Pattern],
    budget: Budget,
}

impl Seen<'_> {
    fn is_true(&self, expression: &Expression) -> bool {
        let mut context = Context::with_env(ENVIRONMENT.clone());
        context.set_variable_resolver(self);
        let value = Value::resolve_val(expression, &context);
        let is_true = value.is_ok_and(|value| value.downcast_ref::<CelBool>().is_some_and(|is| *is.inner()));
        // `||` forgives an operand that failed: not when it failed for want of budget.
        is_true && !self.budget.is_spent()
    }
}

impl VariableResolver for Seen<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        if variable == budget::VARIABLE {
            return Some(CowVal::Borrowed(&self.budget));
        }
        if let Some(number) = variable.strip_prefix(functions::PATTERN_VARIABLE) {
            let pattern = number.parse().ok().and_then(|number: usize| self.patterns.get(number))?;
            return Some(CowVal::Borrowed(pattern));
        }
        self.facts.get(variable).map(CowVal::Borrowed)
    }
}

#[cfg(test)]
mod tests;
