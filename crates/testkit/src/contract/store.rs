//! What every database under the hall must do. An engine's crate stamps it with [`crate::store_contract`].

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

mod access;
mod agents;
mod audit;
mod chain;

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use guildhall_domain::{
    AgentId, AuditEntry, Principal, TenantId, Timestamp,
    ports::{AgentStore, AuditStore, MailStore, TopicStore},
};
use serde_json::json;

pub use self::{access::*, agents::*, audit::*, chain::*};
use crate::fault::{FaultPlan, Faulty};

/// Any moment would do.
pub(super) const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// One process on the database.
pub struct Replica {
    pub agents: Arc<dyn AgentStore>,
    pub audit: Arc<dyn AuditStore>,
    pub mail: Arc<dyn MailStore>,
    pub topics: Arc<dyn TopicStore>,
}

type Open = Box<dyn Fn(&str) -> Replica + Send + Sync>;

/// A migrated, empty database, and the way to open it as one more process.
pub struct Stage {
    open: Open,
    /// What must live as long as the test, such as the database's folder.
    _engine: Box<dyn Any + Send + Sync>,
    /// The seed of the next replica's faults.
    faults: Option<AtomicU64>,
}

impl Stage {
    /// `open`: the replica of this writer's name.
    pub fn new(
        open: impl Fn(&str) -> Replica + Send + Sync + 'static,
        engine: impl Any + Send + Sync + 'static,
    ) -> Self {
        Self { open: Box::new(open), _engine: Box::new(engine), faults: None }
    }

    /// The same database, with faults between it and whoever calls.
    pub fn behind_faults(self, seed: u64) -> Self {
        Self { faults: Some(AtomicU64::new(seed)), ..self }
    }

    pub(super) fn replica(&self, writer: &str) -> Replica {
        let bare = (self.open)(writer);
        let Some(seeds) = &self.faults else { return bare };
        let plan = || FaultPlan::seeded(seeds.fetch_add(1, Ordering::Relaxed));
        Replica {
            agents: Arc::new(Faulty::new(bare.agents, plan())),
            audit: Arc::new(Faulty::new(bare.audit, plan())),
            mail: Arc::new(Faulty::new(bare.mail, plan())),
            topics: Arc::new(Faulty::new(bare.topics, plan())),
        }
    }

    /// Whether an answer is that of the first and only attempt.
    pub(super) fn answers_once(&self) -> bool {
        self.faults.is_none()
    }
}

/// Stamps the whole suite for one engine, bare and behind faults. `$stage` names an async function that gives
/// `Option<Stage>`, `None` when the run goes without that engine.
#[macro_export]
macro_rules! store_contract {
    ($engine:ident, $stage:path) => {
        $crate::store_contract! {
            @stamp $engine, $stage,
            an_agent_reads_back_as_it_registered
            registering_again_keeps_what_is_not_said
            a_taken_id_is_refused_and_nothing_changes
            a_removed_agent_is_gone_and_comes_back_with_its_tokens_still_dead
            every_edit_shows_and_an_unknown_agent_is_none
            an_id_of_one_tenant_is_nobody_in_another
            changes_come_in_order_and_show_who_left
            changes_skip_none_while_replicas_write
            the_last_sign_of_life_only_rises_and_is_no_change
            access_is_given_once_a_version_and_shows_what_ended
            revoking_twice_is_no_error_and_an_unknown_agent_is_not_found
            an_expired_revocation_leaves_the_view
            one_of_many_replicas_replaces_the_signing_key
            a_signing_key_stays_good_for_the_overlap_and_then_goes
            a_registration_key_is_found_by_its_hash_and_belongs_to_its_tenant
            an_act_and_its_record_are_stored_together_or_not_at_all
            a_record_reads_back_with_a_hash_of_its_own_salt
            a_query_narrows_by_each_of_its_words
            numbers_have_no_gap_whatever_was_undone
            one_call_records_for_many_tenants
            replicas_of_one_name_do_not_share_an_epoch
            an_epoch_that_is_closed_is_followed_by_the_next
            sealing_orders_records_as_they_were_numbered
            a_sealed_record_reads_back_with_its_place_and_the_last_of_a_run_with_its_hash
            a_long_epoch_is_read_by_the_run
            a_seal_from_a_stale_head_is_refused_whole
            a_seal_of_a_record_that_is_not_there_is_refused_whole
            a_record_that_is_sealed_is_not_sealed_again
            two_sealers_at_once_make_one_chain
        }
    };
    (@stamp $engine:ident, $stage:path, $($test:ident)*) => {
        mod $engine {
            mod bare {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::store::$test(&stage).await;
                })*
            }

            mod behind_faults {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(stage) = $stage().await else { return };
                    $crate::contract::store::$test(&stage.behind_faults(1)).await;
                })*
            }
        }
    };
}

pub(super) fn hall() -> TenantId {
    TenantId::default()
}

pub(super) fn tenant(name: &str) -> TenantId {
    name.parse().expect("a test's tenant is well-formed")
}

pub(super) fn id(name: &str) -> AgentId {
    name.parse().expect("a test's agent id is well-formed")
}

/// An entry that names what was done to whom, and nothing else of interest.
pub(super) fn act(act: &str, target: &str) -> AuditEntry {
    act_in(&hall(), act, target)
}

pub(super) fn act_in(tenant: &TenantId, act: &str, target: &str) -> AuditEntry {
    let by = Principal::hall(tenant.clone(), "test");
    AuditEntry::done(&by, NOW, act, target, json!({ "said": "so" }))
}
