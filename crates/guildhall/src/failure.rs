//! Why a command did not do what it was asked: said on standard error, exit code 1.

use guildhall_config::Faults;
use guildhall_domain::Error;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure(Option<String>);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(Some(message.into()))
    }

    /// What failed has been shown already, as a part of the answer.
    pub(crate) const fn shown() -> Self {
        Self(None)
    }

    pub(crate) fn message(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    pub(crate) fn show(&self) {
        if let Some(message) = &self.0 {
            eprintln!("error: {message}");
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let guidance = error.guidance.map(|guidance| format!(" ({guidance})")).unwrap_or_default();
        Self::new(format!("{}{guidance}", error.message))
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        let count = match faults.len() {
            1 => "a fault".to_owned(),
            more => format!("{more} faults"),
        };
        let lines: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
        Self::new(format!("the configuration has {count}:{lines}"))
    }
}
