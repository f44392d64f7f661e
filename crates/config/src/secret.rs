//! Secrets of the configuration: given as they are or in a file of their own, shown as a mask.

use std::{fs, path::Path};

use secrecy::{ExposeSecret, SecretString};
use serde::{Serializer, ser::SerializeSeq};

use crate::Faults;

pub use secrecy::SecretString as Secret;

/// What a secret is shown as. A configuration that holds it as a value was copied from such a print.
pub(crate) const MASK: &str = "***";

pub(crate) fn serialize<S: Serializer>(secret: &Option<SecretString>, s: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(_) => s.serialize_some(MASK),
        None => s.serialize_none(),
    }
}

pub(crate) fn serialize_list<S: Serializer>(secrets: &[SecretString], s: S) -> Result<S::Ok, S::Error> {
    let mut list = s.serialize_seq(Some(secrets.len()))?;
    for _ in secrets {
        list.serialize_element(MASK)?;
    }
    list.end()
}

/// The text of the file that `key` names, without the line end that editors leave; `None` and a fault when there is none.
pub(crate) fn from_file(key: &str, file: Option<&Path>, faults: &mut Faults) -> Option<String> {
    let file = file?;
    let fix = "make it a file with the secret in it that this program may read";
    match fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => faults.add(key, format!("{} is empty", file.display()), fix),
        Ok(text) => return Some(text.trim_end_matches(['\n', '\r']).to_owned()),
        Err(error) => faults.add(key, format!("{} cannot be read ({error})", file.display()), fix),
    }
    None
}

pub(crate) fn is_mask(secret: &SecretString) -> bool {
    secret.expose_secret() == MASK
}
