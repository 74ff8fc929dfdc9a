//! Requests as text, as Go prints the messages: fields by name, those at their default left out, bytes quoted. Values
//! are replaced by their sizes. What is shown is bounded, whatever the request: a long key is cut, a long list too.
#![forbid(unsafe_code)]

use std::fmt::{Display, Write};

use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// Bytes of a key that are shown. A longer key is cut, and its length follows.
const KEY_SHOWN_MAX: usize = 1024;
/// Bytes of text from which on a list ends with the number of its items that are not shown. An item is at most about
/// ten kilobytes long, which is a comparison of two keys that do not print.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// A Range.
pub fn range(request: &RangeRequest) -> String {
    text(|text| text.range(request))
}

/// A put.
pub fn put(request: &PutRequest) -> String {
    text(|text| text.put(request))
}

/// A deletion.
pub fn delete(request: &DeleteRangeRequest) -> String {
    text(|text| text.delete(request))
}

/// A transaction.
pub fn txn(request: &TxnRequest) -> String {
    text(|text| text.txn(request))
}

/// How many pairs each Range of a transaction has found.
pub fn counts(kvs: &[u64]) -> String {
    text(|text| text.list(kvs, |text, kvs| text.field("range_response_count", kvs)))
}

fn text(write: impl FnOnce(&mut Text)) -> String {
    let mut text = Text::default();
    write(&mut text);
    text.out
}

/// Messages being written.
#[derive(Default)]
struct Text {
    out: String,
    /// The message under way has a field already.
    begun: bool,
}

impl Text {
    fn field(&mut self, name: &str, value: impl Display) {
        let separator = if std::mem::replace(&mut self.begun, true) { " " } else { "" };
        let _ = write!(self.out, "{separator}{name}:{value}");
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

    /// Items with a space in between, as many as there is room for.
    fn list<T>(&mut self, items: &[T], show: impl Fn(&mut Self, &T)) {
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push(' ');
            }
            if self.out.len() >= TEXT_BYTES_MAX {
                let _ = write!(self.out, "... ({} more)", items.len() - at);
                return;
            }
            self.begun = false;
            show(self, item);
        }
    }

    /// A message in brackets.
    fn message(&mut self, open: &str, close: char, show: impl FnOnce(&mut Self)) {
        self.out.push_str(open);
        self.begun = false;
        show(self);
        self.out.push(close);
    }

    fn range(&mut self, request: &RangeRequest) {
        self.bytes("key", &request.key);
        self.bytes("range_end", &request.range_end);
        self.number("limit", request.limit);
        self.number("revision", request.revision);
        let order = SortOrder::try_from(request.sort_order).ok();
        self.name("sort_order", request.sort_order, order.as_ref().map(SortOrder::as_str_name));
        let target = SortTarget::try_from(request.sort_target).ok();
        self.name("sort_target", request.sort_target, target.as_ref().map(SortTarget::as_str_name));
        self.flag("serializable", request.serializable);
        self.flag("keys_only", request.keys_only);
        self.flag("count_only", request.count_only);
        self.number("min_mod_revision", request.min_mod_revision);
        self.number("max_mod_revision", request.max_mod_revision);
        self.number("min_create_revision", request.min_create_revision);
        self.number("max_create_revision", request.max_create_revision);
    }

    fn put(&mut self, request: &PutRequest) {
        self.bytes("key", &request.key);
        self.number("value_size", request.value.len() as i64);
        self.number("lease", request.lease);
        self.flag("prev_kv", request.prev_kv);
        self.flag("ignore_value", request.ignore_value);
        self.flag("ignore_lease", request.ignore_lease);
    }

    fn delete(&mut self, request: &DeleteRangeRequest) {
        self.bytes("key", &request.key);
        self.bytes("range_end", &request.range_end);
        self.flag("prev_kv", request.prev_kv);
    }

    fn txn(&mut self, request: &TxnRequest) {
        self.message("compare:<", '>', |text| text.list(&request.compare, Self::compare));
        self.message(" success:<", '>', |text| text.list(&request.success, Self::op));
        self.message(" failure:<", '>', |text| text.list(&request.failure, Self::op));
    }

    fn op(&mut self, op: &RequestOp) {
        match &op.request {
            Some(Op::RequestRange(request)) => {
                self.message("request_range:{", '}', |text| text.range(request))
            }
            Some(Op::RequestPut(request)) => self.message("request_put:<", '>', |text| text.put(request)),
            Some(Op::RequestDeleteRange(request)) => {
                self.message("request_delete_range:{", '}', |text| text.delete(request));
            }
            Some(Op::RequestTxn(request)) => self.message("request_txn:<", '>', |text| text.txn(request)),
            None => {}
        }
    }

    fn compare(&mut self, compare: &Compare) {
        let result = CompareResult::try_from(compare.result).ok();
        self.name("result", compare.result, result.as_ref().map(CompareResult::as_str_name));
        let target = CompareTarget::try_from(compare.target).ok();
        self.name("target", compare.target, target.as_ref().map(CompareTarget::as_str_name));
        self.bytes("key", &compare.key);
        match &compare.target_union {
            // An operand is shown also at zero: it is there or not.
            Some(TargetUnion::Version(version)) => self.field("version", version),
            Some(TargetUnion::CreateRevision(revision)) => self.field("create_revision", revision),
            Some(TargetUnion::ModRevision(revision)) => self.field("mod_revision", revision),
            Some(TargetUnion::Lease(lease)) => self.field("lease", lease),
            Some(TargetUnion::Value(value)) => self.number("value_size", value.len() as i64),
            None => {}
        }
        self.bytes("range_end", &compare.range_end);
    }
}

