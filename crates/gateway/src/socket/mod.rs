//! The live socket of an agent: `/ws/{agent_id}`.
