//! The `kevel` server.

fn main() {}
