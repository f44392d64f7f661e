//! The door: MCP, REST, identity, limits, routing.
