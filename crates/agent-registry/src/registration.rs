//! Registering: by whose right, with which roles, and the token that answers it.

use std::{collections::BTreeSet, sync::Arc};

use guildhall_domain::{
    AgentChange, AgentId, AuditEntry, Call, Error, ErrorCode, NewAgent, PrincipalKind, RegistrationKey, Result,
    TenantId, TokenRequest,
    agent::{Delivery, subject},
    audit::Outcome,
    ports::{
        agent_registry::{Registration, RegistrationRight},
        agent_store::{IfPresent, StoredAgent},
    },
};
use guildhall_guard::{ExposeSecret, Operation, Secret, Target, webhook};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{keys, presence::Said, service::Registry};

const ACT: &str = "agent.register";

/// What a right allows, once it has been judged.
struct Grant {
    tenant: TenantId,
    actor_kind: PrincipalKind,
    actor: String,
    /// `None` keeps what the record has.
    roles: Option<BTreeSet<String>>,
    if_present: IfPresent,
    /// The token has no more than these, whatever the record has: nobody but an administrator is given roles that
    /// its own token was issued without.
    token_roles_within: Option<Arc<BTreeSet<String>>>,
    token_toolsets: Option<BTreeSet<String>>,
}

impl Registry {
    pub(crate) async fn register_agent(
        &self,
        call: &Call,
        new: NewAgent,
        right: RegistrationRight,
    ) -> Result<Registration> {
        new.check()?;
        if let Some(url) = &new.webhook_url {
            guildhall_outbound::check_url(url)
                .map_err(|error| Error::invalid(format!("webhook_url: {}", error.message)))?;
        }
        let agent_id = new.agent_id.clone();
        let registered = self.register_by(call, new, right).await;
        if let Err(error) = &registered
            && matches!(error.code, ErrorCode::PermissionDenied | ErrorCode::AuthenticationError)
        {
            let body = json!({ "error": error.code, "message": error.message });
            let entry = AuditEntry::done(&call.principal, self.clock.now(), ACT, target(&agent_id), body);
            self.refusals.record(AuditEntry { outcome: Outcome::Refused, ..entry });
        }
        registered
    }

    async fn register_by(&self, call: &Call, mut new: NewAgent, right: RegistrationRight) -> Result<Registration> {
        let grant = match right {
            RegistrationRight::Caller => self.grant_of_caller(call, &new).await?,
            RegistrationRight::Key(key) => self.grant_of_key(&new, &key).await?,
        };
        self.can_be_brought_mail(&grant.tenant, &new).await?;
        // Before any effect: an agent without a token could not come back.
        let access = self.access.fresh().await?;

        new.roles = grant.roles;
        let now = self.clock.now();
        let audit = AuditEntry {
            tenant: grant.tenant.clone(),
            at: now,
            actor_kind: grant.actor_kind,
            actor: grant.actor,
            act: ACT.to_owned(),
            target: target(&new.agent_id),
            outcome: Outcome::Done,
            body: json!({
                "name": new.name, "capabilities": new.capabilities, "roles": new.roles, "pool": new.pool,
                "delivery": new.delivery,
                // Its hash: the address may hold a secret, and whoever has it can prove that this was it.
                "webhook_url_sha256": new.webhook_url.as_ref().map(|url| hex::encode(Sha256::digest(url))),
            }),
        };
        let StoredAgent { agent, created } =
            self.agents.register(&grant.tenant, &new, grant.if_present, now, audit).await?;

        let request = TokenRequest {
            tenant: agent.tenant.clone(),
            kind: PrincipalKind::Agent,
            id: agent.agent_id.to_string(),
            roles: match &grant.token_roles_within {
                Some(within) => agent.roles.intersection(within).cloned().collect(),
                None => agent.roles.clone(),
            },
            toolsets: grant.token_toolsets,
            ttl: None,
        };
        let token = self.access.mint(&access, &request, agent.token_epoch)?;

        self.roster.committed(AgentChange::Present(agent.clone())).await;
        self.is_here(&agent.tenant, &agent.agent_id).await;
        let agent = self.roster.known(&agent.tenant, &agent.agent_id).unwrap_or_else(|| Arc::new(agent));
        let subject = if created { subject::JOINED } else { subject::CHANGED };
        self.announcer.record(call, subject, &agent);
        let by_webhook = agent.delivery == Delivery::Webhook;
        let webhook_secret = by_webhook.then(|| webhook::secret(&self.key_ring, &agent));
        Ok(Registration { agent, token, created, webhook_secret })
    }

