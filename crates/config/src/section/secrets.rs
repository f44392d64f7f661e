//! The keys that seal what the database must not show in clear.

use std::path::{Path, PathBuf};

use guildhall_guard::KeyRing;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::{
    Faults,
    secret::{self, Secret},
};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// The first one seals, all of them open.
    #[serde(default, serialize_with = "secret::serialize_list", skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Secret>,
    pub keys_file: Option<PathBuf>,
}

impl Section for Secrets {
    const KEY: &'static str = "secrets";

    fn complete(&mut self, _: &Path, faults: &mut Faults) {
        if let Some(text) = secret::from_file("secrets.keys_file", self.keys_file.as_deref(), faults) {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            self.keys = lines.map(Secret::from).collect();
        }
    }

    fn validate(&self, faults: &mut Faults) {
        // The mask of a print is a fault of its own, found where it matters: when something is to run.
        if self.keys.is_empty() || self.keys.iter().any(secret::is_mask) {
            return;
        }
        if let Err(error) = KeyRing::parse(&self.keys) {
            faults.add_message("secrets.keys", &error.message, "make a key with `openssl rand -base64 32`");
        }
    }
}
