//! Who asks.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Serialize};

use crate::{AgentId, Error, Result, TenantId};

/// The roles that exist without configuration.
pub mod roles {
    /// May do everything within its tenant.
    pub const ADMIN: &str = "admin";
    /// May act for itself: what an agent needs for its work.
    pub const AGENT: &str = "agent";
    /// May look, and change nothing.
    pub const OBSERVER: &str = "observer";
    /// Carried by the hall's own services alone. No token, key or issuer may grant it: `guard` refuses to.
    pub const HALL: &str = "hall";
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    Agent,
    Person,
    Service,
}

impl PrincipalKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Person => "person",
            Self::Service => "service",
        }
    }
}

impl std::str::FromStr for PrincipalKind {
    type Err = Error;
    fn from_str(kind: &str) -> Result<Self> {
        match kind {
            "agent" => Ok(Self::Agent),
            "person" => Ok(Self::Person),
            "service" => Ok(Self::Service),
            _ => Err(Error::invalid("a principal is an agent, a person or a service")),
        }
    }
}

/// Whoever makes a call, as the hall has established it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Principal {
    pub tenant: TenantId,
    pub kind: PrincipalKind,
    /// An agent's id, a person's or a service's name. Empty for a caller of an open hall that did not say who it is.
    pub id: Arc<str>,
    pub roles: Arc<BTreeSet<String>>,
    /// The toolsets its token is narrowed to; `None`: all that its roles allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toolsets: Option<Arc<BTreeSet<String>>>,
}

impl Principal {
    pub fn new<R: Into<String>>(
        tenant: TenantId,
        kind: PrincipalKind,
        id: impl Into<Arc<str>>,
        roles: impl IntoIterator<Item = R>,
    ) -> Self {
        let roles = roles.into_iter().map(Into::into).collect();
        Self { tenant, kind, id: id.into(), roles: Arc::new(roles), toolsets: None }
    }

    /// The hall itself, for work that no caller asked for.
    pub fn hall(tenant: TenantId, service: &'static str) -> Self {
        /// Made once: nearly every call of a service makes one of another in the hall's name.
        static ROLES: LazyLock<Arc<BTreeSet<String>>> =
            LazyLock::new(|| Arc::new([roles::ADMIN, roles::HALL].map(str::to_owned).into()));
        Self { tenant, kind: PrincipalKind::Service, id: service.into(), roles: ROLES.clone(), toolsets: None }
    }

    /// Whether this is one of the hall's own services.
    pub fn is_hall(&self) -> bool {
        self.kind == PrincipalKind::Service && self.has_role(roles::HALL)
    }

    pub fn has_role(&self, role: &str) -> bool {
        self.roles.contains(role)
    }

    pub fn is_admin(&self) -> bool {
        self.has_role(roles::ADMIN)
    }

    /// The agent that this principal is, if it is one. Under the hall's own name nobody is.
    pub fn agent(&self) -> Option<AgentId> {
        self.named_agent().filter(|agent| agent.check_free().is_ok())
    }

    fn named_agent(&self) -> Option<AgentId> {
        (self.kind == PrincipalKind::Agent).then(|| AgentId::new(&self.id).ok()).flatten()
    }

    /// The agent that speaks; an error that says how to name one when the caller is none.
    pub fn require_agent(&self) -> Result<AgentId> {
        let agent = self.named_agent().ok_or_else(|| {
            Error::invalid(
                "this call needs to know which agent makes it: use an agent's token, or in an open hall \
                 add ?agent=<agent_id> to the address or send the header X-Agent-Id",
            )
        })?;
        agent.check_free()?;
        Ok(agent)
    }
}
