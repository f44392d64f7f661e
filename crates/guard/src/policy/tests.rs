//! What a role's words mean, beyond the built-in table (that one is in `tests/permission_matrix.rs`).

use guildhall_domain::ErrorCode;

use super::*;

fn caller(tenant: &str, kind: PrincipalKind, id: &str, roles: &[&str]) -> Principal {
    Principal::new(TenantId::new(tenant).unwrap(), kind, id, roles.iter().copied())
}

fn agent(roles: &[&str]) -> Principal {
    caller("default", PrincipalKind::Agent, "me", roles)
}

fn policy(roles: &[(&str, &[&str], &[&str])]) -> Policy {
    let rule = |allow: &[&str], deny: &[&str]| RoleRule::new(allow.to_vec(), deny.to_vec()).unwrap();
    Policy::with_roles(roles.iter().map(|(name, allow, deny)| ((*name).to_owned(), rule(allow, deny)))).unwrap()
}

fn tool(name: &str) -> ToolFacts<'_> {
    ToolFacts { name, read_only: false, toolset: "messages" }
}

#[test]
fn a_glob_matches_any_run_and_nothing_else() {
    let matches = |pattern: &str, word: &str| Pattern(pattern.to_owned()).matches(word);
    for (pattern, word) in [
        ("*", ""),
        ("*", "agents.list"),
        ("agents.list", "agents.list"),
        ("agents.*", "agents.list"),
        ("*.list", "agents.list"),
        ("a*.*t", "agents.list"),
        ("tool:a*b*c", "tool:abc"),
        ("tool:a*b*c", "tool:a-b-b-c"),
        ("**", "x"),
    ] {
        assert!(matches(pattern, word), "{pattern} does not match {word}");
    }
    for (pattern, word) in [
        ("agents.list", "agents.list.any"),
        ("agents.*", "tokens.issue"),
        ("*.list", "agents.lists"),
        ("tool:a*b*c", "tool:acb"),
        ("tool:ab*bc", "tool:abc"),
        ("a*a", "a"),
        ("", "x"),
    ] {
        assert!(!matches(pattern, word), "{pattern} matches {word}");
    }
}

#[test]
fn a_pattern_that_nothing_can_match_is_refused_and_not_taken_for_a_lock() {
    for bad in ["agent.list", "agents.list.any", "tools:x", "", "tool x", "Agents.*", &"a".repeat(129)] {
        assert!(Pattern::new(bad).is_err(), "{bad:?} was taken");
    }
    for good in ["agents.remove.any", "*.any", "*", "tool:anything__at-all", "read:*", "audit.*"] {
        assert!(Pattern::new(good).is_ok(), "{good:?} was refused");
    }
}

#[test]
fn a_denial_in_one_role_wins_over_every_role_that_allows() {
    let policy = policy(&[("quiet", &[], &["agents.list", "tool:send_*"])]);
    let both = agent(&["admin", "quiet"]);
    let refused = policy.authorize(&both, Operation::ListAgents, Target::Tenant(&both.tenant)).unwrap_err();
    assert!(refused.message.contains("agents.list is denied"), "{refused}");
    assert!(!policy.may_call_tool(&both, &tool("send_message")));
    assert!(policy.may_call_tool(&both, &tool("list_agents")));
}

#[test]
fn to_deny_an_operation_denies_it_on_others_too_but_not_the_other_way_round() {
    let other: AgentId = "other".parse().unwrap();
    let me: AgentId = "me".parse().unwrap();
    let may = |policy: &Policy, target: &AgentId| {
        policy.authorize(&agent(&["admin", "x"]), Operation::RemoveAgent, Target::Agent(target)).is_ok()
    };
    let denied = policy(&[("x", &[], &["agents.remove"])]);
    assert!(!may(&denied, &me) && !may(&denied, &other));
    let denied_on_others = policy(&[("x", &[], &["agents.remove.any"])]);
    assert!(may(&denied_on_others, &me) && !may(&denied_on_others, &other));
}

#[test]
fn a_person_with_an_agents_name_is_not_that_agent() {
    let me: AgentId = "me".parse().unwrap();
    let person = caller("default", PrincipalKind::Person, "me", &["agent"]);
    assert!(Policy::default().authorize(&person, Operation::RemoveAgent, Target::Agent(&me)).is_err());
}

