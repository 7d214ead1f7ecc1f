//! The `spantap` command.
fn main() {}
