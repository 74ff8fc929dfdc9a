//! What can be said about a request before it is proposed: etcd's checks, in its order, with its errors.
#![forbid(unsafe_code)]

use super::duplicate_keys;
use super::range::is_default_ordering;
use crate::error::Error;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    AlarmRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest,
};
use crate::stdx::pace::{AtOnce, at_once};

/// Checks a Range.
pub fn range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Checks a RangeStream.
pub fn range_stream(request: &RangeRequest) -> Result<(), Error> {
    range(request)?;
    if !is_default_ordering(request) {
        return Err(Error::RangeStreamSort);
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filters != [0; 4] {
        return Err(Error::RangeStreamFilter);
    }
    Ok(())
}

/// Checks a Put.
pub fn put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        Err(Error::EmptyKey)
    } else if request.ignore_value && !request.value.is_empty() {
        Err(Error::ValueProvided)
    } else if request.ignore_lease && request.lease != 0 {
        Err(Error::LeaseProvided)
    } else {
        Ok(())
    }
}

/// Checks a DeleteRange.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks an Alarm.
pub fn alarm(request: &AlarmRequest) -> Result<(), Error> {
    AlarmAction::try_from(request.action).map_or(Err(Error::UnknownAlarmAction), |_| Ok(()))
}

/// Checks a Txn against the limit on operations.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    txn_fields(request, max_ops)?;
    at_once(duplicate_keys::check(request, &AtOnce))
}

/// The part of [`txn`] that looks at each operation by itself.
pub fn txn_fields(request: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > max_ops {
        return Err(Error::TooManyOps);
    }
    request.compare.iter().try_for_each(compare)?;
    for op in request.success.iter().chain(&request.failure) {
        let request = op.request.as_ref().ok_or(Error::KeyNotFound)?;
        operation(request)?;
        if let Op::RequestTxn(nested) = request {
            // A nested transaction gets what its parent has left.
            txn_fields(nested, max_ops - ops)?;
        }
    }
    Ok(())
}