    /// Who wants its mail by webhook has said where, now or before.
    async fn can_be_brought_mail(&self, tenant: &TenantId, new: &NewAgent) -> Result<()> {
        if new.delivery != Some(Delivery::Webhook) || new.webhook_url.is_some() {
            return Ok(());
        }
        match self.roster.get(tenant, &new.agent_id).await? {
            Some(known) if known.webhook_url.is_some() => Ok(()),
            _ => Err(Error::invalid(
                "delivery webhook needs webhook_url, the http or https address that mail is brought to",
            )),
        }
    }

    async fn grant_of_caller(&self, call: &Call, new: &NewAgent) -> Result<Grant> {
        let by = &call.principal;
        self.policy.authorize(by, Operation::RegisterAgent, Target::Agent(&new.agent_id))?;
        let own = by.agent().is_some_and(|own| own == new.agent_id);
        let mut roles = new.roles.clone();
        if let Some(asked) = &roles {
            if !by.is_admin() {
                return Err(roles_are_granted());
            }
            self.policy.may_grant(by, asked)?;
        } else if own && !by.is_admin() {
            match self.roster.get(&by.tenant, &new.agent_id).await? {
                Some(known) => {
                    if let Some(reason) = &known.paused {
                        return Err(Error::denied(format!("an administrator paused this agent: {reason}")));
                    }
                }
                // Its token was issued before it came: it comes with the roles that were granted there. Those of an
                // administrator are not taken over, it has to ask for them: in an open hall everyone is one.
                None => roles = Some((*by.roles).clone()),
            }
        }
        Ok(Grant {
            tenant: by.tenant.clone(),
            actor_kind: by.kind,
            actor: by.id.to_string(),
            roles,
            if_present: IfPresent::Update,
            token_roles_within: (!by.is_admin()).then(|| by.roles.clone()),
            token_toolsets: by.toolsets.as_deref().filter(|_| own).cloned(),
        })
    }

    async fn grant_of_key(&self, new: &NewAgent, key: &Secret) -> Result<Grant> {
        let refused = |why| Err(Error::unauthenticated(format!("{why}: ask an administrator for a registration key")));
        let found = self.agents.registration_key(keys::hash(key.expose_secret())).await?;
        let key = match found {
            None => return refused("this registration key is not known here"),
            Some(key) if key.revoked => return refused("this registration key has been revoked"),
            Some(RegistrationKey { expires_at: Some(at), .. }) if at <= self.clock.now() => {
                return refused("this registration key has expired");
            }
            Some(key) => key,
        };
        if new.roles.is_some() {
            return Err(roles_are_granted());
        }
        if self.roster.known(&key.tenant, &new.agent_id).is_some() {
            return Err(belongs_to_someone(&new.agent_id));
        }
        Ok(Grant {
            tenant: key.tenant,
            actor_kind: PrincipalKind::Service,
            actor: format!("registration_key:{}", key.key_id),
            roles: Some(key.roles),
            if_present: IfPresent::Refuse,
            token_roles_within: None,
            token_toolsets: None,
        })
    }

    /// Registering counts as a sign of life, and whoever registers begins anew: not busy.
    async fn is_here(&self, tenant: &TenantId, agent: &AgentId) {
        let now = self.clock.now();
        let (signs, said) = ([(agent.clone(), now)], [(agent.clone(), Said::new(now, false))]);
        if let Some(known) = self.roster.known_tenant(tenant) {
            known.signs(signs.clone());
            known.say(said.clone());
        }
        self.marks.put_soon(tenant, &signs, &said).await;
    }
}

pub(crate) fn target(agent: &AgentId) -> String {
    format!("agent:{agent}")
}

fn roles_are_granted() -> Error {
    Error::denied(
        "roles are granted by keys and administrators: leave out roles, or ask an administrator to register this agent with them",
    )
}

fn belongs_to_someone(agent: &AgentId) -> Error {
    Error::denied(format!("the agent id {agent} is taken: if it is yours, register again with the agent's own token"))
}
