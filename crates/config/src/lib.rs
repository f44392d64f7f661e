//! guildhall.toml: defaults, file, environment, flags; every fault at once.
