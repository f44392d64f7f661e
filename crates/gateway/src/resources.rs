//! Resources of the hall: `agents://{agentId}/status`.

use guildhall_domain::{AgentId, AgentQuery, Call, Error, Result};
use rmcp::model::{Resource, ResourceContents, ResourceTemplate};
use serde_json::json;

use crate::hall::{AgentChanged, Hall};

const JSON_TYPE: &str = "application/json";
/// Agents on one page of `resources/list`.
const PAGE: usize = 100;

/// A resource's address, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    AgentStatus(AgentId),
}

impl Address {
    pub(crate) fn parse(uri: &str) -> Result<Self> {
        uri.strip_prefix("agents://")
            .and_then(|rest| rest.strip_suffix("/status"))
            .and_then(|id| AgentId::new(id).ok())
            .map(Self::AgentStatus)
            .ok_or_else(|| {
                Error::not_found("there is no such resource; resources/templates/list shows what addresses look like")
            })
    }

    pub(crate) fn is_about(&self, changed: &AgentChanged) -> bool {
        match self {
            Self::AgentStatus(agent) => *agent == changed.agent_id,
        }
    }
}

fn status_uri(agent: &AgentId) -> String {
    format!("agents://{agent}/status")
}

pub(crate) fn templates() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new("agents://{agentId}/status", "agent-status")
            .with_title("Status of an agent")
            .with_description(
                "Whether the agent is active, busy, idle or offline. Changes are notified to subscribers.",
            )
            .with_mime_type(JSON_TYPE),
    ]
}

/// One page of what there is, and where the next begins.
pub(crate) async fn list(hall: &Hall, call: &Call, cursor: Option<String>) -> Result<(Vec<Resource>, Option<String>)> {
    let after = cursor
        .map(AgentId::new)
        .transpose()
        .map_err(|_| Error::invalid("the cursor is not one that this list gave; begin without one"))?;
    let page = hall.registry.list(call, AgentQuery { limit: PAGE, after, ..AgentQuery::default() }).await?;
    let resources = page
        .agents
        .iter()
        .map(|agent| {
            Resource::new(status_uri(&agent.agent_id), format!("{}-status", agent.agent_id))
                .with_title(format!("Status of {}", agent.name))
                .with_mime_type(JSON_TYPE)
        })
        .collect();
    Ok((resources, page.next.map(String::from)))
}

pub(crate) async fn read(hall: &Hall, call: &Call, uri: &str) -> Result<ResourceContents> {
    let Address::AgentStatus(id) = Address::parse(uri)?;
    let agent = hall.registry.get(call, &id).await?;
    let status = json!({
        "agent_id": agent.agent_id,
        "name": agent.name,
        "status": agent.status,
        "last_heartbeat": agent.last_heartbeat,
        "paused": agent.paused,
    });
    Ok(ResourceContents::text(status.to_string(), uri).with_mime_type(JSON_TYPE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_well_formed_addresses_are_understood() {
        let agent = AgentId::new("worker-1").unwrap();
        assert_eq!(Address::parse("agents://worker-1/status").unwrap(), Address::AgentStatus(agent));
        for bad in
            ["", "agents://", "agents:///status", "agents://a/b/status", "agents://a/status/", "agents://%61/status"]
        {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
