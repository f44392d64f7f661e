//! The port of agents over either engine. Each write is: take the turn, look, change, record, all in one transaction.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use guildhall_domain::{
    Agent, AgentChange, AgentId, AuditEntry, Error, NewAgent, RegistrationKey, Result, TenantId, Timestamp,
    access::Revocation,
    ports::{
        AgentStore,
        agent_store::{AccessRows, AgentEdit, IfPresent, SealedSigningKey, StoredAgent},
    },
};
use sqlx::Database;

use crate::{
    access::AccessTables,
    agents::{AgentTable, edited, registered},
    audit::AuditTables,
    chain::ChainTables,
    engine::{Sql, in_time},
    failure::Failure,
    mail::{MailTables, tenancy::TenancyTables},
    many::Many,
    row::{AgentRow, RegistrationKeyRow, SigningKeyRow, count},
    topics::TopicTables,
};

/// All tables, through one connection.
pub(crate) trait Tables:
    AgentTable + AccessTables + AuditTables + ChainTables + MailTables + TopicTables + Many
{
}
impl<C: AgentTable + AccessTables + AuditTables + ChainTables + MailTables + TopicTables + Many> Tables for C {}

/// What a registration says, and whether its transaction may lock the mailbox of an agent that left.
#[derive(Clone)]
struct Registration {
    tenant: TenantId,
    new: NewAgent,
    if_present: IfPresent,
    now: Timestamp,
    apart: bool,
}

/// `None` when it must be done apart, and nothing was done.
async fn register(tables: &mut impl Tables, registration: &Registration) -> Result<Option<StoredAgent>, Failure> {
    let Registration { tenant, new, if_present, now, apart } = registration;
    let version = tables.next_agent_version().await?;
    let before = tables.agent(tenant, &new.agent_id).await?;
    let created = before.as_ref().is_none_or(AgentRow::is_gone);
    if created && before.is_some() {
        if !apart {
            return Ok(None);
        }
        tables.open_mailbox(tenant, &new.agent_id).await?;
    }
    if !created && *if_present == IfPresent::Refuse {
        let taken = format!(
            "the agent id {} is taken: register again with that agent's own token, or choose another id",
            new.agent_id
        );
        return Err(Error::denied(taken).into());
    }
    let agent = Agent { version: count(version)?, ..registered(tenant, new, before, *now)? };
    tables.put_agent(&agent).await?;
    Ok(Some(StoredAgent { agent, created }))
}

/// The agent as the edit leaves it, `None` when there is none.
async fn change(
    tables: &mut impl Tables,
    tenant: &TenantId,
    agent: &AgentId,
    edit: AgentEdit,
) -> Result<Option<Agent>, Failure> {
    let version = tables.next_agent_version().await?;
    let Some(before) = tables.agent(tenant, agent).await?.filter(|row| !row.is_gone()) else { return Ok(None) };
    let concerns_access = !matches!(edit, AgentEdit::Key(_));
    let after = edited(Agent { version: count(version)?, ..before.agent()? }, edit);
    tables.put_agent(&after).await?;
    if concerns_access {
        tables.next_access_version().await?;
    }
    Ok(Some(after))
}

async fn revoke(tables: &mut impl Tables, what: &Revocation, now: Timestamp) -> Result<(), Failure> {
    match what {
        Revocation::Token { token_id, expires_at } => {
            tables.next_access_version().await?;
            tables.revoke_token(token_id, *expires_at, now).await
        }
        Revocation::Agent { tenant, agent_id } => {
            let agent = change(tables, tenant, agent_id, AgentEdit::NextTokenEpoch).await?;
            agent.map(drop).ok_or_else(|| Error::not_found(format!("there is no agent {agent_id}")).into())
        }
    }
}

/// False when `key` signs already: the answer to the first attempt was lost.
async fn succeed_signing_key(
    tables: &mut impl Tables,
    key: &SealedSigningKey,
    expected: Option<&str>,
    overlap: Duration,
) -> Result<bool, Failure> {
    tables.next_access_version().await?;
    let signs_now = tables.signs_now().await?;
    if signs_now.as_deref() == Some(&key.public.key_id) {
        return Ok(false);
    }
    if signs_now.as_deref() != expected {
        return Err(Error::conflict("another replica has made a new signing key meanwhile: read it and use it").into());
    }
    tables.succeed_signing_key(key, key.public.created_at + overlap).await?;
    Ok(true)
}

