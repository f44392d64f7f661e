//! Real engines, contract suites, a fixed clock, faults: what tests need.
