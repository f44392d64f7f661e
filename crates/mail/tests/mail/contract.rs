//! The contract of the ports: the core, the clients in process and over a socket, and behind faults; on the embedded
//! engines and on the distributed ones.

use std::any::Any;

use guildhall_mail::grpc;
use guildhall_rpc::{RemoteOptions, ServeOptions, Transport, serve};
use guildhall_runtime::{Listener, Shutdown};
use guildhall_testkit::{contract::mail as contract, mail_contract};
use tokio_util::task::AbortOnDropHandle;

use crate::stage::{BOUND, Engines, Replica};

async fn stage(engines: Engines) -> contract::Stage {
    let (here, there) = engines.replicas().await;
    let ports = |replica: &Replica| contract::Replica {
        mail: replica.mail.clone(),
        topics: replica.topics.clone(),
        registry: replica.registry.clone(),
    };
    contract::Stage {
        here: ports(&here),
        there: ports(&there),
        clock: engines.clock.clone(),
        mailbox_holds: usize::try_from(BOUND.messages).unwrap(),
        is_faulty: false,
        engines: Box::new((here, there, engines)),
    }
}

fn in_process(stage: contract::Stage) -> contract::Stage {
    let client = |replica: contract::Replica| {
        let (mail, topics) = grpc::client(Transport::in_process(grpc::server(replica.mail, replica.topics)));
        contract::Replica { mail, topics, ..replica }
    };
    contract::Stage { here: client(stage.here), there: client(stage.there), ..stage }
}

fn over_tcp(stage: contract::Stage) -> contract::Stage {
    let mut keep: Vec<Box<dyn Any + Send + Sync>> = vec![stage.engines];
    let mut client = |replica: contract::Replica| {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), "test").unwrap();
        let address = format!("http://{}", listener.address());
        let server = grpc::server(replica.mail, replica.topics);
        keep.push(Box::new(AbortOnDropHandle::new(tokio::spawn(async move {
            serve(listener, server, ServeOptions::default(), &Shutdown::default()).await.unwrap();
        }))));
        let (mail, topics) = grpc::client(Transport::remote([address], RemoteOptions::new("mail")).unwrap());
        contract::Replica { mail, topics, ..replica }
    };
    let (here, there) = (client(stage.here), client(stage.there));
    contract::Stage { here, there, engines: Box::new(keep), ..stage }
}

mod embedded {
    use super::mail_contract;

    mod ways {
        use guildhall_testkit::contract::mail::Stage;

        use super::super::{in_process, over_tcp, stage};
        use crate::stage::Engines;

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
            Some(in_process(core().await?).behind_faults(11))
        }
    }

    mail_contract!(core, super::super::ways::core);
    mail_contract!(client_in_process, super::super::ways::client_in_process);
    mail_contract!(client_over_tcp, super::super::ways::client_over_tcp);
    mail_contract!(behind_faults, super::super::ways::faulty);
}

mod distributed {
    use super::mail_contract;

    mod ways {
        use guildhall_testkit::contract::mail::Stage;

        use super::super::{over_tcp, stage};
        use crate::stage::Engines;

        pub(super) async fn client_over_tcp() -> Option<Stage> {
            Some(over_tcp(stage(Engines::distributed().await?).await))
        }

        pub(super) async fn faulty() -> Option<Stage> {
            Some(client_over_tcp().await?.behind_faults(23))
        }
    }

    mail_contract!(client_over_tcp, super::super::ways::client_over_tcp);
    mail_contract!(behind_faults, super::super::ways::faulty);
}
