//! How one service calls another: transports, status, call context on the wire.
