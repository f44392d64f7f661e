//! The tables of who may enter: signing keys, registration keys, revoked tokens, and the version they share with
//! the token epochs and pauses of agents.

use std::future::Future;

use guildhall_domain::{
    RegistrationKey, Result, TenantId, Timestamp,
    ports::agent_store::{AccessRows, SealedSigningKey},
};
use sqlx::{PgConnection, SqliteConnection};

use crate::{
    failure::{Failure, unreadable},
    row::{RegistrationKeyRow, SigningKeyRow, count, json},
};

const NEXT_VERSION: &str = "UPDATE versions SET access = access + 1 RETURNING access";
const VERSION: &str = "SELECT access FROM versions";

/// Of agents that left as well: a token outlives its agent's record.
const EPOCHS: &str = "SELECT tenant, agent_id, token_epoch FROM agents WHERE token_epoch > 0";
const PAUSED: &str = "SELECT tenant, agent_id, paused FROM agents WHERE paused IS NOT NULL";

const REVOKED: &str = "SELECT token_id FROM revoked_tokens WHERE expires_at > $1";
const FORGET_EXPIRED: &str = "DELETE FROM revoked_tokens WHERE expires_at <= $1";
const REVOKE: &str = "INSERT INTO revoked_tokens (token_id, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";

const SIGNING_KEYS: &str =
    "SELECT * FROM signing_keys WHERE retires_at IS NULL OR retires_at > $1 ORDER BY created_at, key_id";
const SIGNS_NOW: &str = "SELECT key_id FROM signing_keys WHERE retires_at IS NULL";
const RETIRE: &str = "UPDATE signing_keys SET retires_at = $1 WHERE retires_at IS NULL";
const FORGET_RETIRED: &str = "DELETE FROM signing_keys WHERE retires_at <= $1";
const ADD_SIGNING_KEY: &str =
    "INSERT INTO signing_keys (key_id, public, sealed_private, created_at) VALUES ($1, $2, $3, $4)";

const ADD_REGISTRATION_KEY: &str = "INSERT INTO registration_keys
        (key_id, secret_hash, tenant, roles, created_at, expires_at, revoked)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
const REGISTRATION_KEY: &str = "SELECT * FROM registration_keys WHERE secret_hash = $1";
const REGISTRATION_KEYS: &str = "SELECT * FROM registration_keys WHERE tenant = $1 ORDER BY key_id";
const REVOKE_REGISTRATION_KEY: &str = "UPDATE registration_keys SET revoked = TRUE WHERE tenant = $1 AND key_id = $2";

