//! A Range answered at once: of one key, or known to be small.
#![forbid(unsafe_code)]

use bytes::{BufMut, Bytes, BytesMut};

use super::emission::{put_tail, tail_len};
use super::plan::Plan;
use super::query::Filter;
use crate::btree::Read;
use crate::error::Error;
use crate::mvcc::planned::Slices;
use crate::mvcc::view::View;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::range_request::SortTarget;
use crate::response::Header;
use crate::wire::{KeyValue, bytes_field_len, put_bytes_head};

/// A whole RangeResponse at once: for one key, and for answers known to be small.
pub fn answer<R: Read>(view: &View<'_, R>, header: &Header, request: &RangeRequest) -> Result<Bytes, Error> {
    if request.range_end.is_empty() {
        return answer_one(view, header, request);
    }
    let mut emission = Plan::new(view, request)?.finish(view)?;
    let mut out = BytesMut::with_capacity(emission.encoded_len(header));
    while !emission.emit(view, header, &mut out, usize::MAX)? {}
    Ok(out.freeze())
}

/// A Range of one key: neither order nor limit matter, and nothing is allocated but the answer.
fn answer_one<R: Read>(view: &View<'_, R>, header: &Header, request: &RangeRequest) -> Result<Bytes, Error> {
    let at = view.resolve(request.revision)?;
    let filter = Filter::of(request);
    let found = view.find(&request.key, at)?;
    let count = i64::from(found.is_some());
    let shown = found.filter(|found| !request.count_only && filter.passes(found.revision, &found.entry));
    let fixed = header.field_len(view.revision()) + tail_len(false, count);
    let Some(found) = shown else {
        let mut out = BytesMut::with_capacity(fixed);
        header.put_field(view.revision(), &mut out);
        put_tail(&mut out, false, count);
        return Ok(out.freeze());
    };
    let lease = request.sort_target() == SortTarget::Value;
    let keys_only = KeyValue {
        key: &request.key,
        create_revision: found.entry.create_revision,
        mod_revision: found.revision.main,
        version: found.entry.version,
        value: &[],
        lease: if lease { found.entry.lease } else { 0 },
    };
    let stored = if request.keys_only { None } else { Some(view.stored(found.revision)?) };
    if stored.is_some_and(|kv| kv.len() != found.entry.kv_len) {
        return Err(Error::Corrupt);
    }
    let len = stored.map_or_else(|| keys_only.encoded_len(), <[u8]>::len);
    let mut out = BytesMut::with_capacity(fixed + bytes_field_len(len));
    header.put_field(view.revision(), &mut out);
    put_bytes_head(&mut out, 2, len);
    match stored {
        Some(kv) => out.put_slice(kv),
        None => keys_only.encode(&mut out),
    }
    put_tail(&mut out, false, count);
    Ok(out.freeze())
}
