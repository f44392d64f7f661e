//! What carries hints and events.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Section, url_from_file};
use crate::{EngineUrl, Faults};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bus {
    pub url: EngineUrl,
    pub url_file: Option<PathBuf>,
    /// The operator's word that NATS answers only once it is on disk.
    pub nats_syncs_always: bool,
}

impl Bus {
    pub fn is_embedded(&self) -> bool {
        self.url.scheme() == "embedded"
    }

    /// Where the embedded log is kept.
    pub fn folder(&self) -> &Path {
        Path::new(self.url.path())
    }
}

impl Section for Bus {
    const KEY: &'static str = "bus";

    fn complete(&mut self, data_dir: &Path, faults: &mut Faults) {
        url_from_file("bus.url_file", self.url_file.as_deref(), &mut self.url, faults);
        if self.is_embedded() && self.url.path().is_empty() {
            self.url = EngineUrl::new(format!("embedded:{}", data_dir.display()));
        }
    }

    fn validate(&self, faults: &mut Faults) {
        super::check_engine_url(
            "bus.url",
            &self.url,
            &["embedded"],
            &["nats", "tls"],
            "\"embedded:\" or \"nats://host:4222\"",
            faults,
        );
    }
}