/// Bytes in quotes, those that do not print escaped. A character that the cut goes through is shown by its bytes.
fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(KEY_SHOWN_MAX)];
    let mut out = String::with_capacity(shown.len() + 2);
    out.push('"');
    for chunk in shown.utf8_chunks() {
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
    if shown.len() < bytes.len() {
        let _ = write!(out, "...({} bytes)", bytes.len());
    }
    out
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

    #[test]
    fn a_long_key_is_cut_and_its_length_said() {
        let shown = |key: Vec<u8>| put(&PutRequest { key: key.into(), ..PutRequest::default() });
        assert_eq!(shown(vec![b'k'; KEY_SHOWN_MAX]), format!("key:\"{}\"", "k".repeat(KEY_SHOWN_MAX)));
        let long = shown(vec![b'k'; KEY_SHOWN_MAX + 1]);
        assert_eq!(long, format!("key:\"{}\"...(1025 bytes)", "k".repeat(KEY_SHOWN_MAX)));
        let escaped = shown(vec![0xff; 2 << 20]);
        assert_eq!(escaped, format!("key:\"{}\"...(2097152 bytes)", "\\xff".repeat(KEY_SHOWN_MAX)));
    }

    #[test]
    fn a_long_transaction_is_cut_at_every_depth() {
        let key = vec![0xff; 3000];
        let compare =
            Compare { key: key.clone().into(), range_end: key.clone().into(), ..Compare::default() };
        let read = RangeRequest { key: key.into(), ..RangeRequest::default() };
        let mut ops = vec![RequestOp { request: Some(Op::RequestRange(read)) }; 500];
        for _ in 0..5 {
            let compare = vec![compare.clone(); 100];
            let nested = TxnRequest { compare, success: ops.clone(), failure: ops };
            ops = vec![RequestOp { request: Some(Op::RequestTxn(nested)) }];
        }
        let request = TxnRequest { compare: vec![compare; 1000], success: ops.clone(), failure: ops };
        let shown = txn(&request);
        assert!(shown.len() < TEXT_BYTES_MAX + 10_000, "{} bytes", shown.len());
        assert!(
            shown.ends_with(" ... (992 more)> success:<... (1 more)> failure:<... (1 more)>"),
            "{}",
            &shown[TEXT_BYTES_MAX..]
        );
        assert!(counts(&vec![1; 300_000]).len() < TEXT_BYTES_MAX + 100);
        assert_eq!(counts(&[3, 0]), "range_response_count:3 range_response_count:0");
    }
}
