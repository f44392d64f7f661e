//! Resources of the hall: `agents://{agentId}/status` and `agents://{agentId}/inbox`.

use guildhall_domain::{
    AgentId, AgentQuery, Call, Error, Principal, Result,
    agent::PAGE_MAX,
    mail::{Message, delivery::Unread},
};
use guildhall_guard::Operation;
use rmcp::model::{ArgumentInfo, CompletionInfo, Resource, ResourceContents, ResourceTemplate};
use serde::Serialize;
use serde_json::json;

use crate::{hall::Hall, rest::authorize, tools::WHOSE_WORDS};

const STATUS_TEMPLATE: &str = "agents://{agentId}/status";
const INBOX_TEMPLATE: &str = "agents://{agentId}/inbox";
const JSON_TYPE: &str = "application/json";
/// Agents on one page of `resources/list`.
const PAGE: usize = 100;
/// Waiting messages that an inbox shows, the next ones first.
const SHOWN: usize = 20;

/// A resource's address, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    AgentStatus(AgentId),
    AgentInbox(AgentId),
}

impl Address {
    pub(crate) fn parse(uri: &str) -> Result<Self> {
        let understood = || {
            let (id, what) = uri.strip_prefix("agents://")?.split_once('/')?;
            let agent = AgentId::new(id).ok()?;
            match what {
                "status" => Some(Self::AgentStatus(agent)),
                "inbox" => Some(Self::AgentInbox(agent)),
                _ => None,
            }
        };
        understood().ok_or_else(|| {
            Error::not_found("there is no such resource; resources/templates/list shows what addresses look like")
        })
    }

    /// Whether this caller may know of its changes. Whether it may read it, the port behind it judges.
    pub(crate) fn may_watch(&self, hall: &Hall, caller: &Principal) -> Result<()> {
        match self {
            Self::AgentStatus(agent) => authorize(&hall.policy, caller, Operation::GetAgent, Some(agent), None),
            Self::AgentInbox(agent) => authorize(&hall.policy, caller, Operation::ReadMail, Some(agent), None),
        }
    }
}

pub(crate) fn templates() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new(STATUS_TEMPLATE, "agent-status")
            .with_title("Status of an agent")
            .with_description(
                "Whether the agent is active, busy, idle or offline. Changes are notified to subscribers.",
            )
            .with_mime_type(JSON_TYPE),
        ResourceTemplate::new(INBOX_TEMPLATE, "agent-inbox")
            .with_title("Inbox of an agent")
            .with_description(
                "What waits for you: how many messages, and the next ones. Reading it takes nothing; check_inbox does. \
                 Arrivals are notified to subscribers.",
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
    let own = call.principal.agent();
    let mut resources = Vec::with_capacity(page.agents.len() + 1);
    for agent in &*page.agents {
        let id = &agent.agent_id;
        if own.as_ref() == Some(id) {
            let inbox = Resource::new(format!("agents://{id}/inbox"), format!("{id}-inbox")).with_title("Your inbox");
            resources.push(inbox.with_mime_type(JSON_TYPE));
        }
        let status = Resource::new(format!("agents://{id}/status"), format!("{id}-status"));
        resources.push(status.with_title(format!("Status of {}", agent.name)).with_mime_type(JSON_TYPE));
    }
    Ok((resources, page.next.map(String::from)))
}

pub(crate) async fn read(hall: &Hall, call: &Call, uri: &str) -> Result<ResourceContents> {
    let text = match Address::parse(uri)? {
        Address::AgentStatus(id) => status(hall, call, &id).await?,
        Address::AgentInbox(id) => inbox(hall, call, &id).await?,
    };
    Ok(ResourceContents::text(text, uri).with_mime_type(JSON_TYPE))
}

async fn status(hall: &Hall, call: &Call, id: &AgentId) -> Result<String> {
    let agent = hall.registry.get(call, id).await?;
    let status = json!({
        "agent_id": agent.agent_id,
        "name": agent.name,
        "status": agent.status,
        "last_heartbeat": agent.last_heartbeat,
        "paused": agent.paused,
    });
    Ok(status.to_string())
}

#[derive(Serialize)]
struct Inbox<'a> {
    agent_id: &'a AgentId,
    waiting: u64,
    critical: u64,
    /// The next ones, in the order they will be handed out.
    messages: Vec<Message>,
    note: &'static str,
}

async fn inbox(hall: &Hall, call: &Call, id: &AgentId) -> Result<String> {
    let messages = hall.mail.peek(call, id, SHOWN).await?;
    let unread = hall.mail.unread(call, vec![id.clone()]).await?.into_iter().next().unwrap_or_default();
    let Unread { waiting, critical } = unread;
    let inbox = Inbox { agent_id: id, waiting, critical, messages, note: WHOSE_WORDS };
    serde_json::to_string(&inbox).map_err(|_| Error::internal("the inbox cannot be written as JSON; report it"))
}

/// Values for a template's variable, as far as one has been typed.
pub(crate) async fn complete(
    hall: &Hall,
    call: &Call,
    template: &str,
    argument: &ArgumentInfo,
) -> Result<CompletionInfo> {
    if ![STATUS_TEMPLATE, INBOX_TEMPLATE].contains(&template) || argument.name != "agentId" {
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
        assert_eq!(Address::parse("agents://worker-1/status").unwrap(), Address::AgentStatus(agent.clone()));
        assert_eq!(Address::parse("agents://worker-1/inbox").unwrap(), Address::AgentInbox(agent));
        for bad in
            ["", "agents://", "agents:///status", "agents://a/b/status", "agents://a/status/", "agents://%61/status"]
        {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
