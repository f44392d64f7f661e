//! A new migration is compiled in: without this, only changes of known files would be seen.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