/// Checks a condition of a Txn.
pub fn compare(compare: &Compare) -> Result<(), Error> {
    if compare.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks an operation of a Txn, but for what is nested in it.
pub fn operation(request: &Op) -> Result<(), Error> {
    match request {
        Op::RequestRange(request) => range(request),
        Op::RequestPut(request) => put(request),
        Op::RequestDeleteRange(request) => delete_range(request),
        Op::RequestTxn(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::RequestOp;
    use crate::stdx::pace::testing::EachStep;

    fn op(request: Op) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn put(key: &str) -> RequestOp {
        let key = key.as_bytes().to_vec().into();
        op(Op::RequestPut(PutRequest { key, ..PutRequest::default() }))
    }

    fn delete(key: &str, range_end: &str) -> RequestOp {
        let [key, range_end] = [key, range_end].map(|bytes| bytes.as_bytes().to_vec().into());
        op(Op::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false }))
    }

    fn branches(success: &[RequestOp], failure: &[RequestOp]) -> TxnRequest {
        let (success, failure) = (success.to_vec(), failure.to_vec());
        TxnRequest { success, failure, ..TxnRequest::default() }
    }

    fn nested(success: &[RequestOp], failure: &[RequestOp]) -> RequestOp {
        op(Op::RequestTxn(branches(success, failure)))
    }

    fn verdict(ops: &[RequestOp]) -> Result<(), Error> {
        let verdict = txn(&branches(ops, &[]), 128);
        assert_eq!(txn(&branches(&[], ops), 128), verdict, "both branches are judged alike");
        if txn_fields(&branches(ops, &[]), 128).is_ok() {
            let pausing = at_once(duplicate_keys::check(&branches(ops, &[]), &EachStep::default()));
            assert_eq!(pausing, verdict, "whatever the pace");
        }
        verdict
    }

    #[test]
    fn a_key_is_written_once_as_far_as_etcd_can_see() {
        let duplicate = Err(Error::DuplicateKey);
        assert_eq!(verdict(&[put("a"), put("a")]), duplicate);
        assert_eq!(verdict(&[put("a"), put("b"), delete("c", "d")]), Ok(()));
        assert_eq!(verdict(&[put("a"), delete("a", "")]), duplicate);
        assert_eq!(verdict(&[delete("a", "c"), put("b")]), duplicate);
        assert_eq!(verdict(&[delete("a", "c"), put("c")]), Ok(()));
        assert_eq!(
            verdict(&[delete("a", "m"), delete("c", "z"), delete("q", "")]),
            Ok(()),
            "deletes overlap"
        );
        assert_eq!(verdict(&[delete("a", "m"), delete("c", "z"), put("y")]), duplicate);
        assert_eq!(verdict(&[delete("b", "c"), delete("a", "b"), delete("c", "d"), put("a")]), duplicate);
        assert_eq!(verdict(&[delete("a", ""), put("a\0")]), Ok(()), "a point is no more than a point");
    }

    #[test]
    fn what_is_nested_deep_costs_no_more_than_side_by_side() {
        let mut next = 0;
        let mut leaf = |count: usize| -> Vec<RequestOp> {
            let mut key = || {
                next += 1;
                format!("{next:07}")
            };
            (0..count).map(|n| if n % 2 == 0 { put(&key()) } else { delete(&key(), "") }).collect()
        };
        // Each of 120 levels has to be compared with all of the 60 000 operations below it.
        let mut ops = leaf(60_000);
        for _ in 0..120 {
            let more = leaf(4);
            ops = [vec![nested(&ops, &[])], more].concat();
        }
        let began = std::time::Instant::now();
        assert_eq!(txn(&branches(&ops, &[]), 100_000), Ok(()));
        // A check that adds all operations to a new set at each level takes a quarter of a minute.
        assert!(began.elapsed() < std::time::Duration::from_secs(3), "{:?}", began.elapsed());
    }

    #[test]
    fn branches_of_one_nested_transaction_exclude_each_other_but_siblings_do_not() {
        let duplicate = Err(Error::DuplicateKey);
        assert_eq!(verdict(&[nested(&[put("a")], &[put("a")])]), Ok(()));
        assert_eq!(verdict(&[nested(&[put("a")], &[delete("a", "")])]), Ok(()));
        assert_eq!(verdict(&[nested(&[put("a")], &[]), nested(&[], &[put("a")])]), duplicate);
        assert_eq!(verdict(&[nested(&[put("a")], &[put("a")]), put("a")]), duplicate);
        assert_eq!(verdict(&[nested(&[delete("a", "c")], &[]), put("b")]), duplicate);
        assert_eq!(verdict(&[nested(&[put("b")], &[]), delete("a", "c")]), duplicate);
        assert_eq!(verdict(&[nested(&[delete("a", "c")], &[]), nested(&[put("b")], &[])]), duplicate);
    }

    #[test]
    fn what_etcd_does_not_see_passes() {
        assert_eq!(verdict(&[nested(&[put("b")], &[]), nested(&[delete("a", "c")], &[])]), Ok(()));
        assert_eq!(verdict(&[delete("a", "\0"), put("b")]), Ok(()));
        assert_eq!(verdict(&[delete("z", "a"), put("b"), put("z")]), Ok(()));
    }

    #[test]
    fn operations_are_counted_down_the_nesting() {
        let puts = |count: usize| (0..count).map(|i| put(&format!("{i}"))).collect::<Vec<_>>();
        assert_eq!(verdict(&puts(128)), Ok(()));
        assert_eq!(verdict(&puts(129)), Err(Error::TooManyOps));
        assert_eq!(verdict(&[nested(&puts(127), &[])]), Ok(()));
        assert_eq!(verdict(&[nested(&puts(128), &[])]), Err(Error::TooManyOps));
        assert_eq!(verdict(&[nested(&[nested(&puts(126), &[])], &[])]), Ok(()));
        assert_eq!(verdict(&[nested(&[nested(&puts(127), &[])], &[])]), Err(Error::TooManyOps));
    }

    #[test]
    fn fields_are_checked_in_etcds_order() {
        assert_eq!(verdict(&[RequestOp { request: None }]), Err(Error::KeyNotFound));
        assert_eq!(verdict(&[put("")]), Err(Error::EmptyKey));
        assert_eq!(verdict(&[delete("", "a")]), Err(Error::EmptyKey));
        let request = PutRequest {
            key: "a".into(),
            value: "v".into(),
            lease: 1,
            ignore_value: true,
            ignore_lease: true,
            prev_kv: false,
        };
        assert_eq!(super::put(&request), Err(Error::ValueProvided));
        assert_eq!(super::put(&PutRequest { value: "".into(), ..request }), Err(Error::LeaseProvided));
        let request = RangeRequest { sort_order: 3, ..RangeRequest::default() };
        assert_eq!(range(&request), Err(Error::EmptyKey));
        let request = RangeRequest { key: "a".into(), ..request };
        assert_eq!(range(&request), Err(Error::InvalidSortOption));
        let request = RangeRequest { sort_order: 2, max_mod_revision: 1, ..request };
        assert_eq!(range_stream(&request), Err(Error::RangeStreamSort));
        let request = RangeRequest { sort_order: 0, sort_target: 4, ..request };
        assert_eq!(range_stream(&request), Err(Error::RangeStreamFilter));
    }

    #[test]
    fn refusals_are_etcds_word_for_word() {
        let code = |error: Error| (error.code() as u8, error.message());
        let bare = |result: Result<(), Error>| code(result.expect_err("refused"));
        let key = PutRequest { key: "k".into(), ..PutRequest::default() };
        let ranged = RangeRequest { key: "k".into(), ..RangeRequest::default() };
        for (said, expected) in [
            (bare(range(&RangeRequest::default())), (3, "etcdserver: key is not provided")),
            (
                bare(range(&RangeRequest { sort_target: 9, ..ranged.clone() })),
                (3, "etcdserver: invalid sort option"),
            ),
            (bare(super::put(&PutRequest::default())), (3, "etcdserver: key is not provided")),
            (
                bare(super::put(&PutRequest { value: "v".into(), ignore_value: true, ..key.clone() })),
                (3, "etcdserver: value is provided"),
            ),
            (
                bare(super::put(&PutRequest { lease: 1, ignore_lease: true, ..key.clone() })),
                (3, "etcdserver: lease is provided"),
            ),
            (bare(delete_range(&DeleteRangeRequest::default())), (3, "etcdserver: key is not provided")),
            (bare(verdict(&[put("a"), put("a")])), (3, "etcdserver: duplicate key given in txn request")),
            (
                bare(txn(&branches(&[put("a")], &[]), 0)),
                (3, "etcdserver: too many operations in txn request"),
            ),
            (bare(verdict(&[RequestOp { request: None }])), (3, "etcdserver: key not found")),
        ] {
            assert_eq!(said, expected);
        }
        assert_eq!(super::put(&key), Ok(()));
        assert_eq!(range(&ranged), Ok(()));
        // What is wrong on its own is not looked at: revisions and limits are judged when reading.
        assert_eq!(range(&RangeRequest { revision: -1, limit: -1, ..ranged }), Ok(()));
    }
}
