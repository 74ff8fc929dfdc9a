//! The generated types of `proto/etcd`, one module per protobuf package.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::all, clippy::pedantic)]

macro_rules! packages {
    ($($module:ident = $package:literal),* $(,)?) => {
        $(pub mod $module { include!(concat!(env!("OUT_DIR"), "/", $package, ".rs")); })*
    };
}

packages! {
    authpb = "authpb",
    etcdserverpb = "etcdserverpb",
    health = "grpc.health.v1",
    leasepb = "leasepb",
    membershippb = "membershippb",
    mvccpb = "mvccpb",
    v3electionpb = "v3electionpb",
    v3lockpb = "v3lockpb",
}
