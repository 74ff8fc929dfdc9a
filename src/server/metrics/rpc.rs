//! The families of gRPC methods. Every method of the port has its series from the start, at zero.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::text::{Families, Type};
use crate::server::grpc::counters::{self, Counters, HANDLING_BOUNDS};
use crate::server::grpc::{Code, Method};

pub(super) fn write(families: &mut Families, cores: &[Arc<Counters>]) {
    for &method in Method::ALL {
        let sum = counters::sum(cores, method);
        let (name, service, kind) = (method.name(), method.service(), method.kind().label());
        let labels = [("grpc_method", name), ("grpc_service", service), ("grpc_type", kind)];
        for (family, help, count) in [
            ("grpc_server_started_total", "Calls begun.", sum.started),
            ("grpc_server_msg_received_total", "Messages received.", sum.received),
            ("grpc_server_msg_sent_total", "Messages sent.", sum.sent),
        ] {
            families.number(family, Type::Counter, help, &labels, count as f64);
        }
        for (&code, count) in Code::ALL.iter().zip(sum.handled) {
            let labels = [("grpc_code", code.label()), labels[0], labels[1], labels[2]];
            families.number(
                "grpc_server_handled_total",
                Type::Counter,
                "Calls ended.",
                &labels,
                count as f64,
            );
        }
    }
    handling(families, cores);
    let bytes = |read: fn(&Counters) -> u64| cores.iter().map(|core| read(core)).sum::<u64>() as f64;
    let received = bytes(|core| core.received_bytes.get());
    let name = "etcd_network_client_grpc_received_bytes_total";
    families.number(name, Type::Counter, "Bytes of messages from clients.", &[], received);
    let sent = bytes(|core| core.sent_bytes.get());
    let name = "etcd_network_client_grpc_sent_bytes_total";
    families.number(name, Type::Counter, "Bytes of messages to clients.", &[], sent);
}

/// How long calls took: a family that is there with `--metrics=extensive` alone.
fn handling(families: &mut Families, cores: &[Arc<Counters>]) {
    for &method in Method::ALL {
        let Some(sum) = counters::handling(cores, method) else { return };
        let labels = [
            ("grpc_method", method.name()),
            ("grpc_service", method.service()),
            ("grpc_type", method.kind().label()),
        ];
        let bounds = HANDLING_BOUNDS.iter().map(|micros| *micros as f64 / 1e6);
        let name = "grpc_server_handling_seconds";
        families.bounded(
            name,
            "Time of handling calls.",
            &labels,
            bounds,
            sum.buckets,
            sum.nanos as f64 / 1e9,
        );
    }
}
