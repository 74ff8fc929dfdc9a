//! Compiles `proto/etcd/*.proto` with protox, a protobuf compiler in Rust: no protoc is needed.
//!
//! Every `bytes` field becomes `bytes::Bytes`, so that decoding a request shares the frame it came in. Beside the types
//! goes a table of all messages and their fields, for code that reads messages field by field.

use protox::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use protox::prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Error, Result};
use std::path::Path;

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
    let descriptors = protox::compile(FILES, ["proto/etcd"]).map_err(Error::other)?;
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| Error::other("cargo sets OUT_DIR"))?;
    std::fs::write(Path::new(&out).join("fields.rs"), fields(&descriptors))?;
    prost_build::Config::new().bytes(["."]).enable_type_names().compile_fds(descriptors)
}

/// Messages by their full names.
type Messages<'d> = BTreeMap<String, &'d DescriptorProto>;

/// The table `MESSAGES`, in order of names.
fn fields(descriptors: &FileDescriptorSet) -> String {
    let mut messages = Messages::new();
    for file in &descriptors.file {
        for message in &file.message_type {
            collect(message, file.package(), &mut messages);
        }
    }
    let mut table = format!("pub static MESSAGES: [Message; {}] = [\n", messages.len());
    for (name, message) in &messages {
        let fields: String = message.field.iter().map(|field| entry(field, &messages)).collect();
        let _ = writeln!(table, "    Message {{ name: {name:?}, fields: &[{fields}] }},");
    }
    table + "];\n"
}

fn collect<'d>(message: &'d DescriptorProto, scope: &str, messages: &mut Messages<'d>) {
    let name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        collect(nested, &name, messages);
    }
    messages.insert(name, message);
}

fn entry(field: &FieldDescriptorProto, messages: &Messages<'_>) -> String {
    const LENGTH: u8 = 1 << 2;
    let (wire_type, is_scalar) = match field.r#type() {
        Type::Double | Type::Fixed64 | Type::Sfixed64 => (1 << 1, true),
        Type::Float | Type::Fixed32 | Type::Sfixed32 => (1 << 5, true),
        Type::String | Type::Bytes | Type::Message => (LENGTH, false),
        Type::Group => (1 << 3, false),
        _ => (1, true),
    };
    // Numbers of a list may come one by one or together.
    let packed = if is_scalar && field.label() == Label::Repeated { LENGTH } else { 0 };
    let index = messages.keys().position(|name| field.type_name().strip_prefix('.') == Some(name));
    let message = index.filter(|_| field.r#type() == Type::Message);
    format!(
        "Field {{ number: {}, wire_types: {}, message: {message:?} }}, ",
        field.number(),
        wire_type | packed
    )
}
