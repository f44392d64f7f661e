//! What is fast, shared by replicas, and may be lost.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Section, url_from_file};
use crate::{EngineUrl, Faults};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hot {
    pub url: EngineUrl,
    pub url_file: Option<PathBuf>,
}

impl Hot {
    pub fn is_embedded(&self) -> bool {
        self.url.scheme() == "memory"
    }
}

impl Section for Hot {
    const KEY: &'static str = "hot";

    fn complete(&mut self, _: &Path, faults: &mut Faults) {
        url_from_file("hot.url_file", self.url_file.as_deref(), &mut self.url, faults);
    }

    fn validate(&self, faults: &mut Faults) {
        super::check_engine_url(
            "hot.url",
            &self.url,
            &["memory"],
            &["redis", "rediss"],
            "\"memory:\" or \"redis://host:6379/0\"",
            faults,
        );
    }
}
