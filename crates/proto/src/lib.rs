//! Generated gRPC types. Nothing by hand.
