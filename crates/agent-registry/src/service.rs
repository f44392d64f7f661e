//! The core: every method of the port, in the same order of steps. May the caller do this? Is what it asks well
//! formed? Then the database, with the audit entry in the same transaction; then memory, the hot store and the bus,
//! none of which can fail the call any more.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use guildhall_domain::{
    AccessView, Agent, AgentChange, AgentId, AgentPage, AgentQuery, AuditEntry, AuditRecord, Call, Clock, Entropy,
    Error, IssuedToken, NewAgent, PrincipalKind, PublicKey, RegistrationKey, Result, TenantId, Timestamp, TokenRequest,
    access::Revocation,
    agent::{Delivery, Heartbeat, subject},
    audit::{AuditQuery, AuditVerdict},
    ports::{
        AgentRegistry, AgentStore, AuditStore,
        agent_registry::{Registration, RegistrationRight},
        agent_store::AgentEdit,
    },
};
use guildhall_guard::{
    KeyRing, Operation, Policy, Secret, Target,
    audit::{self, Recorder},
    webhook,
};
use serde_json::{Value, json};

use crate::{
    access::Access,
    announce::Announcer,
    presence::{Gauge, Said, marks::Marks},
    registration::target,
    roster::Roster,
};

/// Signs of life or audit entries in one call.
const BATCH_MAX: usize = 1_000;
const REASON_MAX_BYTES: usize = 512;
/// No token lives longer, so no revocation has to.
const REVOKED_FOR_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3_600);

pub struct Registry {
    pub(crate) agents: Arc<dyn AgentStore>,
    pub(crate) audit: Arc<dyn AuditStore>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) key_ring: Arc<KeyRing>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) marks: Arc<Marks>,
    pub(crate) access: Arc<Access>,
    pub(crate) announcer: Arc<Announcer>,
    /// Attempts to register that were refused: written behind the answer, so that they cost the hall little.
    pub(crate) refusals: Recorder,
}

#[async_trait]
impl AgentRegistry for Registry {
    async fn register(&self, call: &Call, new: NewAgent, right: RegistrationRight) -> Result<Registration> {
        self.register_agent(call, new, right).await
    }

    async fn list(&self, call: &Call, query: AgentQuery) -> Result<AgentPage> {
        self.allow_in_tenant(call, Operation::ListAgents)?;
        let page = self.roster.list(&call.principal.tenant, &query).await?;
        Ok(self.page_shown_to(call, page))
    }

    async fn get(&self, call: &Call, agent: &AgentId) -> Result<Arc<Agent>> {
        self.allow_for(call, Operation::GetAgent, agent)?;
        let found = self.roster.get(&call.principal.tenant, agent).await?.ok_or_else(|| no_such_agent(agent))?;
        Ok(self.shown_to(call, found))
    }

    async fn remove(&self, call: &Call, agent: &AgentId) -> Result<()> {
        self.allow_for(call, Operation::RemoveAgent, agent)?;
        let tenant = &call.principal.tenant;
        let audit = self.entry(call, "agent.remove", target(agent), json!({}));
        let Some(version) = self.agents.remove(tenant, agent, audit).await? else { return Err(no_such_agent(agent)) };
        let (tenant, agent_id) = (tenant.clone(), agent.clone());
        self.roster.committed(AgentChange::Gone { tenant: tenant.clone(), agent_id, version }).await;
        self.marks.forget(&tenant, agent).await;
        self.announcer.left(call, &tenant, agent, version);
        self.access.refresh_soon().await;
        Ok(())
    }

