//! Resources of the hall: `agents://{agentId}/status`.

use guildhall_domain::{AgentId, AgentQuery, Call, Error, Result, agent::PAGE_MAX};
use rmcp::model::{ArgumentInfo, CompletionInfo, Resource, ResourceContents, ResourceTemplate};
use serde_json::json;

use crate::hall::{AgentChanged, Hall};

const STATUS_TEMPLATE: &str = "agents://{agentId}/status";
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
        ResourceTemplate::new(STATUS_TEMPLATE, "agent-status")
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

/// Values for a template's variable, as far as one has been typed.
pub(crate) async fn complete(
    hall: &Hall,
    call: &Call,
    template: &str,
    argument: &ArgumentInfo,
) -> Result<CompletionInfo> {
    if template != STATUS_TEMPLATE || argument.name != "agentId" {
        return Err(Error::invalid("nothing is known of this template's variable; see resources/templates/list"));
    }
    // The list is in the order of ids, so all that begin with the prefix stand together, somewhere after it less its
    // last letter.
    let typed = argument.value.as_str();
    let mut after = typed.len().checked_sub(1).and_then(|end| AgentId::new(typed.get(..end)?).ok());
    let mut values: Vec<String> = Vec::new();
    loop {
        let page = hall.registry.list(call, AgentQuery { limit: PAGE_MAX, after, ..AgentQuery::default() }).await?;
        let mut ids = page.agents.iter().map(|agent| agent.agent_id.as_str());
        values.extend(ids.clone().filter(|id| id.starts_with(typed)).map(str::to_owned));
        let passed = ids.next_back().is_none_or(|last| last > typed && !last.starts_with(typed));
        if passed || values.len() > CompletionInfo::MAX_VALUES || page.next.is_none() {
            break;
        }
        after = page.next;
    }
    let more = values.len() > CompletionInfo::MAX_VALUES;
    values.truncate(CompletionInfo::MAX_VALUES);
    CompletionInfo::with_pagination(values, None, more).map_err(Error::internal)
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
