//! What is wrong with a configuration: every fault, each with its key and what to do.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key as it stands in the file, `gateway.listen`; for a file that cannot be read, its path.
    pub key: String,
    pub problem: String,
    pub fix: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.problem, self.fix)
    }
}

/// All that is wrong, in the order in which it was found. Shown a line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub fn add(&mut self, key: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Fault { key: key.into(), problem: problem.into(), fix: fix.into() });
    }

    /// Adds a fault that `message` describes: the problem, then after a semicolon the fix, if it says one.
    pub(crate) fn add_message(&mut self, key: impl Into<String>, message: &str, fix: &str) {
        let (problem, fix) = message.split_once("; ").unwrap_or((message, fix));
        self.add(key, problem, fix);
    }

    /// Adds a fault unless `holds`.
    pub fn expect(&mut self, holds: bool, key: &str, problem: &str, fix: &str) {
        if !holds {
            self.add(key, problem, fix);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
