//! Agents: who is here, what they can do, whether they are alive, their keys; and the audit chain.
