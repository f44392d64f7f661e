//! `guildhall token`: who may come in. Works on the database itself, so that the first administrator can be made before
//! any hall runs; a running one honours what is done here within 5 seconds.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::{ArgGroup, Args, Subcommand};
use guildhall_config::{Config, Shape, unit::duration};
use guildhall_domain::{
    AgentId, Call, Clock, Principal, PrincipalKind, TenantId, Timestamp, TokenRequest, access::Revocation,
    ports::AgentRegistry, principal::roles,
};
use guildhall_guard::ExposeSecret;
use guildhall_runtime::SystemClock;
use serde::Deserialize;
use serde_json::json;

use super::ConfigArgs;
use crate::{failure::Failure, screen, wiring::LocalRegistry};

/// Issues and revokes tokens and registration keys.
///
/// These commands open the hall's database themselves, by the same configuration as `guildhall up`, whether a hall
/// runs or not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  guildhall token issue --person alice --role admin\n  \
                        guildhall token issue --agent worker-1 --ttl 7d\n  guildhall token revoke --agent worker-1\n  \
                        guildhall token registration-key --role agent --ttl 30d")]
pub(super) struct Token {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Makes a token and prints it, nothing else: TOKEN=$(guildhall token issue --agent worker-1)
    Issue(Issue),
    /// Ends a token, or every token an agent holds so far
    Revoke(Revoke),
    /// Makes a key that agents register themselves with, or lists or revokes such keys
    RegistrationKey(RegistrationKeys),
    /// Replaces the key that tokens are signed with; tokens signed by the one before stay good for a while
    RotateKey(RotateKey),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("who").required(true).args(["agent", "person"]))]
struct Issue {
    /// The agent that the token is for
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    /// The person that the token is for
    #[arg(long, value_name = "NAME")]
    person: Option<String>,
    /// A role it carries; may be given several times [default: agent for an agent, observer for a person]
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// How long it is good [default: auth.token_ttl, 24h]
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    ttl: Option<Duration>,
    /// For scripts: the token, its id and its end as JSON
    #[arg(long)]
    json: bool,
    /// The tenant it belongs to
    #[arg(long, value_name = "TENANT", default_value = "default")]
    tenant: TenantId,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["token", "agent"]))]
struct Revoke {
    /// The token, or its id
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
    /// Ends every token this agent holds
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    /// The tenant it belongs to
    #[arg(long, value_name = "TENANT", default_value = "default")]
    tenant: TenantId,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
struct RegistrationKeys {
    /// A role that agents get who register with it; may be given several times [default: agent]
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// How long it is good [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    ttl: Option<Duration>,
    /// Lists the keys there are; the keys themselves are shown once, when they are made
    #[arg(long, conflicts_with_all = ["roles", "ttl", "revoke"])]
    list: bool,
    /// Ends a key; agents that registered with it stay
    #[arg(long, value_name = "ID", conflicts_with_all = ["roles", "ttl"])]
    revoke: Option<String>,
    /// For scripts: JSON
    #[arg(long)]
    json: bool,
    /// The tenant it belongs to
    #[arg(long, value_name = "TENANT", default_value = "default")]
    tenant: TenantId,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
struct RotateKey {
    /// How long tokens signed by the key before stay good [default: auth.token_ttl]
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    overlap: Option<Duration>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// The registry's core in this process, over the configured database.
struct Desk {
    registry: Arc<dyn AgentRegistry>,
    /// Whoever can open the database may do everything in it.
    call: Call,
}

impl Token {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (config_args, tenant) = match &self.verb {
            Verb::Issue(issue) => (&issue.config, issue.tenant.clone()),
            Verb::Revoke(revoke) => (&revoke.config, revoke.tenant.clone()),
            Verb::RegistrationKey(keys) => (&keys.config, keys.tenant.clone()),
            // The hall signs for every tenant with the same key.
            Verb::RotateKey(rotate) => (&rotate.config, TenantId::default()),
        };
        let config = config_args.clone().load(Shape::Keys)?;
        let local = LocalRegistry::open(&config).await?;
        let operator = Principal::new(tenant, PrincipalKind::Person, "operator", [roles::ADMIN]);
        let desk = Desk { registry: local.registry.clone(), call: Call::new(operator) };
        let done = match self.verb {
            Verb::Issue(issue) => issue.run(&desk).await,
            Verb::Revoke(revoke) => revoke.run(&desk).await,
            Verb::RegistrationKey(keys) => keys.run(&desk).await,
            Verb::RotateKey(rotate) => rotate.run(&desk, &config).await,
        };
        local.close().await?;
        done
    }
}

impl Issue {
    async fn run(self, desk: &Desk) -> Result<(), Failure> {
        let (kind, id, default_role) = match (self.agent, self.person) {
            (Some(agent), _) => (PrincipalKind::Agent, agent.to_string(), roles::AGENT),
            (None, person) => (PrincipalKind::Person, person.unwrap_or_default(), roles::OBSERVER),
        };
        let roles = or_default(self.roles, default_role).into_iter().collect::<BTreeSet<_>>();
        let request = TokenRequest { tenant: self.tenant, kind, id, roles, toolsets: None, ttl: self.ttl };
        let issued = desk.registry.issue_token(&desk.call, request).await?;
        let token = issued.token.expose_secret();
        if self.json {
            return screen::say_json(
                &json!({ "token": token, "token_id": issued.token_id, "expires_at": issued.expires_at }),
            );
        }
        // Standard output is the token alone, so that a shell can take it.
        eprintln!("token {}, good until {}", issued.token_id, issued.expires_at);
        screen::say(token)
    }
}

impl Revoke {
    async fn run(self, desk: &Desk) -> Result<(), Failure> {
        if let Some(agent_id) = self.agent {
            let said = format!("every token that {agent_id} holds has ended");
            let what = Revocation::Agent { tenant: TenantId::default(), agent_id };
            desk.registry.revoke(&desk.call, what).await?;
            return screen::say(said);
        }
        let named = Named::read(&self.token.unwrap_or_default(), SystemClock.now())?;
        let said = format!("token {} has ended", named.token_id);
        let what = Revocation::Token { token_id: named.token_id, expires_at: named.expires_at };
        desk.registry.revoke(&desk.call, what).await?;
        screen::say(said)
    }
}

/// A token as someone names it who wants it ended.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    token_id: String,
    expires_at: Timestamp,
}

/// What revoking needs of a token's claims. They need not be proved: ending a token of that id is what was asked.
#[derive(Deserialize)]
struct Claims {
    jti: String,
    exp: i64,
}

/// An id alone does not say when its token ends; the registry shortens this to the longest it remembers.
const LONGER_THAN_ANY_TOKEN: Duration = Duration::from_secs(10 * 366 * 24 * 3_600);

impl Named {
    fn read(text: &str, now: Timestamp) -> Result<Self, Failure> {
        let text = text.trim();
        let Some(payload) = text.split('.').nth(1) else {
            return Ok(Self { token_id: text.to_owned(), expires_at: now + LONGER_THAN_ANY_TOKEN });
        };
        let claims = URL_SAFE_NO_PAD.decode(payload).ok().and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
        let Some(claims) = claims else {
            return Err(Failure::new("this is no token of a hall; give the whole token, or its id"));
        };
        Ok(Self { token_id: claims.jti, expires_at: Timestamp::from_millis(claims.exp.saturating_mul(1_000)) })
    }
}

impl RegistrationKeys {
    async fn run(self, desk: &Desk) -> Result<(), Failure> {
        if let Some(key_id) = &self.revoke {
            desk.registry.revoke_registration_key(&desk.call, key_id).await?;
            return screen::say(format!("registration key {key_id} has ended"));
        }
        if self.list {
            return self.list(desk).await;
        }
        let (key, secret) =
            desk.registry.create_registration_key(&desk.call, or_default(self.roles, roles::AGENT), self.ttl).await?;
        let until = key.expires_at.map_or_else(|| "it is revoked".to_owned(), |at| at.to_string());
        if self.json {
            return screen::say_json(&json!({
                "key": secret.expose_secret(), "key_id": key.key_id, "roles": key.roles, "expires_at": key.expires_at,
            }));
        }
        eprintln!("registration key {}, good until {until}; it is shown this once", key.key_id);
        screen::say(secret.expose_secret())
    }

