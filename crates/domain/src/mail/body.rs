//! What a message says: any JSON, kept letter for letter.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Error, ErrorCode, Result};

/// A message's body, as JSON text.
pub const BODY_MAX_BYTES: usize = 768 * 1024;

/// JSON as its writer spelled it: no field, digit or order is lost on the way. Cheap to clone.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Body(Arc<RawValue>);

impl Body {
    /// Fails when the text is not one JSON value.
    pub fn from_text(text: impl Into<String>) -> Result<Self> {
        RawValue::from_string(text.into())
            .map(|raw| Self(raw.into()))
            .map_err(|error| Error::invalid(format!("the message is not JSON: {error}")))
    }

    pub fn from_value(value: &impl Serialize) -> Result<Self> {
        serde_json::value::to_raw_value(value)
            .map(|raw| Self(raw.into()))
            .map_err(|error| Error::internal(format!("a value cannot be written as JSON: {error}")))
    }

    pub fn as_text(&self) -> &str {
        self.0.get()
    }

    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_str(self.as_text())
            .map_err(|error| Error::invalid(format!("the message does not fit: {error}")))
    }

    pub fn check(&self) -> Result<()> {
        let bytes = self.as_text().len();
        if bytes > BODY_MAX_BYTES {
            return Err(Error::new(
                ErrorCode::PayloadTooLarge,
                format!(
                    "the message is {bytes} bytes of JSON; at most {BODY_MAX_BYTES} are taken: send a reference to what is large"
                ),
            ));
        }
        Ok(())
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.as_text() == other.as_text()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of JSON", self.as_text().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_handed_on_letter_for_letter() {
        let text = r#"{"b":1.0,  "a":[1e3, 12345678901234567890123]}"#;
        let body: Body = serde_json::from_str(text).unwrap();
        assert_eq!(body.as_text(), text);
        assert_eq!(serde_json::to_string(&body).unwrap(), text);
    }

    #[test]
    fn half_a_value_is_refused() {
        assert!(Body::from_text("{\"a\":").is_err());
        assert!(Body::from_text("1 2").is_err());
    }
}
