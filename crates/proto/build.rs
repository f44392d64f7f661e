//! Turns `proto/` into Rust with a compiler written in Rust, so that no machine needs protoc.

use std::{error::Error, path::Path};

const FILES: [&str; 4] = [
    "guildhall/agent_registry/v1/agent_registry.proto",
    "guildhall/call/v1/call.proto",
    "guildhall/mail/v1/mail.proto",
    "guildhall/mail/v1/topics.proto",
];

/// Messages that hold a secret: their `Debug` is in `secrets.rs` and hides it.
const SECRET_MESSAGES: [&str; 5] = [
    "guildhall.agent_registry.v1.IssuedToken",
    "guildhall.agent_registry.v1.RegisterRequest",
    "guildhall.agent_registry.v1.RegisterResponse",
    "guildhall.agent_registry.v1.WebhookSecretResponse",
    "guildhall.agent_registry.v1.CreateRegistrationKeyResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = protox::compile(FILES, [&root])?;
    tonic_prost_build::configure().skip_debug(SECRET_MESSAGES).compile_fds(files)?;
    Ok(())
}