    async fn pause(&self, call: &Call, agent: &AgentId, reason: &str) -> Result<Arc<Agent>> {
        self.allow_for(call, Operation::PauseAgent, agent)?;
        if reason.is_empty() || reason.len() > REASON_MAX_BYTES || reason.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "say in 1 to {REASON_MAX_BYTES} bytes without control characters why the agent is paused: it is told"
            )));
        }
        let body = json!({ "reason": reason });
        let paused = self.edit(call, agent, "agent.pause", AgentEdit::Pause(reason.to_owned()), body).await?;
        self.access.refresh_soon().await;
        Ok(paused)
    }

    async fn resume(&self, call: &Call, agent: &AgentId) -> Result<Arc<Agent>> {
        self.allow_for(call, Operation::ResumeAgent, agent)?;
        let resumed = self.edit(call, agent, "agent.resume", AgentEdit::Resume, json!({})).await?;
        self.access.refresh_soon().await;
        Ok(resumed)
    }

    async fn set_key(&self, call: &Call, agent: &AgentId, key: PublicKey) -> Result<Arc<Agent>> {
        self.allow_for(call, Operation::SetAgentKey, agent)?;
        key.check()?;
        let body = json!({ "public_key": key });
        self.edit(call, agent, "agent.set_key", AgentEdit::Key(key), body).await
    }

    async fn webhook_secret(&self, call: &Call, agent: &AgentId) -> Result<Secret> {
        // Registering again tells it as well.
        self.allow_for(call, Operation::RegisterAgent, agent)?;
        let record = self.roster.get(&call.principal.tenant, agent).await?.ok_or_else(|| no_such_agent(agent))?;
        Ok(webhook::secret(&self.key_ring, &record))
    }

    async fn wanting(&self, call: &Call, delivery: Delivery) -> Result<Vec<Arc<Agent>>> {
        self.policy.authorize(&call.principal, Operation::BringMail, Target::Hall)?;
        self.roster.wanting(delivery).await
    }

    async fn heartbeats(&self, call: &Call, beats: Vec<Heartbeat>) -> Result<()> {
        self.allow_beats(call, &beats)?;
        at_most(BATCH_MAX, beats.len(), "signs of life")?;
        let now = self.gauge.now();
        let mut tenants: HashMap<TenantId, (Vec<_>, Vec<_>)> = HashMap::new();
        for Heartbeat { tenant, agent_id, at, busy } in beats {
            // A gateway's clock may be ahead; nobody was seen in the future, or before there were clocks.
            let at = at.clamp(Timestamp::default(), now);
            let (signs, said) = tenants.entry(tenant).or_default();
            said.extend(busy.map(|busy| (agent_id.clone(), Said::new(at, busy))));
            signs.push((agent_id, at));
        }
        for (tenant, (mut signs, mut said)) in tenants {
            let Some(roster) = self.roster.known_tenant(&tenant) else { continue };
            signs.retain(|(agent, _)| roster.knows(agent));
            said.retain(|(agent, _)| roster.knows(agent));
            roster.signs(signs.iter().cloned());
            roster.say(said.iter().cloned());
            self.marks.put_soon(&tenant, &signs, &said).await;
        }
        Ok(())
    }

    async fn access(&self, call: &Call, known: Option<u64>) -> Result<Option<AccessView>> {
        self.policy.authorize(&call.principal, Operation::ReadAccess, Target::Hall)?;
        self.access.newer_than(known).await
    }

    async fn issue_token(&self, call: &Call, request: TokenRequest) -> Result<IssuedToken> {
        let by = &call.principal;
        self.policy.authorize(by, Operation::IssueToken, Target::Tenant(&request.tenant))?;
        self.policy.may_grant(by, &request.roles)?;
        if let Some(own) = by.toolsets.as_deref()
            && request.toolsets.as_ref().is_none_or(|asked| !asked.is_subset(own))
        {
            return Err(Error::denied(
                "a token that is narrowed to toolsets issues only tokens narrowed to some of them",
            ));
        }
        // Of an agent that was removed, or is yet to come, the access view knows the epoch and the roster does not.
        let access = self.access.refresh().await?;
        let epoch = match request.kind {
            PrincipalKind::Agent => access.epoch(&request.tenant, &AgentId::new(&request.id)?),
            PrincipalKind::Person | PrincipalKind::Service => 0,
        };
        let issued = self.access.mint(&access, &request, epoch)?;
        let body = json!({
            "token_id": issued.token_id, "kind": request.kind, "roles": request.roles, "toolsets": request.toolsets,
            "expires_at": issued.expires_at,
        });
        let entry = self.entry(call, "token.issue", format!("{}:{}", request.kind.as_str(), request.id), body);
        // A token that is in no record is not given out.
        self.audit.record(vec![AuditEntry { tenant: request.tenant, ..entry }]).await?;
        Ok(issued)
    }

    async fn revoke(&self, call: &Call, what: Revocation) -> Result<()> {
        let by = &call.principal;
        let now = self.clock.now();
        let (what, entry) = match what {
            Revocation::Token { token_id, expires_at } => {
                self.allow_in_tenant(call, Operation::RevokeToken)?;
                if token_id.is_empty() || token_id.len() > 64 || !token_id.bytes().all(|b| b.is_ascii_alphanumeric()) {
                    return Err(Error::invalid("a token's id is the 26 letters and digits that came with the token"));
                }
                let entry = self.entry(call, "token.revoke", format!("token:{token_id}"), json!({}));
                let expires_at = expires_at.min(now + REVOKED_FOR_MAX);
                (Revocation::Token { token_id, expires_at }, entry)
            }
            Revocation::Agent { tenant, agent_id } => {
                let own = tenant == by.tenant && by.agent().is_some_and(|own| own == agent_id);
                if !own {
                    self.policy.authorize(by, Operation::RevokeToken, Target::Tenant(&tenant))?;
                }
                let entry = self.entry(call, "token.revoke", target(&agent_id), json!({ "tokens": "all" }));
                let entry = AuditEntry { tenant: tenant.clone(), ..entry };
                (Revocation::Agent { tenant, agent_id }, entry)
            }
        };
        self.agents.revoke(&what, now, entry).await?;
        self.access.refresh_soon().await;
        Ok(())
    }

    async fn rotate_signing_key(&self, call: &Call, overlap: Duration) -> Result<()> {
        self.policy.authorize(&call.principal, Operation::RotateSigningKey, Target::Hall)?;
        self.access.rotate(&call.principal, overlap).await
    }

    async fn create_registration_key(
        &self,
        call: &Call,
        roles: Vec<String>,
        ttl: Option<Duration>,
    ) -> Result<(RegistrationKey, Secret)> {
        self.allow_in_tenant(call, Operation::ManageRegistrationKeys)?;
        self.new_registration_key(call, roles, ttl).await
    }

    async fn registration_keys(&self, call: &Call) -> Result<Vec<RegistrationKey>> {
        self.allow_in_tenant(call, Operation::ManageRegistrationKeys)?;
        self.agents.registration_keys(&call.principal.tenant).await
    }

    async fn revoke_registration_key(&self, call: &Call, key_id: &str) -> Result<()> {
        self.allow_in_tenant(call, Operation::ManageRegistrationKeys)?;
        self.end_registration_key(call, key_id).await
    }

    async fn record_audit(&self, call: &Call, entries: Vec<AuditEntry>) -> Result<()> {
        self.policy.authorize(&call.principal, Operation::RecordAudit, Target::Hall)?;
        at_most(BATCH_MAX, entries.len(), "audit entries")?;
        if entries.is_empty() {
            return Ok(());
        }
        self.audit.record(entries).await
    }

    async fn audit(&self, call: &Call, query: AuditQuery) -> Result<Vec<AuditRecord>> {
        self.allow_in_tenant(call, Operation::ReadAudit)?;
        self.audit.query(&call.principal.tenant, &query).await
    }

    async fn verify_audit(&self, call: &Call) -> Result<AuditVerdict> {
        self.allow_in_tenant(call, Operation::VerifyAudit)?;
        audit::verify(&*self.audit, &call.principal.tenant).await
    }
}

