//! Mailboxes, requests and topics.
