//! Who hands out memory, in every program of the house; to SQLite as well, for C's own functions are replaced.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;
