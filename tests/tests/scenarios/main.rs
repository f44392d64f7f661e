//! What a hall must do, seen from outside, on both shapes. One binary, because each one links the world.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agents;
mod audit;
mod bad_input;
mod bad_socket;
mod clients;
mod commands;
mod conformance;
mod engines;
mod faults;
mod identity;
mod life;
mod limits;
mod mail;
mod mail_commands;
mod mail_tools;
mod mcp_new;
mod mcp_old;
mod presence;
mod requests;
mod resources;
mod sockets;
mod tokens;
mod tools;
mod topics;
mod webhooks;

/// A scenario that is stamped by hand could run on one shape only.
#[test]
fn every_scenario_is_listed_for_both_shapes() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut looked_at = 0;
    for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        let stamped_by_hand = concat!("#[tokio", "::test");
        assert!(!text.contains(stamped_by_hand), "{}: list it in scenarios! instead", file.display());
        looked_at += 1;
    }
    assert!(looked_at > 10, "the scenarios have moved");
}
