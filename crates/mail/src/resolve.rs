//! Whom a recipient means: looked up when a message is sent, and not again.

use std::sync::Arc;

use guildhall_domain::{
    Agent, AgentId, AgentQuery, Call, Error, Result,
    agent::PAGE_MAX,
    mail::{Mailbox, Recipient},
    ports::mail_store::Addressees,
};
use guildhall_guard::{Operation, Target};

use crate::desk::Desk;

impl Desk {
    /// `NotFound` when nobody is meant: a message for nobody is a mistake of its sender.
    pub(crate) async fn resolve(&self, call: &Call, sender: &AgentId, to: &Recipient) -> Result<Addressees> {
        match to {
            Recipient::Agent(agent) => {
                self.was_here(call, agent).await?;
                Ok(Addressees::One(Mailbox::Agent(agent.clone())))
            }
            Recipient::Pool(pool) => {
                self.pool_has_members(call, pool).await?;
                Ok(Addressees::One(Mailbox::Pool(pool.clone())))
            }
            Recipient::Everyone => {
                let everyone = self.others(call, sender, AgentQuery::default()).await?;
                some(everyone, || "there is no other agent in this hall".to_owned())
            }
            Recipient::Role(role) => {
                let query = AgentQuery { role: Some(role.clone()), ..AgentQuery::default() };
                some(self.others(call, sender, query).await?, || format!("nobody else has the role {role}"))
            }
            Recipient::Capability(capability) => {
                let query = AgentQuery { capability: Some(capability.clone()), ..AgentQuery::default() };
                some(self.others(call, sender, query).await?, || format!("nobody else has the capability {capability}"))
            }
            Recipient::Topic(topic) => {
                let target = Target::Agent(sender);
                self.policy.authorize_on_topic(&call.principal, Operation::SendMail, target, topic)?;
                let subscribers = self.topics.subscribers(&call.principal.tenant, topic).await?;
                let agents = subscribers.into_iter().map(|subscriber| subscriber.agent_id).collect();
                some(agents, || format!("the topic {topic} has no durable subscribers"))
            }
        }
    }

    /// Who was here once is not looked up again: the mailbox of an agent that has left is closed, and the transaction
    /// that would deliver to it says so.
    async fn was_here(&self, call: &Call, agent: &AgentId) -> Result<()> {
        let key = (call.principal.tenant.clone(), agent.clone());
        if self.once_here.get(&key).is_none() {
            self.agent(call, agent).await?;
            self.once_here.insert(key, ());
        }
        Ok(())
    }

    /// Everyone whom the query finds, but the sender.
    async fn others(&self, call: &Call, sender: &AgentId, query: AgentQuery) -> Result<Vec<AgentId>> {
        let mut others = Vec::new();
        self.each_page(call, query, |page| {
            others.extend(page.iter().map(|agent| &agent.agent_id).filter(|id| *id != sender).cloned());
            true
        })
        .await?;
        Ok(others)
    }

    /// Mail for a pool without members would wait for nobody. One member is remembered, so that this costs a look at
    /// one agent and not at all of them.
    async fn pool_has_members(&self, call: &Call, pool: &str) -> Result<()> {
        let is_member = |agent: &Agent| agent.pool.as_deref() == Some(pool);
        let key = (call.principal.tenant.clone(), pool.to_owned());
        if let Some(member) = self.pool_members.get(&key)
            && self.known(call, &member).await?.is_some_and(|agent| is_member(&agent))
        {
            return Ok(());
        }
        let mut member = None;
        self.each_page(call, AgentQuery::default(), |page| {
            member = page.iter().find(|agent| is_member(agent)).map(|agent| agent.agent_id.clone());
            member.is_none()
        })
        .await?;
        let Some(member) = member else {
            return Err(Error::not_found(format!(
                "nobody is in the pool {pool}: an agent joins one by registering with it"
            )));
        };
        self.pool_members.insert(key, member);
        Ok(())
    }

    /// Shows every page of those whom the query finds, until `show` has seen enough and says false.
    pub(crate) async fn each_page(
        &self,
        call: &Call,
        query: AgentQuery,
        mut show: impl FnMut(&[Arc<Agent>]) -> bool + Send,
    ) -> Result<()> {
        let call = self.as_hall(call);
        let mut query = AgentQuery { limit: PAGE_MAX, ..query };
        loop {
            let page = self.registry.list(&call, query.clone()).await?;
            if !show(&page.agents) || page.next.is_none() {
                return Ok(());
            }
            query.after = page.next;
        }
    }
}

fn some(agents: Vec<AgentId>, nobody: impl FnOnce() -> String) -> Result<Addressees> {
    if agents.is_empty() {
        return Err(Error::not_found(format!("{}: nothing was sent; list_agents shows who is here", nobody())));
    }
    Ok(Addressees::Many(agents))
}
