//! The contract of the port: the core, its client in process, its client over a socket, and behind faults; on the
//! embedded engines and on the distributed ones.

use guildhall_testkit::registry_contract;

mod embedded {
    use super::registry_contract;

    mod ways {
        use crate::stage::{Engines, in_process, over_tcp, stage, stage_over_faulty_agents};
        use guildhall_testkit::contract::registry::Stage;

        pub(super) async fn core() -> Option<Stage> {
            Some(stage(Engines::embedded()).await)
        }

        pub(super) async fn client_in_process() -> Option<Stage> {
            Some(in_process(core().await?))
        }

        pub(super) async fn client_over_tcp() -> Option<Stage> {
            Some(over_tcp(core().await?))
        }

        pub(super) async fn faulty() -> Option<Stage> {
            Some(core().await?.behind_faults(11))
        }

        pub(super) async fn over_a_faulty_store() -> Option<Stage> {
            Some(stage_over_faulty_agents(Engines::embedded()).await)
        }
    }

    registry_contract!(core, super::super::ways::core);
    registry_contract!(client_in_process, super::super::ways::client_in_process);
    registry_contract!(client_over_tcp, super::super::ways::client_over_tcp);
    registry_contract!(behind_faults, super::super::ways::faulty);
    registry_contract!(over_a_faulty_store, super::super::ways::over_a_faulty_store);
}

mod distributed {
    use super::registry_contract;

    mod ways {
        use crate::stage::{Engines, in_process, over_tcp, stage};
        use guildhall_testkit::contract::registry::Stage;

        pub(super) async fn core() -> Option<Stage> {
            Some(stage(Engines::distributed().await?).await)
        }

        pub(super) async fn client_in_process() -> Option<Stage> {
            Some(in_process(core().await?))
        }

        pub(super) async fn client_over_tcp() -> Option<Stage> {
            Some(over_tcp(core().await?))
        }

        pub(super) async fn faulty() -> Option<Stage> {
            Some(core().await?.behind_faults(11))
        }
    }

    registry_contract!(core, super::super::ways::core);
    registry_contract!(client_in_process, super::super::ways::client_in_process);
    registry_contract!(client_over_tcp, super::super::ways::client_over_tcp);
    registry_contract!(behind_faults, super::super::ways::faulty);
}
