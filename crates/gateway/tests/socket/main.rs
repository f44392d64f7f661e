//! Live sockets over real ones: a registry and mail over SQLite, the embedded bus, one gateway or two.

mod around;
mod client;
mod deaf;
mod frames;
mod load;
mod mail;
mod several;
mod stage;
mod streams;
