//! Who may do what, what was done, and how secrets are kept.
