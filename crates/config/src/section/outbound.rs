//! Which private networks the hall may call when a user gives an address.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Section;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    pub allow: Vec<IpNet>,
}

impl Section for Outbound {
    const KEY: &'static str = "outbound";
}