pub(crate) trait AccessTables: Send {
    /// Takes the next version. On Postgres its row is locked from here on: others who change access wait.
    fn next_access_version(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
    fn access_version(&mut self) -> impl Future<Output = Result<u64, Failure>> + Send;
    fn access_rows(&mut self, version: u64, now: Timestamp)
    -> impl Future<Output = Result<AccessRows, Failure>> + Send;

    /// Forgets those that have expired on the way.
    fn revoke_token(
        &mut self,
        token_id: &str,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    fn signing_keys(&mut self, now: Timestamp) -> impl Future<Output = Result<Vec<SigningKeyRow>, Failure>> + Send;
    /// The id of the key that signs.
    fn signs_now(&mut self) -> impl Future<Output = Result<Option<String>, Failure>> + Send;
    /// The key that signs retires at `retirement`, `key` follows it. Forgets those whose time is over.
    fn succeed_signing_key(
        &mut self,
        key: &SealedSigningKey,
        retirement: Timestamp,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// False when its id or its secret is there already.
    fn add_registration_key(
        &mut self,
        key: &RegistrationKey,
        secret_hash: [u8; 32],
    ) -> impl Future<Output = Result<bool, Failure>> + Send;
    fn registration_key(
        &mut self,
        secret_hash: [u8; 32],
    ) -> impl Future<Output = Result<Option<RegistrationKeyRow>, Failure>> + Send;
    fn registration_keys(
        &mut self,
        tenant: &TenantId,
    ) -> impl Future<Output = Result<Vec<RegistrationKeyRow>, Failure>> + Send;
    /// False when the tenant has no such key.
    fn revoke_registration_key(
        &mut self,
        tenant: &TenantId,
        key_id: &str,
    ) -> impl Future<Output = Result<bool, Failure>> + Send;
}

macro_rules! access_tables {
    ($connection:ty) => {
        impl AccessTables for $connection {
            async fn next_access_version(&mut self) -> Result<(), Failure> {
                let _version: i64 = sqlx::query_scalar(NEXT_VERSION).fetch_one(self).await?;
                Ok(())
            }

            async fn access_version(&mut self) -> Result<u64, Failure> {
                Ok(count(sqlx::query_scalar(VERSION).fetch_one(self).await?)?)
            }

            async fn access_rows(&mut self, version: u64, now: Timestamp) -> Result<AccessRows, Failure> {
                let keys = self.signing_keys(now).await?;
                let revoked = sqlx::query_scalar(REVOKED).bind(now.as_millis()).fetch_all(&mut *self).await?;
                let epochs: Vec<(String, String, i64)> = sqlx::query_as(EPOCHS).fetch_all(&mut *self).await?;
                let paused: Vec<(String, String, String)> = sqlx::query_as(PAUSED).fetch_all(&mut *self).await?;
                let keys: Result<_> = keys.into_iter().map(|key| Ok(key.sealed()?.public)).collect();
                let epochs: Result<_> = epochs
                    .into_iter()
                    .map(|(tenant, agent, epoch)| {
                        Ok((tenant.parse()?, agent.parse()?, u32::try_from(epoch).map_err(unreadable)?))
                    })
                    .collect();
                let paused: Result<_> = paused
                    .into_iter()
                    .map(|(tenant, agent, reason)| Ok((tenant.parse()?, agent.parse()?, reason)))
                    .collect();
                Ok(AccessRows { version, keys: keys?, revoked, epochs: epochs?, paused: paused? })
            }

            async fn revoke_token(
                &mut self,
                token_id: &str,
                expires_at: Timestamp,
                now: Timestamp,
            ) -> Result<(), Failure> {
                sqlx::query(FORGET_EXPIRED).bind(now.as_millis()).execute(&mut *self).await?;
                sqlx::query(REVOKE).bind(token_id).bind(expires_at.as_millis()).execute(self).await?;
                Ok(())
            }

            async fn signing_keys(&mut self, now: Timestamp) -> Result<Vec<SigningKeyRow>, Failure> {
                Ok(sqlx::query_as(SIGNING_KEYS).bind(now.as_millis()).fetch_all(self).await?)
            }

            async fn signs_now(&mut self) -> Result<Option<String>, Failure> {
                Ok(sqlx::query_scalar(SIGNS_NOW).fetch_optional(self).await?)
            }

            async fn succeed_signing_key(
                &mut self,
                key: &SealedSigningKey,
                retirement: Timestamp,
            ) -> Result<(), Failure> {
                let created_at = key.public.created_at.as_millis();
                sqlx::query(FORGET_RETIRED).bind(created_at).execute(&mut *self).await?;
                sqlx::query(RETIRE).bind(retirement.as_millis()).execute(&mut *self).await?;
                let add = sqlx::query(ADD_SIGNING_KEY)
                    .bind(&key.public.key_id)
                    .bind(&key.public.public[..])
                    .bind(&key.sealed_private[..])
                    .bind(created_at);
                add.execute(self).await?;
                Ok(())
            }

            async fn add_registration_key(
                &mut self,
                key: &RegistrationKey,
                secret_hash: [u8; 32],
            ) -> Result<bool, Failure> {
                let add = sqlx::query(ADD_REGISTRATION_KEY)
                    .bind(&key.key_id)
                    .bind(&secret_hash[..])
                    .bind(key.tenant.as_str())
                    .bind(json(&key.roles)?)
                    .bind(key.created_at.as_millis())
                    .bind(key.expires_at.map(Timestamp::as_millis))
                    .bind(key.revoked);
                Ok(add.execute(self).await?.rows_affected() > 0)
            }

            async fn registration_key(&mut self, secret_hash: [u8; 32]) -> Result<Option<RegistrationKeyRow>, Failure> {
                Ok(sqlx::query_as(REGISTRATION_KEY).bind(&secret_hash[..]).fetch_optional(self).await?)
            }

            async fn registration_keys(&mut self, tenant: &TenantId) -> Result<Vec<RegistrationKeyRow>, Failure> {
                Ok(sqlx::query_as(REGISTRATION_KEYS).bind(tenant.as_str()).fetch_all(self).await?)
            }

            async fn revoke_registration_key(&mut self, tenant: &TenantId, key_id: &str) -> Result<bool, Failure> {
                let revoke = sqlx::query(REVOKE_REGISTRATION_KEY).bind(tenant.as_str()).bind(key_id);
                Ok(revoke.execute(self).await?.rows_affected() > 0)
            }
        }
    };
}

access_tables!(SqliteConnection);
access_tables!(PgConnection);
