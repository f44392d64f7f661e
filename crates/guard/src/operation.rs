//! Everything that can be asked of the hall, and who may ask it in principle. One line each.

/// On whose behalf an operation can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A caller with `<name>` may do it to itself; to others it needs `<name>.any`.
    Own,
    /// A caller with `<name>` may do it within its tenant.
    Tenant,
    /// It touches every tenant: a caller with `<name>` whose tenant is `default`, that of the hall's operators.
    Operator,
    /// Only the hall's own services; no role grants it.
    Hall,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident $name:literal $scope:ident),+ $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Operation {
            $($(#[$doc])* $variant,)+
        }

        impl Operation {
            pub const ALL: &'static [Operation] = &[$(Self::$variant),+];

            /// The permission's word, as roles name it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            pub const fn scope(self) -> Scope {
                match self { $(Self::$variant => Scope::$scope),+ }
            }
        }
    };
}

operations! {
    // agents
    RegisterAgent "agents.register" Own,
    ListAgents "agents.list" Tenant,
    GetAgent "agents.get" Tenant,
    RemoveAgent "agents.remove" Own,
    PauseAgent "agents.pause" Tenant,
    ResumeAgent "agents.resume" Tenant,
    SetAgentKey "agents.set_key" Own,
    /// A sign of life that one agent gives.
    Heartbeat "agents.heartbeat" Own,
    /// Signs of life that a gateway gathered, of every tenant.
    ReportHeartbeats "agents.report_heartbeats" Hall,

    // identities
    /// Whoever may, may become anyone of the tenant whose roles it could grant.
    IssueToken "tokens.issue" Tenant,
    RevokeToken "tokens.revoke" Tenant,
    ManageRegistrationKeys "registration_keys.manage" Tenant,
    RotateSigningKey "signing_keys.rotate" Operator,
    /// Epochs, pauses and revocations of every tenant.
    ReadAccess "access.read" Hall,

    // audit
    RecordAudit "audit.record" Hall,
    ReadAudit "audit.read" Tenant,
    VerifyAudit "audit.verify" Tenant,

    // mail
    SendMail "messages.send" Own,
    /// Taking what waits, and settling it.
    TakeMail "messages.take" Own,
    /// History, counts and states: takes nothing.
    ReadMail "messages.read" Own,
    ReadDeadLetters "dead_letters.read" Own,
    RedriveDeadLetters "dead_letters.redrive" Own,
    PurgeDeadLetters "dead_letters.purge" Own,
    /// Knowing, of every tenant, who wants mail brought, and bringing it.
    BringMail "messages.bring" Hall,
    SendRequest "requests.send" Own,
    AnswerRequest "requests.answer" Own,

    // live sockets
    OpenSocket "sockets.open" Own,

    // topics; which ones, `topic:<name>` says
    PublishEvent "topics.publish" Tenant,
    ReadTopic "topics.read" Tenant,
    SubscribeTopic "topics.subscribe" Own,
    /// Its schema.
    ManageTopic "topics.manage" Tenant,

    // what the gateway offers by itself
    ReadResource "resources.read" Tenant,
    /// Any tool at all; which ones, `tool:<name>` says.
    CallTool "tools.call" Tenant,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn two_operations_never_share_a_permission() {
        let names: BTreeSet<_> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        assert_eq!(names.len(), Operation::ALL.len());
        assert!(names.iter().all(|name| !name.ends_with(".any") && !name.contains(':')), "{names:?}");
    }
}
