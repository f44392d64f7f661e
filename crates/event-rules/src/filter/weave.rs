//! Goes over a parsed filter once: refuses what it must not hold, and weaves in what makes it safe to run.
//!
//! - every name must be a variable, a macro's own or a type; every function one that is known;
//! - what walks or copies a value is handed it through `@charge`, and a macro its range through `@loop`;
//! - a pattern is compiled, and must be written out: one that an event brings could be any;
//! - `published_at`, a text among the facts, is read as a timestamp.

use cel::{
    common::ast::{
        CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, LiteralValue, MapEntryExpr,
        operators,
    },
    parser::Expression,
};

use super::{
    budget,
    functions::{self, Pattern},
};

/// Of operators, brackets and macros within each other. Evaluating nests its calls as deep, on whatever stack it runs.
const DEPTH_MAX: usize = 48;

const VARIABLES: &[&str] = &["event", "headers", "topic", "publisher", "sequence", "published_at"];

pub(super) struct Woven {
    pub(super) expression: Expression,
    pub(super) patterns: Vec<Pattern>,
}

/// Why a filter is refused.
pub(super) struct Fault {
    /// The node, as the parser numbers it.
    pub(super) at: u64,
    pub(super) what: String,
}

pub(super) fn weave(expression: Expression) -> Result<Woven, Fault> {
    let mut weaver = Weaver { own: Vec::new(), patterns: Vec::new(), depth: 0 };
    let expression = weaver.weave(expression)?;
    Ok(Woven { expression, patterns: weaver.patterns })
}

struct Weaver {
    /// Names that the macros around here have made.
    own: Vec<String>,
    patterns: Vec<Pattern>,
    depth: usize,
}

