//! Roles and what they allow. Every port method, route and tool asks here before it does anything.
//!
//! A role is a list of allowed and a list of denied permission words, each with `*` for any run of characters:
//! - the names of [`Operation`]s, `agents.list`; with `.any` where a caller may otherwise act on itself only;
//! - `tool:<name>` for each tool, and `read:<name>` as well for a tool that changes nothing;
//! - `topic:<name>` for each topic, beside the operation that is done to it.
//!
//! A denied word wins over every allowed one, whichever role says it. A role that nobody defined grants nothing.

use std::collections::BTreeMap;

use guildhall_domain::{
    AgentId, Error, Principal, PrincipalKind, Result, TenantId, ports::bus::Topic, principal::roles,
};
use serde::Deserialize;

use crate::operation::{Operation, Scope};

/// What an operation is done to.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// Something of every tenant.
    Hall,
    Tenant(&'a TenantId),
    /// An agent of the caller's own tenant.
    Agent(&'a AgentId),
}

/// What a policy must know of a tool.
#[derive(Debug, Clone, Copy)]
pub struct ToolFacts<'a> {
    pub name: &'a str,
    /// True only when the hall itself vouches for it; what another server says of its tool is no ground.
    pub read_only: bool,
    pub toolset: &'a str,
}

/// A permission word with `*` for any run of characters, the empty one too.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Refused when no permission can match: a misspelt `deny` must not pass for a lock.
    pub fn new(pattern: impl Into<String>) -> Result<Self> {
        let pattern = pattern.into();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.:*".contains(&b);
        if pattern.is_empty() || pattern.len() > 128 || !pattern.bytes().all(plain) {
            return Err(Error::invalid("a permission is 1 to 128 letters, digits, _ - . : or *"));
        }
        let pattern = Self(pattern);
        let names_a_thing = ["tool:", "read:", "topic:"].iter().any(|kind| pattern.0.starts_with(kind));
        let names_an_operation = Operation::ALL.iter().any(|operation| {
            pattern.matches(operation.name()) || operation.scope() == Scope::Own && pattern.matches(&any(*operation))
        });
        if !names_a_thing && !names_an_operation {
            let known: Vec<_> = Operation::ALL.iter().map(|operation| operation.name()).collect();
            return Err(Error::invalid(format!(
                "nothing matches the permission {}; write tool:<name>, read:<name>, topic:<name> or one of {}",
                pattern.0,
                known.join(", ")
            )));
        }
        Ok(pattern)
    }

    fn matches(&self, word: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == word };
        let Some(mut word) = word.strip_prefix(first) else { return false };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        for part in middle.split('*') {
            let Some(at) = word.find(part) else { return false };
            word = &word[at + part.len()..];
        }
        word.ends_with(last)
    }
}

impl TryFrom<String> for Pattern {
    type Error = Error;
    fn try_from(pattern: String) -> Result<Self> {
        Self::new(pattern)
    }
}

/// What one role allows and denies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoleRule {
    pub allow: Vec<Pattern>,
    pub deny: Vec<Pattern>,
}

impl RoleRule {
    pub fn new<P: Into<String>>(allow: impl IntoIterator<Item = P>, deny: impl IntoIterator<Item = P>) -> Result<Self> {
        let patterns = |words: Vec<P>| words.into_iter().map(Pattern::new).collect::<Result<_>>();
        Ok(Self { allow: patterns(allow.into_iter().collect())?, deny: patterns(deny.into_iter().collect())? })
    }
}

/// Every role that means something.
#[derive(Debug, Clone)]
pub struct Policy {
    roles: BTreeMap<String, RoleRule>,
}

impl Default for Policy {
    fn default() -> Self {
        let rule = |allow: &[&str]| {
            RoleRule::new(allow.iter().copied(), []).expect("the built-in roles name permissions that exist")
        };
        let agent = [
            "agents.list",
            "agents.get",
            "agents.register",
            "agents.remove",
            "agents.set_key",
            "agents.heartbeat",
            "messages.send",
            "messages.take",
            "messages.read",
            "dead_letters.read",
            "dead_letters.redrive",
            "dead_letters.purge",
            "requests.send",
            "requests.answer",
            "sockets.open",
            "topics.publish",
            "topics.read",
            "topics.subscribe",
            "topic:*",
            "resources.read",
            "tools.call",
            "tool:*",
        ];
        let observer = ["*.list", "*.get", "topics.read", "topic:*", "resources.read", "tools.call", "read:*"];
        Self {
            roles: BTreeMap::from([
                (roles::ADMIN.to_owned(), rule(&["*"])),
                (roles::AGENT.to_owned(), rule(&agent)),
                (roles::OBSERVER.to_owned(), rule(&observer)),
            ]),
        }
    }
}

impl Policy {
    /// The built-in roles, and the operator's: a role named like a built-in one takes its place.
    pub fn with_roles(configured: impl IntoIterator<Item = (String, RoleRule)>) -> Result<Self> {
        let mut policy = Self::default();
        for (name, rule) in configured {
            if name == roles::HALL {
                return Err(Error::invalid("the role hall belongs to the hall's own services: name yours otherwise"));
            }
            policy.roles.insert(name, rule);
        }
        Ok(policy)
    }