impl Registry {
    fn allow_in_tenant(&self, call: &Call, operation: Operation) -> Result<()> {
        self.policy.authorize(&call.principal, operation, Target::Tenant(&call.principal.tenant))
    }

    fn allow_for(&self, call: &Call, operation: Operation, agent: &AgentId) -> Result<()> {
        self.policy.authorize(&call.principal, operation, Target::Agent(agent))
    }

    /// A gateway reports for everyone; anyone else gives signs of its own tenant, and of others there if it may.
    fn allow_beats(&self, call: &Call, beats: &[Heartbeat]) -> Result<()> {
        let by = &call.principal;
        let mut own_tenant = beats.iter().filter(|beat| beat.tenant == by.tenant).count() == beats.len();
        own_tenant &= !by.is_hall();
        if !own_tenant || beats.is_empty() {
            return self.policy.authorize(by, Operation::ReportHeartbeats, Target::Hall);
        }
        beats.iter().try_for_each(|beat| self.allow_for(call, Operation::Heartbeat, &beat.agent_id))
    }

    /// Whoever may change where an agent's mail is brought may see it, and nobody else: the address may hold a secret.
    fn shown_to(&self, call: &Call, agent: Arc<Agent>) -> Arc<Agent> {
        if agent.webhook_url.is_none() || self.allow_for(call, Operation::RegisterAgent, &agent.agent_id).is_ok() {
            return agent;
        }
        Arc::new(Agent { webhook_url: None, ..Arc::unwrap_or_clone(agent) })
    }

    /// Most pages are handed out as they are kept.
    fn page_shown_to(&self, call: &Call, page: AgentPage) -> AgentPage {
        let may_see_all = self.allow_in_tenant(call, Operation::RegisterAgent).is_ok();
        if may_see_all || page.agents.iter().all(|agent| agent.webhook_url.is_none()) {
            return page;
        }
        AgentPage { agents: page.agents.iter().map(|agent| self.shown_to(call, agent.clone())).collect(), ..page }
    }

    async fn edit(&self, call: &Call, agent: &AgentId, act: &str, edit: AgentEdit, body: Value) -> Result<Arc<Agent>> {
        let tenant = &call.principal.tenant;
        let audit = self.entry(call, act, target(agent), body);
        let Some(edited) = self.agents.edit(tenant, agent, edit, audit).await? else {
            return Err(no_such_agent(agent));
        };
        self.roster.committed(AgentChange::Present(edited.clone())).await;
        let shown = self.roster.known(tenant, agent).unwrap_or_else(|| Arc::new(edited));
        self.announcer.record(call, subject::CHANGED, &shown);
        Ok(self.shown_to(call, shown))
    }

    fn entry(&self, call: &Call, act: &str, target: String, body: Value) -> AuditEntry {
        AuditEntry::done(&call.principal, self.clock.now(), act, target, body)
    }
}

fn at_most(max: usize, given: usize, what: &str) -> Result<()> {
    if given <= max { Ok(()) } else { Err(Error::invalid(format!("{given} {what} in one call: send {max} at most"))) }
}

fn no_such_agent(agent: &AgentId) -> Error {
    Error::not_found(format!("there is no agent {agent}; list_agents names those who are here"))
}
