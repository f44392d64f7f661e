//! Scenarios over the whole program, each on both shapes.
