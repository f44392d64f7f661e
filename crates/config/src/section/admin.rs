//! Health and figures of a service that runs alone.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Section;
use crate::address;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    #[serde(with = "address")]
    pub listen: SocketAddr,
}

impl Section for Admin {
    const KEY: &'static str = "admin";
}