    async fn list(&self, desk: &Desk) -> Result<(), Failure> {
        let keys = desk.registry.registration_keys(&desk.call).await?;
        if self.json {
            let keys: Vec<_> = keys
                .iter()
                .map(|key| {
                    json!({
                        "key_id": key.key_id, "roles": key.roles, "created_at": key.created_at,
                        "expires_at": key.expires_at, "revoked": key.revoked,
                    })
                })
                .collect();
            return screen::say_json(&json!({ "keys": keys }));
        }
        if keys.is_empty() {
            return screen::say("there are no registration keys");
        }
        let now = SystemClock.now();
        let rows = keys.into_iter().map(|key| {
            let state = match key.expires_at {
                _ if key.revoked => "revoked",
                Some(end) if end <= now => "expired",
                _ => "good",
            };
            let end = key.expires_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
            let roles = key.roles.into_iter().collect::<Vec<_>>().join(", ");
            [key.key_id, state.to_owned(), roles, key.created_at.to_string(), end]
        });
        screen::say(screen::table(["key", "state", "roles", "made", "ends"], rows.collect()))
    }
}

impl RotateKey {
    async fn run(self, desk: &Desk, config: &Config) -> Result<(), Failure> {
        let overlap = self.overlap.unwrap_or(config.auth.token_ttl);
        desk.registry.rotate_signing_key(&desk.call, overlap).await?;
        screen::say(format!("a new key signs now; tokens of the one before stay good for {}", duration::show(overlap)))
    }
}

fn or_default(roles: Vec<String>, default: &str) -> Vec<String> {
    if roles.is_empty() { vec![default.to_owned()] } else { roles }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_to_be_ended_may_be_named_by_itself_or_by_its_id() {
        let now = Timestamp::from_millis(0);
        let payload = URL_SAFE_NO_PAD.encode(r#"{"jti":"01ABC","exp":1700000000,"sub":"a"}"#);
        let whole = Named::read(&format!("h.{payload}.s\n"), now).unwrap();
        assert_eq!(whole, Named { token_id: "01ABC".into(), expires_at: Timestamp::from_millis(1_700_000_000_000) });
        assert_eq!(Named::read("01ABC", now).unwrap().token_id, "01ABC");
        assert!(Named::read("not.a.token", now).is_err());
    }
}
