//! What the services of one hall know each other by.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::{
    Faults,
    secret::{self, Secret},
};

/// As strong as 128 random bits in hexadecimal.
const SECRET_MIN_CHARACTERS: usize = 32;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    #[serde(serialize_with = "secret::serialize")]
    pub secret: Option<Secret>,
    pub secret_file: Option<PathBuf>,
}

impl Section for Cluster {
    const KEY: &'static str = "cluster";

    fn complete(&mut self, _: &Path, faults: &mut Faults) {
        if let Some(text) = secret::from_file("cluster.secret_file", self.secret_file.as_deref(), faults) {
            self.secret = Some(text.into());
        }
    }

    fn validate(&self, faults: &mut Faults) {
        // The mask of a print is a fault of its own, found where it matters: when something is to run.
        let Some(secret) = self.secret.as_ref().filter(|secret| !secret::is_mask(secret)) else { return };
        faults.expect(
            secret.expose_secret().chars().count() >= SECRET_MIN_CHARACTERS,
            "cluster.secret",
            "is too short to be safe",
            "use 32 characters at least, for example from `openssl rand -hex 32`",
        );
    }
}
