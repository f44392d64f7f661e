//! Which private networks the hall may call when a user gives an address.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::Section;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    #[serde(deserialize_with = "networks")]
    pub allow: Vec<IpNet>,
}

fn networks<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: &String| {
        text.parse().map_err(|_| D::Error::custom(format!("{text:?} is not a network; write it like \"10.1.0.0/16\"")))
    };
    Vec::<String>::deserialize(d)?.iter().map(network).collect()
}

impl Section for Outbound {
    const KEY: &'static str = "outbound";
}
