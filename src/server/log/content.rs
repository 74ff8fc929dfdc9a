//! Requests as text, as Go prints the messages: fields by name, those at their default left out, bytes quoted. Values
//! are replaced by their sizes.
#![forbid(unsafe_code)]

use std::fmt::{Display, Write};

use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// A message being written.
#[derive(Default)]
struct Text(String);

impl Text {
    fn field(&mut self, name: &str, value: impl Display) {
        let separator = if self.0.is_empty() { "" } else { " " };
        let _ = write!(self.0, "{separator}{name}:{value}");
    }

    fn number(&mut self, name: &str, value: i64) {
        if value != 0 {
            self.field(name, value);
        }
    }

    fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.field(name, value);
        }
    }

    fn bytes(&mut self, name: &str, value: &[u8]) {
        if !value.is_empty() {
            self.field(name, quoted(value));
        }
    }

    /// An enum's value by name; one without a name by number.
    fn name(&mut self, name: &str, value: i32, known: Option<&str>) {
        match known {
            _ if value == 0 => {}
            Some(known) => self.field(name, known),
            None => self.field(name, value),
        }
    }
}

/// Bytes in quotes, those that do not print escaped.
fn quoted(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '"' | '\\' => out.extend(['\\', c]),
                c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                    let _ = write!(out, "\\x{:02x}", c as u32);
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

/// A Range.
pub fn range(request: &RangeRequest) -> String {
    let mut text = Text::default();
    text.bytes("key", &request.key);
    text.bytes("range_end", &request.range_end);
    text.number("limit", request.limit);
    text.number("revision", request.revision);
    let order = SortOrder::try_from(request.sort_order).ok();
    text.name("sort_order", request.sort_order, order.as_ref().map(SortOrder::as_str_name));
    let target = SortTarget::try_from(request.sort_target).ok();
    text.name("sort_target", request.sort_target, target.as_ref().map(SortTarget::as_str_name));
    text.flag("serializable", request.serializable);
    text.flag("keys_only", request.keys_only);
    text.flag("count_only", request.count_only);
    text.number("min_mod_revision", request.min_mod_revision);
    text.number("max_mod_revision", request.max_mod_revision);
    text.number("min_create_revision", request.min_create_revision);
    text.number("max_create_revision", request.max_create_revision);
    text.0
}

/// A put.
pub fn put(request: &PutRequest) -> String {
    let mut text = Text::default();
    text.bytes("key", &request.key);
    text.number("value_size", request.value.len() as i64);
    text.number("lease", request.lease);
    text.flag("prev_kv", request.prev_kv);
    text.flag("ignore_value", request.ignore_value);
    text.flag("ignore_lease", request.ignore_lease);
    text.0
}

/// A deletion.
pub fn delete(request: &DeleteRangeRequest) -> String {
    let mut text = Text::default();
    text.bytes("key", &request.key);
    text.bytes("range_end", &request.range_end);
    text.flag("prev_kv", request.prev_kv);
    text.0
}

/// A transaction.
pub fn txn(request: &TxnRequest) -> String {
    let compares: Vec<_> = request.compare.iter().map(compare).collect();
    let ops = |ops: &[RequestOp]| ops.iter().map(op).collect::<Vec<_>>().join(" ");
    let (success, failure) = (ops(&request.success), ops(&request.failure));
    format!("compare:<{}> success:<{success}> failure:<{failure}>", compares.join(" "))
}

fn op(op: &RequestOp) -> String {
    match &op.request {
        Some(Op::RequestRange(request)) => format!("request_range:{{{}}}", range(request)),
        Some(Op::RequestPut(request)) => format!("request_put:<{}>", put(request)),
        Some(Op::RequestDeleteRange(request)) => format!("request_delete_range:{{{}}}", delete(request)),
        Some(Op::RequestTxn(request)) => format!("request_txn:<{}>", txn(request)),
        None => String::new(),
    }
}

fn compare(compare: &Compare) -> String {
    let mut text = Text::default();
    let result = CompareResult::try_from(compare.result).ok();
    text.name("result", compare.result, result.as_ref().map(CompareResult::as_str_name));
    let target = CompareTarget::try_from(compare.target).ok();
    text.name("target", compare.target, target.as_ref().map(CompareTarget::as_str_name));
    text.bytes("key", &compare.key);
    match &compare.target_union {
        // An operand is shown also at zero: it is there or not.
        Some(TargetUnion::Version(version)) => text.field("version", version),
        Some(TargetUnion::CreateRevision(revision)) => text.field("create_revision", revision),
        Some(TargetUnion::ModRevision(revision)) => text.field("mod_revision", revision),
        Some(TargetUnion::Lease(lease)) => text.field("lease", lease),
        Some(TargetUnion::Value(value)) => text.number("value_size", value.len() as i64),
        None => {}
    }
    text.bytes("range_end", &compare.range_end);
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_show_what_is_not_default() {
        let request = RangeRequest {
            key: vec![b'a', b'"', 0, 0xff, 0xc3, 0xa9, b'\n'].into(),
            range_end: "b".into(),
            limit: 5,
            sort_order: SortOrder::Descend as i32,
            sort_target: 77,
            serializable: true,
            ..RangeRequest::default()
        };
        let text = "key:\"a\\\"\\x00\\xffé\\n\" range_end:\"b\" limit:5 sort_order:DESCEND sort_target:77 \
                    serializable:true";
        assert_eq!(range(&request), text);
        assert_eq!(range(&RangeRequest::default()), "");
    }

    #[test]
    fn values_are_sizes_wherever_they_stand() {
        let secret = || PutRequest { key: "k".into(), value: "secret".into(), ..PutRequest::default() };
        let put_op = RequestOp { request: Some(Op::RequestPut(secret())) };
        let nested = TxnRequest { failure: vec![put_op.clone()], ..TxnRequest::default() };
        let request = TxnRequest {
            compare: vec![
                Compare {
                    target: CompareTarget::Value as i32,
                    key: "k".into(),
                    target_union: Some(TargetUnion::Value("secret".into())),
                    ..Compare::default()
                },
                Compare {
                    result: CompareResult::Greater as i32,
                    key: "k".into(),
                    target_union: Some(TargetUnion::Version(0)),
                    ..Compare::default()
                },
            ],
            success: vec![put_op, RequestOp { request: Some(Op::RequestTxn(nested)) }],
            failure: vec![RequestOp {
                request: Some(Op::RequestRange(RangeRequest { key: "k".into(), ..Default::default() })),
            }],
        };
        assert_eq!(
            txn(&request),
            "compare:<target:VALUE key:\"k\" value_size:6 result:GREATER key:\"k\" version:0> \
             success:<request_put:<key:\"k\" value_size:6> request_txn:<compare:<> success:<> \
             failure:<request_put:<key:\"k\" value_size:6>>>> failure:<request_range:{key:\"k\"}>"
        );
    }
}
