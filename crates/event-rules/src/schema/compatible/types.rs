//! The types that a schema allows.

use serde_json::Value;

use super::Keywords;

/// A set of JSON's types; numbers with and without a fraction are two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u8);

const NAMES: [(&str, u8); 8] = [
    ("null", 1),
    ("boolean", 2),
    ("object", 4),
    ("array", 8),
    ("string", 16),
    ("number", 32 | 64),
    ("integer", 32),
    ("number with a fraction", 64),
];

impl Types {
    pub(super) const OBJECT: Self = Self(4);
    pub(super) const ARRAY: Self = Self(8);
    pub(super) const STRING: Self = Self(16);
    pub(super) const NUMBER: Self = Self(32 | 64);
    pub(super) const FRACTION: Self = Self(64);
    const ALL: Self = Self(127);
    const FEW: Self = Self(1 | 2);

    pub(super) fn of(keywords: &Keywords) -> Self {
        let named = |name: &Value| NAMES.iter().find(|(known, _)| name == known).map_or(0, |(_, bits)| *bits);
        match keywords.get("type") {
            None => Self::ALL,
            Some(Value::Array(names)) => Self(names.iter().map(named).fold(0, |all, one| all | one)),
            Some(name) => Self(named(name)),
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn has(self, one_of: Self) -> bool {
        self.0 & one_of.0 != 0
    }

    /// All its values, when there are few.
    pub(super) fn values(self) -> Option<Vec<Value>> {
        if self.has(Self::ALL.without(Self::FEW)) {
            return None;
        }
        let mut values = if self.has(Self(1)) { vec![Value::Null] } else { Vec::new() };
        if self.has(Self(2)) {
            values.extend([Value::Bool(true), Value::Bool(false)]);
        }
        Some(values)
    }

    pub(super) fn names(self) -> String {
        let mut left = self;
        let mut names = Vec::new();
        for (name, bits) in NAMES {
            if left.0 & bits == bits {
                names.push(name);
                left = left.without(Self(bits));
            }
        }
        names.join(" or ")
    }
}