/// False when this very key is there already: the answer to the first attempt was lost.
async fn add_registration_key(
    tables: &mut impl Tables,
    key: &RegistrationKey,
    secret_hash: [u8; 32],
) -> Result<bool, Failure> {
    if tables.add_registration_key(key, secret_hash).await? {
        return Ok(true);
    }
    let same_secret = tables.registration_key(secret_hash).await?.map(RegistrationKeyRow::key).transpose()?;
    match same_secret {
        Some(there) if there.key_id == key.key_id => Ok(false),
        _ => Err(Error::conflict("there is another registration key of this id; make one with a new id").into()),
    }
}

/// The version is read before the rows, so that they are of that version or newer: what changes in between comes
/// again under its own.
async fn access(tables: &mut impl Tables, known: Option<u64>, now: Timestamp) -> Result<Option<AccessRows>, Failure> {
    let version = tables.access_version().await?;
    if known == Some(version) {
        return Ok(None);
    }
    tables.access_rows(version, now).await.map(Some)
}

#[async_trait]
impl<DB: Database> AgentStore for Sql<DB>
where
    DB::Connection: Tables,
{
    async fn register(
        &self,
        tenant: &TenantId,
        new: &NewAgent,
        if_present: IfPresent,
        now: Timestamp,
        audit: AuditEntry,
    ) -> Result<StoredAgent> {
        let (tenant, new, scribe) = (tenant.clone(), new.clone(), Arc::clone(&self.scribe));
        let registration = Registration { tenant, new, if_present, now, apart: false };
        let apart = (Registration { apart: true, ..registration.clone() }, audit.clone());
        let together = self.writer.write(move |tables| {
            Box::pin(async move {
                let registered = register(tables, &registration).await?;
                if registered.is_some() {
                    scribe.record(tables, &[audit]).await?;
                }
                Ok(registered)
            })
        });
        if let Some(registered) = together.await? {
            return Ok(registered);
        }
        let ((registration, audit), scribe) = (apart, Arc::clone(&self.mail_scribe));
        let apart = self.writer.write_apart(move |tables| {
            Box::pin(async move {
                let registered = register(tables, &registration).await?;
                scribe.record(tables, &[audit]).await?;
                Ok(registered.expect("apart, every registration can be done"))
            })
        });
        apart.await
    }

    async fn agent(&self, tenant: &TenantId, agent: &AgentId) -> Result<Option<Agent>> {
        let mut tables = self.reader().await?;
        let row = in_time(tables.agent(tenant, agent)).await;
        let row = tables.done(row)?;
        row.filter(|row| !row.is_gone()).map(AgentRow::agent).transpose()
    }

    async fn edit(
        &self,
        tenant: &TenantId,
        agent: &AgentId,
        edit: AgentEdit,
        audit: AuditEntry,
    ) -> Result<Option<Agent>> {
        let (tenant, agent, scribe) = (tenant.clone(), agent.clone(), Arc::clone(&self.scribe));
        let edit = self.writer.write(move |tables| {
            Box::pin(async move {
                let edited = change(tables, &tenant, &agent, edit).await?;
                if edited.is_some() {
                    scribe.record(tables, &[audit]).await?;
                }
                Ok(edited)
            })
        });
        edit.await
    }

    /// Apart, for it locks the agent's mailbox: in a transaction with others that do, it could meet a send to both of
    /// them in a deadlock.
    async fn remove(&self, tenant: &TenantId, agent: &AgentId, audit: AuditEntry) -> Result<Option<u64>> {
        let (tenant, agent, scribe) = (tenant.clone(), agent.clone(), Arc::clone(&self.mail_scribe));
        let remove = self.writer.write_apart(move |tables| {
            Box::pin(async move {
                let version = tables.next_agent_version().await?;
                if !tables.bury_agent(&tenant, &agent, version).await? {
                    return Ok(None);
                }
                tables.next_access_version().await?;
                tables.remove_from_all_topics(&tenant, &agent).await?;
                tables.close_mailbox(&tenant, &agent, audit.at).await?;
                scribe.record(tables, &[audit]).await?;
                Ok(Some(count(version)?))
            })
        });
        remove.await
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Vec<AgentChange>> {
        let mut tables = self.reader().await?;
        let rows = in_time(tables.changes(after, limit)).await;
        let rows = tables.done(rows)?;
        rows.into_iter().map(AgentRow::change).collect()
    }

    async fn save_last_seen(&self, seen: &[(TenantId, AgentId, Timestamp)]) -> Result<()> {
        let seen = seen.to_vec();
        let save = self.writer.write(move |tables| {
            Box::pin(async move {
                tables.take_turn().await?;
                tables.see_agents(&seen).await
            })
        });
        save.await
    }

    async fn access(&self, known: Option<u64>, now: Timestamp) -> Result<Option<AccessRows>> {
        let mut tables = self.reader().await?;
        let view = in_time(access(&mut *tables, known, now)).await;
        tables.done(view)
    }

    async fn revoke(&self, what: &Revocation, now: Timestamp, audit: AuditEntry) -> Result<()> {
        let (what, scribe) = (what.clone(), Arc::clone(&self.scribe));
        let revoke = self.writer.write(move |tables| {
            Box::pin(async move {
                revoke(tables, &what, now).await?;
                scribe.record(tables, &[audit]).await
            })
        });
        revoke.await
    }

    async fn signing_keys(&self, now: Timestamp) -> Result<Vec<SealedSigningKey>> {
        let mut tables = self.reader().await?;
        let rows = in_time(tables.signing_keys(now)).await;
        let rows = tables.done(rows)?;
        rows.into_iter().map(SigningKeyRow::sealed).collect()
    }

    async fn add_signing_key(
        &self,
        key: &SealedSigningKey,
        expected: Option<&str>,
        overlap: Duration,
        audit: AuditEntry,
    ) -> Result<()> {
        let key = SealedSigningKey { public: key.public.clone(), sealed_private: key.sealed_private.clone() };
        let (expected, scribe) = (expected.map(str::to_owned), Arc::clone(&self.scribe));
        let add = self.writer.write(move |tables| {
            Box::pin(async move {
                if succeed_signing_key(tables, &key, expected.as_deref(), overlap).await? {
                    scribe.record(tables, &[audit]).await?;
                }
                Ok(())
            })
        });
        add.await
    }

    async fn add_registration_key(
        &self,
        key: &RegistrationKey,
        secret_hash: [u8; 32],
        audit: AuditEntry,
    ) -> Result<()> {
        let (key, scribe) = (key.clone(), Arc::clone(&self.scribe));
        let add = self.writer.write(move |tables| {
            Box::pin(async move {
                if add_registration_key(tables, &key, secret_hash).await? {
                    scribe.record(tables, &[audit]).await?;
                }
                Ok(())
            })
        });
        add.await
    }

    async fn registration_key(&self, secret_hash: [u8; 32]) -> Result<Option<RegistrationKey>> {
        let mut tables = self.reader().await?;
        let row = in_time(tables.registration_key(secret_hash)).await;
        let row = tables.done(row)?;
        row.map(RegistrationKeyRow::key).transpose()
    }

    async fn registration_keys(&self, tenant: &TenantId) -> Result<Vec<RegistrationKey>> {
        let mut tables = self.reader().await?;
        let rows = in_time(tables.registration_keys(tenant)).await;
        let rows = tables.done(rows)?;
        rows.into_iter().map(RegistrationKeyRow::key).collect()
    }

    async fn revoke_registration_key(&self, tenant: &TenantId, key_id: &str, audit: AuditEntry) -> Result<bool> {
        let (tenant, key_id, scribe) = (tenant.clone(), key_id.to_owned(), Arc::clone(&self.scribe));
        let revoke = self.writer.write(move |tables| {
            Box::pin(async move {
                let there = tables.revoke_registration_key(&tenant, &key_id).await?;
                if there {
                    scribe.record(tables, &[audit]).await?;
                }
                Ok(there)
            })
        });
        revoke.await
    }
}
