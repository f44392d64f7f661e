//! Generated gRPC types, from the files in `proto/`. By hand is only the `Debug` of messages that hold a secret.

#![expect(unused_qualifications, clippy::allow_attributes, reason = "generated code keeps its own style")]

mod secrets;

pub mod call {
    pub mod v1 {
        tonic::include_proto!("guildhall.call.v1");
    }
}

pub mod agent_registry {
    pub mod v1 {
        tonic::include_proto!("guildhall.agent_registry.v1");
    }
}

pub mod mail {
    pub mod v1 {
        tonic::include_proto!("guildhall.mail.v1");
    }
}
