//! Logs and traces.

use serde::{Deserialize, Serialize};
use url::Url;

use super::Section;
use crate::Faults;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    pub log_format: LogFormat,
    pub log_filter: String,
    pub otlp_endpoint: Option<String>,
}

impl Section for Telemetry {
    const KEY: &'static str = "telemetry";

    fn validate(&self, faults: &mut Faults) {
        let endpoint_is_http = self
            .otlp_endpoint
            .as_deref()
            .is_none_or(|endpoint| Url::parse(endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https")));
        faults.expect(
            endpoint_is_http,
            "telemetry.otlp_endpoint",
            "is not an address of a collector",
            "write it like \"http://127.0.0.1:4317\"",
        );
    }
}