impl Weaver {
    fn weave(&mut self, expression: Expression) -> Result<Expression, Fault> {
        let at = expression.id;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault { at, what: format!("it nests more than {DEPTH_MAX} levels deep") });
        }
        let woven = match expression.expr {
            Expr::Literal(literal) => Expr::Literal(literal),
            Expr::Ident(name) => self.name(at, name)?,
            Expr::Select(mut select) => {
                *select.operand = self.weave(*select.operand)?;
                Expr::Select(select)
            }
            Expr::Call(call) => self.call(at, call)?,
            Expr::List(list) => {
                let elements = list.elements.into_iter().map(|element| self.paid(element)).collect::<Result<_, _>>()?;
                Expr::List(ListExpr { elements, ..list })
            }
            Expr::Map(mut map) => {
                map.entries = map.entries.into_iter().map(|entry| self.entry(entry)).collect::<Result<_, _>>()?;
                Expr::Map(map)
            }
            Expr::Comprehension(comprehension) => self.comprehension(at, *comprehension)?,
            Expr::Struct(made) => {
                return Err(Fault { at, what: format!("there is no type {:.60} to make a value of", made.type_name) });
            }
            Expr::Unspecified => return Err(Fault { at, what: "something is missing".into() }),
        };
        self.depth -= 1;
        Ok(IdedExpr { id: at, expr: woven })
    }

    fn name(&self, at: u64, name: String) -> Result<Expr, Fault> {
        if self.own.contains(&name) || functions::TYPES.contains(&&*name) {
            return Ok(Expr::Ident(name));
        }
        if name == "published_at" {
            let text = IdedExpr { id: at, expr: Expr::Ident(name) };
            return Ok(call("timestamp", vec![text]));
        }
        if VARIABLES.contains(&&*name) {
            return Ok(Expr::Ident(name));
        }
        Err(Fault { at, what: format!("there is no variable {name:.60}; there are {}", VARIABLES.join(", ")) })
    }

    fn call(&mut self, at: u64, call: CallExpr) -> Result<Expr, Fault> {
        let CallExpr { func_name, target, args } = call;
        if func_name == "matches" {
            return self.matches(at, target.map(|target| *target).into_iter().chain(args).collect());
        }
        let is_operator = !func_name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !is_operator && !functions::KNOWN.contains(&&*func_name) {
            return Err(Fault {
                at,
                what: format!(
                    "there is no function {func_name:.60}; there are {}, matches and the macros has, all, exists, exists_one, map, filter",
                    functions::KNOWN.join(", ")
                ),
            });
        }
        // These look at no more than one value's type, or hand on a part of it without a copy.
        let is_cheap = matches!(
            &*func_name,
            operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::LOGICAL_NOT
                | operators::CONDITIONAL
                | operators::NOT_STRICTLY_FALSE
                | operators::INDEX
        );
        let mut weave = |argument| if is_cheap { self.weave(argument) } else { self.paid(argument) };
        let target = target.map(|target| weave(*target).map(Box::new)).transpose()?;
        let args = args.into_iter().map(weave).collect::<Result<_, _>>()?;
        Ok(Expr::Call(CallExpr { func_name, target, args }))
    }

    fn matches(&mut self, at: u64, arguments: Vec<Expression>) -> Result<Expr, Fault> {
        let Ok([text, pattern]) = <[Expression; 2]>::try_from(arguments) else {
            return Err(Fault { at, what: "matches takes a text and a pattern".into() });
        };
        let Expr::Literal(LiteralValue::String(written)) = &pattern.expr else {
            return Err(Fault { at: pattern.id, what: "a pattern must be written out in the filter".into() });
        };
        if self.patterns.len() == functions::PATTERNS_MAX {
            return Err(Fault { at, what: format!("it has more than {} patterns", functions::PATTERNS_MAX) });
        }
        let compiled = Pattern::new(written.inner()).map_err(|what| Fault { at: pattern.id, what })?;
        let name = format!("{}{}", functions::PATTERN_VARIABLE, self.patterns.len());
        self.patterns.push(compiled);
        let pattern = IdedExpr { id: pattern.id, expr: Expr::Ident(name) };
        Ok(call(functions::MATCHES, vec![budget_at(at), pattern, self.weave(text)?]))
    }

    fn entry(&mut self, entry: IdedEntryExpr) -> Result<IdedEntryExpr, Fault> {
        match entry.expr {
            EntryExpr::MapEntry(pair) => {
                let pair = MapEntryExpr { key: self.paid(pair.key)?, value: self.paid(pair.value)?, ..pair };
                Ok(IdedEntryExpr { id: entry.id, expr: EntryExpr::MapEntry(pair) })
            }
            EntryExpr::StructField(_) => Err(Fault { at: entry.id, what: "a map's entry has no key".into() }),
        }
    }

    fn comprehension(&mut self, at: u64, comprehension: ComprehensionExpr) -> Result<Expr, Fault> {
        let ComprehensionExpr { iter_range, iter_var, iter_var2, accu_var, accu_init, loop_cond, loop_step, result } =
            comprehension;
        let weight = i64::try_from(nodes(&loop_cond) + nodes(&loop_step)).unwrap_or(i64::MAX);
        let range = self.weave(iter_range)?;
        let weight = IdedExpr { id: at, expr: Expr::Literal(LiteralValue::Int(weight.into())) };
        let iter_range = IdedExpr { id: range.id, expr: call(budget::LOOP, vec![budget_at(at), weight, range]) };
        let accu_init = self.weave(accu_init)?;
        let outside = self.own.len();
        self.own.extend([Some(iter_var.clone()), iter_var2.clone(), Some(accu_var.clone())].into_iter().flatten());
        let loop_cond = self.weave(loop_cond)?;
        let loop_step = self.weave(loop_step)?;
        let result = self.weave(result)?;
        self.own.truncate(outside);
        Ok(Expr::Comprehension(Box::new(ComprehensionExpr {
            iter_range,
            iter_var,
            iter_var2,
            accu_var,
            accu_init,
            loop_cond,
            loop_step,
            result,
        })))
    }

    /// Woven, and charged for the size of its value. A macro's own accumulator is left alone: the evaluator knows the
    /// macros by their shape, and what goes into it has been paid for.
    fn paid(&mut self, expression: Expression) -> Result<Expression, Fault> {
        let is_free = match &expression.expr {
            Expr::Literal(_) => true,
            Expr::Ident(name) => name.starts_with('@'),
            _ => false,
        };
        let woven = self.weave(expression)?;
        if is_free {
            return Ok(woven);
        }
        Ok(IdedExpr { id: woven.id, expr: call(budget::CHARGE, vec![budget_at(woven.id), woven]) })
    }
}

fn call(function: &str, args: Vec<Expression>) -> Expr {
    Expr::Call(CallExpr { func_name: function.to_owned(), target: None, args })
}

fn budget_at(at: u64) -> Expression {
    IdedExpr { id: at, expr: Expr::Ident(budget::VARIABLE.to_owned()) }
}

/// How many steps one evaluation takes, macros within it counted once: they pay for themselves.
fn nodes(expression: &Expression) -> usize {
    let within = match &expression.expr {
        Expr::Select(select) => nodes(&select.operand),
        Expr::Call(call) => call.target.iter().map(|target| nodes(target)).chain(call.args.iter().map(nodes)).sum(),
        Expr::List(list) => list.elements.iter().map(nodes).sum(),
        Expr::Map(map) => map
            .entries
            .iter()
            .map(|entry| match &entry.expr {
                EntryExpr::MapEntry(pair) => nodes(&pair.key) + nodes(&pair.value),
                EntryExpr::StructField(field) => nodes(&field.value),
            })
            .sum(),
        Expr::Comprehension(c) => {
            [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result].into_iter().map(nodes).sum()
        }
        Expr::Literal(_) | Expr::Ident(_) | Expr::Struct(_) | Expr::Unspecified => 0,
    };
    1 + within
}
