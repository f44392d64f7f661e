//! The ports of mail and topics over the wire: a server around any implementation of both, and clients that are them.
//!
//! Within a process what is sent, taken and settled is handed over as it is, not written out and read again.

mod client;
mod convert;
mod server;
mod topics_client;
mod topics_server;

use std::sync::Arc;

use guildhall_domain::ports::{Mail, Topics};
use guildhall_proto::mail::v1::{
    mail_service_client::MailServiceClient, mail_service_server::MailServiceServer,
    topics_service_client::TopicsServiceClient, topics_service_server::TopicsServiceServer,
};
use guildhall_rpc::{Beside, MESSAGE_MAX_BYTES, Transport};

use self::{client::MailClient, server::MailServer, topics_client::TopicsClient, topics_server::TopicsServer};

/// Pages of history and of dead letters are the largest answers: each message may be 768 KiB. 10,000 subscribers with
/// the longest filters are less than this as well.
const ANSWER_MAX_BYTES: usize = 32 * 1024 * 1024;

/// Both services as one server; it may stand [`Beside`] another.
pub type Server = Beside<MailServiceServer<MailServer>, TopicsServiceServer<TopicsServer>>;

pub fn server(mail: Arc<dyn Mail>, topics: Arc<dyn Topics>) -> Server {
    let mail = MailServiceServer::new(MailServer::new(mail))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(ANSWER_MAX_BYTES);
    let topics = TopicsServiceServer::new(TopicsServer::new(topics))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(ANSWER_MAX_BYTES);
    Beside::new(mail, topics)
}

pub fn client(transport: Transport) -> (Arc<dyn Mail>, Arc<dyn Topics>) {
    let same_house = transport.is_in_process();
    let mail = MailServiceClient::new(transport.clone())
        .max_encoding_message_size(MESSAGE_MAX_BYTES)
        .max_decoding_message_size(ANSWER_MAX_BYTES);
    let topics = TopicsServiceClient::new(transport)
        .max_encoding_message_size(MESSAGE_MAX_BYTES)
        .max_decoding_message_size(ANSWER_MAX_BYTES);
    (Arc::new(MailClient::new(mail, same_house)), Arc::new(TopicsClient::new(topics)))
}
