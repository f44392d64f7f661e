//! The keys that seal what the database must not show in clear.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::{
    Faults,
    secret::{self, Secret},
};

/// 32 bytes in base64.
const KEY_CHARACTERS: usize = 44;

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
        let ill_formed = self.keys.iter().filter(|key| !secret::is_mask(key) && !is_sealing_key(key.expose_secret()));
        for _ in ill_formed {
            faults.add(
                "secrets.keys",
                "holds something else than a key",
                "write \"<name>:<key>\", the key from `openssl rand -base64 32`",
            );
        }
    }
}

/// By its form alone; the ring that is made of the keys judges the rest.
fn is_sealing_key(text: &str) -> bool {
    text.split_once(':').is_some_and(|(name, key)| {
        !name.is_empty() && key.len() == KEY_CHARACTERS && key.ends_with('=') && !key.contains(char::is_whitespace)
    })
}