#[test]
fn what_touches_every_tenant_is_for_the_operators_tenant_and_for_the_hall() {
    let policy = Policy::default();
    let may = |principal: &Principal, operation| policy.authorize(principal, operation, Target::Hall).is_ok();
    let operator = caller("default", PrincipalKind::Person, "ops", &["admin"]);
    let admin_of_a_tenant = caller("acme", PrincipalKind::Person, "ops", &["admin"]);
    assert!(may(&operator, Operation::RotateSigningKey));
    assert!(!may(&admin_of_a_tenant, Operation::RotateSigningKey));
    for operation in [Operation::ReadAccess, Operation::RecordAudit, Operation::ReportHeartbeats] {
        assert!(!may(&operator, operation), "an administrator may {}", operation.name());
        let robot = caller("default", PrincipalKind::Service, "gateway", &["admin"]);
        assert!(!may(&robot, operation), "a service's token may {}", operation.name());
        assert!(may(&Principal::hall(TenantId::default(), "gateway"), operation));
    }
}

#[test]
fn the_halls_own_role_means_nothing_to_agents_and_cannot_be_configured_or_granted() {
    let policy = Policy::default();
    let pretender = agent(&["hall"]);
    assert!(policy.authorize(&pretender, Operation::RecordAudit, Target::Hall).is_err());
    assert!(Policy::with_roles([("hall".to_owned(), RoleRule::default())]).is_err());
    assert!(policy.may_grant(&agent(&["admin"]), &["hall".to_owned()]).is_err());
}

#[test]
fn nobody_but_an_administrator_grants_a_role_above_its_own() {
    let policy = policy(&[("clerk", &["tokens.issue"], &[])]);
    let grant = |by: &[&str], role: &str| policy.may_grant(&agent(by), &[role.to_owned()]).map_err(|error| error.code);
    assert_eq!(grant(&["clerk"], "clerk"), Ok(()));
    assert_eq!(grant(&["clerk"], "admin"), Err(ErrorCode::PermissionDenied));
    assert_eq!(grant(&["admin"], "clerk"), Ok(()));
    assert_eq!(grant(&["admin"], "no-such-role"), Err(ErrorCode::InvalidParams));
}

#[test]
fn an_observer_gets_tools_that_change_nothing_and_no_other() {
    let policy = Policy::default();
    let observer = agent(&["observer"]);
    assert!(policy.may_call_tool(&observer, &ToolFacts { read_only: true, ..tool("list_agents") }));
    assert!(!policy.may_call_tool(&observer, &tool("send_message")));
    assert!(policy.may_call_tool(&agent(&["agent"]), &tool("send_message")));
    assert!(!policy.may_call_tool(&agent(&[]), &ToolFacts { read_only: true, ..tool("list_agents") }));
}

#[test]
fn a_tool_denied_by_its_name_stays_denied_as_one_that_only_reads() {
    let policy = policy(&[("observer", &["tools.call", "read:*"], &["tool:read_mail"])]);
    let observer = agent(&["observer"]);
    assert!(!policy.may_call_tool(&observer, &ToolFacts { read_only: true, ..tool("read_mail") }));
    assert!(policy.may_call_tool(&observer, &ToolFacts { read_only: true, ..tool("list_agents") }));
}

#[test]
fn a_token_narrowed_to_toolsets_reaches_no_other_tools_even_as_admin() {
    let policy = Policy::default();
    let mut admin = agent(&["admin"]);
    admin.toolsets = Some(std::sync::Arc::new(["agents".to_owned()].into()));
    assert!(!policy.may_call_tool(&admin, &tool("send_message")));
    assert!(policy.may_call_tool(&admin, &ToolFacts { toolset: "agents", ..tool("list_agents") }));
}

#[test]
fn a_refusal_says_which_permission_is_missing_and_who_can_give_it() {
    let other: AgentId = "other".parse().unwrap();
    let refused =
        Policy::default().authorize(&agent(&["agent"]), Operation::RemoveAgent, Target::Agent(&other)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "PermissionDenied: this needs the permission agents.remove.any, which none of your roles (agent) has; \
         ask an administrator for a token with a role that does"
    );
}

#[test]
fn a_configured_role_takes_the_built_in_ones_place() {
    let policy = policy(&[("agent", &["agents.get"], &[])]);
    let agent = agent(&["agent"]);
    let may = |operation| policy.authorize(&agent, operation, Target::Tenant(&agent.tenant)).is_ok();
    assert!(may(Operation::GetAgent) && !may(Operation::ListAgents));
}

#[test]
fn a_topic_that_is_denied_stays_closed_to_whoever_may_use_topics() {
    let rule = RoleRule::new(["topics.*", "topic:*"], ["topic:secret.*"]).unwrap();
    let policy = Policy::with_roles([("reader".to_owned(), rule)]).unwrap();
    let reader = Principal::new(TenantId::default(), PrincipalKind::Agent, "me", ["reader"]);
    let may = |topic: &str| {
        let topic = guildhall_domain::ports::bus::Topic::new(topic).unwrap();
        let target = Target::Tenant(&reader.tenant);
        policy.authorize_on_topic(&reader, Operation::ReadTopic, target, &topic).is_ok()
    };
    assert!(may("ci.done"));
    assert!(!may("secret.plans"));
}
