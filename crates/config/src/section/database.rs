//! Where the hall's truth is kept.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Section, url_from_file};
use crate::{EngineUrl, Faults};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    pub url: EngineUrl,
    pub url_file: Option<PathBuf>,
    pub max_connections: u32,
    pub migrate_at_start: bool,
}

impl Database {
    pub fn is_embedded(&self) -> bool {
        self.url.scheme() == "sqlite"
    }
}

impl Section for Database {
    const KEY: &'static str = "database";

    fn complete(&mut self, data_dir: &Path, faults: &mut Faults) {
        url_from_file("database.url_file", self.url_file.as_deref(), &mut self.url, faults);
        if self.is_embedded() && self.url.path().is_empty() {
            self.url = EngineUrl::new(format!("sqlite:{}", data_dir.join("guildhall.db").display()));
        }
    }

    fn validate(&self, faults: &mut Faults) {
        super::check_engine_url(
            "database.url",
            &self.url,
            &["sqlite"],
            &["postgres", "postgresql"],
            "\"sqlite:\" or \"postgres://user:password@host/database\"",
            faults,
        );
        faults.expect(
            (4..=1_000).contains(&self.max_connections),
            "database.max_connections",
            "is not between 4 and 1000",
            "16 serve most halls",
        );
    }
}
