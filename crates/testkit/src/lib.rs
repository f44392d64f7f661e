//! Real engines, contract suites, a fixed clock, faults: what tests need.

pub mod contract;
pub mod fault;
