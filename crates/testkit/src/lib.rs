//! Real engines, contract suites, a fixed clock, faults: what tests need.

pub mod baseline;
pub mod clock;
pub mod contract;
pub mod engines;
pub mod entropy;
pub mod fault;
