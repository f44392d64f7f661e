//! What a topic accepts, and who wants which of its events.
//!
//! Both sorts of rule are written by agents and run by the hall, so both are bounded: a [`Filter`] is a CEL
//! expression whose text, depth, patterns and work have limits; a [`Schema`] is a JSON Schema that fetches nothing and
//! whose patterns take linear time.

mod filter;
mod schema;

pub use self::{
    filter::{Facts, Filter},
    schema::Schema,
};
