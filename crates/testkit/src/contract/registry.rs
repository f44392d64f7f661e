//! What the registry of agents must do, on every way to it: the core, its client in process and over a socket, and
//! behind faults. Always with two replicas over the same engines. Stamped with [`crate::registry_contract`].

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

pub mod agents;
pub mod audit;
pub mod identity;
pub mod presence;

use std::{any::Any, sync::Arc};

use guildhall_domain::{
    AccessView, Agent, AgentId, Call, Clock, Error, ErrorCode, NewAgent, Principal, PrincipalKind, Result, TenantId,
    Timestamp,
    ports::{
        AgentRegistry, Bus,
        agent_registry::{Registration, RegistrationRight},
    },
    principal::roles,
};

use super::{eventually, insist};
use crate::{
    clock::FixedClock,
    fault::{FaultPlan, Faulty},
};

/// Two replicas under test, and what is around them.
pub struct Stage {
    pub here: Arc<dyn AgentRegistry>,
    pub there: Arc<dyn AgentRegistry>,
    pub bus: Arc<dyn Bus>,
    /// The clock of both replicas. Their loops run in real time and look at it.
    pub clock: Arc<FixedClock>,
    /// How a gateway judges a token.
    pub judge: fn(&str, &AccessView, Timestamp) -> Result<Principal>,
    /// Calls may be lost or repeated, and reads may be old.
    pub is_faulty: bool,
    /// What must live as long as the test, such as the engines' processes.
    pub engines: Box<dyn Any + Send + Sync>,
}

impl Stage {
    pub fn behind_faults(self, seed: u64) -> Self {
        let faulty = |registry, seed| Arc::new(Faulty::<dyn AgentRegistry>::new(registry, FaultPlan::seeded(seed)));
        Self { here: faulty(self.here, seed), there: faulty(self.there, seed + 1), is_faulty: true, ..self }
    }

    async fn register(&self, call: &Call, new: &NewAgent) -> Result<Registration> {
        insist(|| async { self.here.register(call, new.clone(), RegistrationRight::Caller).await }).await
    }

    /// What a read finds at once; where reads may be old, what it finds in the end.
    async fn finds<T, F: Future<Output = Result<Option<T>>>>(&self, what: &str, look: impl Fn() -> F) -> T {
        if self.is_faulty {
            return eventually(what, look).await;
        }
        look().await.expect(what).expect(what)
    }

    async fn sees(
        &self,
        registry: &dyn AgentRegistry,
        id: &str,
        what: &str,
        is: impl Fn(&Agent) -> bool,
    ) -> Arc<Agent> {
        let look = || async { Ok(found(registry, id).await?.filter(|agent| is(agent))) };
        self.finds(what, look).await
    }

    /// Waits until both replicas have it so.
    async fn both_come_to_see(&self, id: &str, what: &str, is: impl Fn(&Agent) -> bool) {
        for registry in [&self.here, &self.there] {
            eventually(what, || async { Ok(found(&**registry, id).await?.filter(|agent| is(agent))) }).await;
        }
    }

    /// What a gateway at the replica makes of a token, once that is as it should be; within the 5 s of the contract.
    async fn judged(
        &self,
        registry: &dyn AgentRegistry,
        token: &str,
        what: &str,
        is: impl Fn(&Result<Principal>) -> bool,
    ) -> Result<Principal> {
        let look = || async {
            let view = registry.access(&hall(), None).await?.expect("a caller that knows no view is given one");
            let judged = (self.judge)(token, &view, self.clock.now());
            Ok(is(&judged).then_some(judged))
        };
        tokio::time::timeout(std::time::Duration::from_secs(5), eventually(what, look)).await.expect(what)
    }
}

/// Stamps the whole suite. `$stage` names an async function that gives `Option<Stage>`, `None` when the run goes
/// without its engines.
#[macro_export]
macro_rules! registry_contract {
    ($way:ident, $stage:path) => {
        mod $way {
            $crate::registry_contract! {
                @stamp $stage, agents,
                a_whole_record_travels_and_comes_back_as_it_was
                registering_again_updates_what_is_said_and_keeps_the_rest
                who_registers_on_one_replica_is_listed_by_the_other_at_once
                a_list_is_filtered_counted_and_paged_in_the_order_of_ids
                nothing_of_one_tenant_is_seen_from_another
                a_removed_agent_is_gone_from_every_replica
                bad_input_is_refused_whole
                where_mail_is_brought_is_shown_to_the_agent_itself_and_to_administrators_alone
                who_wants_webhooks_says_where_and_has_a_secret_of_its_own
                changes_are_announced_with_the_record
            }
            $crate::registry_contract! {
                @stamp $stage, identity,
                a_token_from_registration_is_good_at_every_replica
                an_id_that_is_taken_is_not_stolen
                roles_are_granted_and_never_claimed
                a_narrow_token_does_not_widen_by_registering_again
                a_registration_key_lets_new_agents_in_until_it_ends
                a_pause_reaches_every_replica_and_names_its_reason
                removal_and_revocation_end_tokens_at_every_replica
                a_token_may_be_issued_to_an_agent_that_is_yet_to_come
                a_rotated_key_leaves_old_tokens_good_for_the_overlap
                an_access_view_is_given_once_and_then_only_when_it_changes
                nobody_does_what_its_roles_do_not_allow
            }
            $crate::registry_contract! {
                @stamp $stage, presence,
                silence_turns_to_idle_and_offline_and_is_announced_once
                a_heartbeat_on_one_replica_is_seen_by_the_other
                an_agent_says_that_it_is_busy_and_that_it_is_no_longer
                a_change_right_after_joining_is_announced
                signs_of_strangers_and_from_the_future_change_nothing
            }
            $crate::registry_contract! {
                @stamp $stage, audit,
                acts_and_refused_attempts_are_in_a_chain_that_holds
                entries_of_a_service_are_kept_for_their_tenant
            }
        }
    };
    (@stamp $stage:path, $chapter:ident, $($test:ident)*) => {
        mod $chapter {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let Some(stage) = $stage().await else { return };
                $crate::contract::registry::$chapter::$test(&stage).await;
            })*
        }
    };
}

fn id(id: &str) -> AgentId {
    AgentId::new(id).unwrap()
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn admin() -> Call {
    admin_of("default")
}

fn admin_of(name: &str) -> Call {
    Call::new(Principal::new(tenant(name), PrincipalKind::Person, "operator", [roles::ADMIN]))
}

fn agent(id: &str) -> Call {
    agent_with(id, &[roles::AGENT])
}

fn agent_with(id: &str, roles: &[&str]) -> Call {
    Call::new(Principal::new(TenantId::default(), PrincipalKind::Agent, id, roles.iter().copied()))
}

fn hall() -> Call {
    Call::new(Principal::hall(TenantId::default(), "gateway"))
}

fn named(name: &str) -> NewAgent {
    NewAgent::named(id(name), format!("The agent {name}"))
}

/// As an administrator sees it; `None` when there is none.
async fn found(registry: &dyn AgentRegistry, name: &str) -> Result<Option<Arc<Agent>>> {
    match registry.get(&admin(), &id(name)).await {
        Ok(agent) => Ok(Some(agent)),
        Err(error) if error.code == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[track_caller]
fn refused<T>(answer: Result<T>, code: ErrorCode) -> Error {
    match answer {
        Ok(_) => panic!("it was allowed; {code} was expected"),
        Err(error) => {
            assert_eq!(error.code, code, "{error}");
            error
        }
    }
}