    /// Whether `principal` may do `operation` to `target`; `PermissionDenied` says what is missing and who can give
    /// it. It never looks at whether the target exists, so that the answer cannot tell.
    pub fn authorize(&self, principal: &Principal, operation: Operation, target: Target<'_>) -> Result<()> {
        if principal.is_hall() {
            return Ok(());
        }
        let name = operation.name();
        if let Target::Tenant(tenant) = target
            && *tenant != principal.tenant
        {
            return Err(Error::denied(format!("{name}: nothing of another tenant can be reached from yours")));
        }
        match operation.scope() {
            Scope::Hall => Err(Error::denied(format!("{name} is for the hall's own services; no role grants it"))),
            Scope::Operator if principal.tenant != TenantId::default() => Err(Error::denied(format!(
                "{name} touches every tenant: only the operators of the hall may, with a token of the tenant default"
            ))),
            Scope::Operator | Scope::Tenant => self.require(principal, &[name], &[name]),
            // Whoever may do it to anyone may do it to itself; to whom it is denied at all, it is denied to others.
            Scope::Own if is_own(principal, target) => self.require(principal, &[name, &any(operation)], &[name]),
            Scope::Own => self.require(principal, &[&any(operation)], &[name, &any(operation)]),
        }
    }

    /// As [`Self::authorize`], and the caller must be let near this topic as well.
    pub fn authorize_on_topic(
        &self,
        principal: &Principal,
        operation: Operation,
        target: Target<'_>,
        topic: &Topic,
    ) -> Result<()> {
        self.authorize(principal, operation, target)?;
        if principal.is_hall() {
            return Ok(());
        }
        let word = format!("topic:{topic}");
        self.require(principal, &[&word], &[&word])
    }

    /// Whether the tool is there for this caller, in lists and calls alike.
    pub fn may_call_tool(&self, principal: &Principal, tool: &ToolFacts<'_>) -> bool {
        if principal.toolsets.as_ref().is_some_and(|toolsets| !toolsets.contains(tool.toolset)) {
            return false;
        }
        if principal.is_hall() {
            return true;
        }
        let call = format!("tool:{}", tool.name);
        let read = tool.read_only.then(|| format!("read:{}", tool.name));
        let words = [Some(Operation::CallTool.name()), Some(&*call), read.as_deref()];
        let denied = words.iter().flatten().any(|word| self.denies(principal, word));
        let allowed = [Some(&*call), read.as_deref()].iter().flatten().any(|word| self.allows(principal, word));
        !denied && allowed && self.allows(principal, Operation::CallTool.name())
    }

    /// Whether `by` may give these roles to someone: an administrator any that are defined, everyone else only what
    /// it has itself. Nobody the hall's own. Asked wherever roles enter: tokens, registration, registration keys.
    pub fn may_grant<'r>(&self, by: &Principal, granted: impl IntoIterator<Item = &'r String>) -> Result<()> {
        for role in granted {
            if role == roles::HALL || !self.roles.contains_key(role) {
                let known: Vec<_> = self.roles.keys().map(String::as_str).collect();
                return Err(Error::invalid(format!("there is no role {role:?}; there are {}", known.join(", "))));
            }
            if !by.is_admin() && !by.has_role(role) {
                return Err(Error::denied(format!("the role {role} is granted by those who have it, or by an admin")));
            }
        }
        Ok(())
    }

    /// One of `enough` must be allowed, and none of `locks` denied.
    fn require(&self, principal: &Principal, enough: &[&str], locks: &[&str]) -> Result<()> {
        if let Some(denied) = locks.iter().find(|word| self.denies(principal, word)) {
            return Err(Error::denied(format!(
                "{denied} is denied to one of your roles ({}); an operator can change that under [roles] in guildhall.toml",
                named_roles(principal)
            )));
        }
        if !enough.iter().any(|word| self.allows(principal, word)) {
            return Err(Error::denied(format!(
                "this needs the permission {}, which none of your roles ({}) has; \
                 ask an administrator for a token with a role that does",
                enough[0],
                named_roles(principal)
            )));
        }
        Ok(())
    }

    fn rules<'p>(&'p self, principal: &'p Principal) -> impl Iterator<Item = &'p RoleRule> {
        principal.roles.iter().filter_map(|role| self.roles.get(role))
    }

    fn allows(&self, principal: &Principal, word: &str) -> bool {
        self.rules(principal).any(|rule| rule.allow.iter().any(|pattern| pattern.matches(word)))
    }

    fn denies(&self, principal: &Principal, word: &str) -> bool {
        self.rules(principal).any(|rule| rule.deny.iter().any(|pattern| pattern.matches(word)))
    }
}

fn any(operation: Operation) -> String {
    format!("{}.any", operation.name())
}

fn is_own(principal: &Principal, target: Target<'_>) -> bool {
    matches!(target, Target::Agent(agent) if principal.kind == PrincipalKind::Agent && *principal.id == *agent.as_str())
}

fn named_roles(principal: &Principal) -> String {
    if principal.roles.is_empty() {
        return "you have none".to_owned();
    }
    principal.roles.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
