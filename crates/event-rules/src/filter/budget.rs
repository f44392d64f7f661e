//! What evaluating a filter on one event may cost.
//!
//! A unit is about one step of the evaluator: an element looked at, sixteen bytes of text, one node of a macro's body
//! for one element. Whatever walks or copies a value pays for its size first, so that neither macros within macros
//! over long lists nor lists made of lists get far.

use std::{
    any::Any,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use cel::{
    ExecutionError,
    common::{
        types::{CelBytes, CelInt, CelList, CelMap, CelString, Type},
        value::{CowVal, StaticVal, Val},
    },
};

/// Under which name the woven expression finds it. No text can write it.
pub(super) const VARIABLE: &str = "@budget";
pub(super) const CHARGE: &str = "@charge";
pub(super) const LOOP: &str = "@loop";

/// Some 15 ms of one core, and enough to ask a simple question of each of 10,000 numbers.
const UNITS: u64 = 150_000;
const BYTES_A_UNIT: usize = 16;

static TYPE: Type = Type::new_unspecified_type("guildhall.budget");

#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU64::new(UNITS))
    }
}

impl Budget {
    pub(super) fn is_spent(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    /// Fails, now and for good, when so much is not left.
    pub(super) fn spend(&self, units: u64) -> Result<(), ExecutionError> {
        // One evaluation is one thread: nobody else writes between these two.
        let left = self.0.load(Relaxed).saturating_sub(units);
        self.0.store(left, Relaxed);
        if left == 0 { Err(ExecutionError::function_error(CHARGE, "the filter costs too much")) } else { Ok(()) }
    }

    /// For all that the value holds.
    pub(super) fn spend_on(&self, value: &dyn Val) -> Result<(), ExecutionError> {
        if let Some(list) = value.downcast_ref::<CelList>() {
            self.spend(1)?;
            return list.inner().iter().try_for_each(|item| self.spend_on(&**item));
        }
        if let Some(map) = value.downcast_ref::<CelMap>() {
            self.spend(1)?;
            return map.inner().iter().try_for_each(|(key, item)| {
                self.spend_on(key.inner())?;
                self.spend_on(&**item)
            });
        }
        let bytes = if let Some(text) = value.downcast_ref::<CelString>() {
            text.inner().len()
        } else {
            value.downcast_ref::<CelBytes>().map_or(0, |bytes| bytes.inner().len())
        };
        self.spend(1 + (bytes / BYTES_A_UNIT) as u64)
    }
}

impl Val for Budget {
    fn get_type(&self) -> &Type {
        &TYPE
    }

    fn cel_type() -> &'static Type {
        &TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(Self(AtomicU64::new(self.0.load(Relaxed))))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Budget {}

/// `@charge(@budget, value)` is the value, paid for.
pub(super) fn charge<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = args.pop().ok_or_else(ExecutionError::missing_argument_or_target)?;
    of(&args)?.spend_on(&*value)?;
    Ok(value)
}

/// `@loop(@budget, weight, range)` is the range, paid for together with `weight` steps for each of its elements.
pub(super) fn charge_loop<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let range = args.pop().ok_or_else(ExecutionError::missing_argument_or_target)?;
    let budget = of(&args)?;
    let weight =
        args.get(1).and_then(|weight| weight.downcast_ref::<CelInt>()).map_or(i64::MAX, |weight| *weight.inner());
    let items = range.as_sizer().map_or(0, |sizer| *sizer.size().inner());
    budget.spend(u64::try_from(items.saturating_mul(weight)).unwrap_or(u64::MAX))?;
    budget.spend_on(&*range)?;
    Ok(range)
}

pub(super) fn of<'a>(args: &'a [CowVal<'_, '_>]) -> Result<&'a Budget, ExecutionError> {
    let budget = args.first().and_then(|first| first.downcast_ref::<Budget>());
    budget.ok_or_else(ExecutionError::missing_argument_or_target)
}
