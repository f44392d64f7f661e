//! The program: the command line, and the one place that knows which shape runs.

fn main() {}
