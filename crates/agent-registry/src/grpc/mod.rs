//! The port over the wire: a server around any implementation, and a client that is one.

mod client;
mod convert;
mod server;

use std::sync::Arc;

use guildhall_domain::ports::AgentRegistry;
use guildhall_proto::agent_registry::v1::{
    agent_registry_service_client::AgentRegistryServiceClient,
    agent_registry_service_server::AgentRegistryServiceServer,
};
use guildhall_rpc::{MESSAGE_MAX_BYTES, Transport};

use self::{client::Client, server::Server};

/// A page of 1,000 agents, each with all the metadata it may have, is 17 MB; an access view with 400,000 entries is
/// less than this as well. Requests are small.
const ANSWER_MAX_BYTES: usize = 32 * 1024 * 1024;

pub fn server(registry: Arc<dyn AgentRegistry>) -> AgentRegistryServiceServer<Server> {
    AgentRegistryServiceServer::new(Server::new(registry))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(ANSWER_MAX_BYTES)
}

pub fn client(transport: Transport) -> Arc<dyn AgentRegistry> {
    let client = AgentRegistryServiceClient::new(transport)
        .max_encoding_message_size(MESSAGE_MAX_BYTES)
        .max_decoding_message_size(ANSWER_MAX_BYTES);
    Arc::new(Client::new(client))
}
