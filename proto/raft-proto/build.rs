//! Compiles `eraftpb.proto` with protox; every `bytes` field becomes `bytes::Bytes`.

use std::io::{Error, Result};

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=eraftpb.proto");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(["eraftpb.proto"], ["."]).map_err(Error::other)?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)
}
