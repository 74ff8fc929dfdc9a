//! Compiles `proto/etcd/*.proto` with protox, a protobuf compiler in Rust: no protoc is needed.
//!
//! Every `bytes` field becomes `bytes::Bytes`, so that decoding a request shares the frame it came in.

use std::io::Result;

const FILES: [&str; 9] = [
    "kv.proto",
    "auth.proto",
    "membership.proto",
    "rpc.proto",
    "raft_internal.proto",
    "lease.proto",
    "v3lock.proto",
    "v3election.proto",
    "health.proto",
];

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=proto/etcd");
    println!("cargo:rerun-if-changed=proto/build.rs");
    // See src/server/io/rings.rs.
    println!("cargo:rustc-link-arg=-Wl,--wrap=io_uring_queue_init_params");
    println!("cargo:rustc-link-arg=-Wl,--wrap=getrlimit64");
    let descriptors = protox::compile(FILES, ["proto/etcd"]).map_err(std::io::Error::other)?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)
}
