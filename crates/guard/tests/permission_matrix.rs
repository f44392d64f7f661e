//! Every operation, every built-in role, on itself and on others: one table. A new operation changes it, so that
//! whoever adds one looks at who may.

use std::fmt::Write;

use guildhall_domain::{AgentId, Principal, PrincipalKind, TenantId};
use guildhall_guard::{Operation, Policy, Target};

const ROLES: [&str; 4] = ["admin", "agent", "observer", "unknown"];

#[test]
fn who_may_do_what_is_exactly_this() {
    let policy = Policy::default();
    let (me, other): (AgentId, AgentId) = ("me".parse().unwrap(), "other".parse().unwrap());
    let foreign = TenantId::new("foreign").unwrap();
    let mut table = format!("{:24}", "");
    for role in ROLES {
        write!(table, " {role:10}").unwrap();
    }
    table.push_str(" hall\n");
    for operation in Operation::ALL {
        write!(table, "{:24}", operation.name()).unwrap();
        let verdicts = |principal: Principal| {
            let may = |target| if policy.authorize(&principal, *operation, target).is_ok() { "yes" } else { "-" };
            let across = Target::Tenant(&foreign);
            assert!(principal.is_hall() || may(across) == "-", "{} reaches into another tenant", operation.name());
            format!("{}/{}", may(Target::Agent(&me)), may(Target::Agent(&other)))
        };
        for role in ROLES {
            let agent = Principal::new(TenantId::default(), PrincipalKind::Agent, "me", [role]);
            write!(table, " {:10}", verdicts(agent)).unwrap();
        }
        writeln!(table, " {}", verdicts(Principal::hall(TenantId::default(), "gateway"))).unwrap();
    }
    let table: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    insta::assert_snapshot!(table, @"
                             admin      agent      observer   unknown    hall
    agents.register          yes/yes    yes/-      -/-        -/-        yes/yes
    agents.list              yes/yes    yes/yes    yes/yes    -/-        yes/yes
    agents.get               yes/yes    yes/yes    yes/yes    -/-        yes/yes
    agents.remove            yes/yes    yes/-      -/-        -/-        yes/yes
    agents.pause             yes/yes    -/-        -/-        -/-        yes/yes
    agents.resume            yes/yes    -/-        -/-        -/-        yes/yes
    agents.set_key           yes/yes    yes/-      -/-        -/-        yes/yes
    agents.heartbeat         yes/yes    yes/-      -/-        -/-        yes/yes
    agents.report_heartbeats -/-        -/-        -/-        -/-        yes/yes
    tokens.issue             yes/yes    -/-        -/-        -/-        yes/yes
    tokens.revoke            yes/yes    -/-        -/-        -/-        yes/yes
    registration_keys.manage yes/yes    -/-        -/-        -/-        yes/yes
    signing_keys.rotate      yes/yes    -/-        -/-        -/-        yes/yes
    access.read              -/-        -/-        -/-        -/-        yes/yes
    audit.record             -/-        -/-        -/-        -/-        yes/yes
    audit.read               yes/yes    -/-        -/-        -/-        yes/yes
    audit.verify             yes/yes    -/-        -/-        -/-        yes/yes
    messages.send            yes/yes    yes/-      -/-        -/-        yes/yes
    messages.take            yes/yes    yes/-      -/-        -/-        yes/yes
    messages.read            yes/yes    yes/-      -/-        -/-        yes/yes
    dead_letters.read        yes/yes    yes/-      -/-        -/-        yes/yes
    dead_letters.redrive     yes/yes    yes/-      -/-        -/-        yes/yes
    dead_letters.purge       yes/yes    yes/-      -/-        -/-        yes/yes
    messages.bring           -/-        -/-        -/-        -/-        yes/yes
    requests.send            yes/yes    yes/-      -/-        -/-        yes/yes
    requests.answer          yes/yes    yes/-      -/-        -/-        yes/yes
    sockets.open             yes/yes    yes/-      -/-        -/-        yes/yes
    topics.publish           yes/yes    yes/yes    -/-        -/-        yes/yes
    topics.read              yes/yes    yes/yes    yes/yes    -/-        yes/yes
    topics.subscribe         yes/yes    yes/-      -/-        -/-        yes/yes
    topics.manage            yes/yes    -/-        -/-        -/-        yes/yes
    resources.read           yes/yes    yes/yes    yes/yes    -/-        yes/yes
    tools.call               yes/yes    yes/yes    yes/yes    -/-        yes/yes
    ");
}
