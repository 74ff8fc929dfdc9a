//! A walk over what a transaction does: the operations of the branch that it takes, and in their place those of the
//! transactions nested in it.
#![forbid(unsafe_code)]

use super::txn::branch;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{RequestOp, TxnRequest};

/// Where a walk goes on. It borrows nothing, so it outlives the slice of work in which it was reached.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// The branch of the outermost transaction is known.
    begun: bool,
    inner: Level,
    /// The transactions around, the outermost first.
    outer: Vec<Level>,
}

/// How far one transaction has come.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    succeeded: bool,
    /// Number of the next operation, or of the nested transaction that is walked over.
    next: usize,
}

/// What a walk stands before. It stays there until it is told to go on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Visit<'r> {
    /// A transaction whose branch is to be told ([`OpWalk::enter`]). The outermost one is the first.
    Enter(&'r TxnRequest),
    /// The end of a nested transaction ([`OpWalk::advance`]).
    Leave,
    /// An operation that is no transaction ([`OpWalk::advance`]).
    Op(&'r RequestOp),
}

/// The walk, within one slice of work.
pub(super) struct OpWalk<'r, 'p> {
    root: &'r TxnRequest,
    place: &'p mut Position,
    inner: &'r TxnRequest,
    /// The transactions of [`Position::outer`].
    outer: Vec<&'r TxnRequest>,
}

impl<'r, 'p> OpWalk<'r, 'p> {
    /// Goes on at `place`, which belongs to this very transaction.
    pub fn resume(root: &'r TxnRequest, place: &'p mut Position) -> Self {
        let mut inner = root;
        let mut outer = Vec::new();
        for level in &place.outer {
            outer.push(inner);
            inner = nested(&branch(inner, level.succeeded)[level.next]).unwrap_or(inner);
        }
        Self { root, place, inner, outer }
    }

    /// What comes next; none at the end.
    pub fn peek(&self) -> Option<Visit<'r>> {
        if !self.place.begun {
            return Some(Visit::Enter(self.root));
        }
        let Level { succeeded, next } = self.place.inner;
        let inner = self.inner;
        match branch(inner, succeeded).get(next) {
            Some(op) => Some(nested(op).map_or(Visit::Op(op), Visit::Enter)),
            None if self.outer.is_empty() => None,
            None => Some(Visit::Leave),
        }
    }

    /// Whether the transaction to be entered is the outermost.
    pub fn is_at_root(&self) -> bool {
        !self.place.begun
    }

    /// Goes into the transaction that the walk stands before, which takes this branch.
    pub fn enter(&mut self, into: &'r TxnRequest, succeeded: bool) {
        if std::mem::replace(&mut self.place.begun, true) {
            self.place.outer.push(self.place.inner);
            self.outer.push(self.inner);
        }
        self.place.inner = Level { succeeded, next: 0 };
        self.inner = into;
    }

    /// Goes past an operation, or out of a nested transaction that is at its end.
    pub fn advance(&mut self) {
        let is_at_end = branch(self.inner, self.place.inner.succeeded).len() == self.place.inner.next;
        if is_at_end && let (Some(level), Some(inner)) = (self.place.outer.pop(), self.outer.pop()) {
            (self.place.inner, self.inner) = (level, inner);
        }
        self.place.inner.next += 1;
    }
}

fn nested(op: &RequestOp) -> Option<&TxnRequest> {
    match &op.request {
        Some(Op::RequestTxn(nested)) => Some(nested),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::PutRequest;

    fn put(key: &'static str) -> RequestOp {
        RequestOp { request: Some(Op::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() })) }
    }

    fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
        TxnRequest { success, failure, ..TxnRequest::default() }
    }

    #[test]
    fn a_walk_goes_on_wherever_it_stopped() {
        let op = |nested| RequestOp { request: Some(Op::RequestTxn(nested)) };
        let deep = txn(vec![put("never")], vec![put("c"), op(txn(vec![], vec![])), put("d")]);
        let request = txn(vec![put("a"), op(txn(vec![put("b"), op(deep)], vec![])), put("e")], vec![]);
        for steps in [1, 2, 3, usize::MAX] {
            let (mut place, mut seen) = (Position::default(), String::new());
            'walk: loop {
                let mut walk = OpWalk::resume(&request, &mut place);
                for _ in 0..steps {
                    match walk.peek() {
                        None => break 'walk,
                        Some(Visit::Enter(into)) => {
                            seen.push('(');
                            walk.enter(into, into.failure.is_empty());
                        }
                        Some(Visit::Leave) => {
                            seen.push(')');
                            walk.advance();
                        }
                        Some(Visit::Op(op)) => {
                            let Some(Op::RequestPut(put)) = &op.request else { panic!("no put") };
                            seen.push_str(std::str::from_utf8(&put.key).unwrap());
                            walk.advance();
                        }
                    }
                }
            }
            assert_eq!(seen, "(a(b(c()d))e", "in legs of {steps}");
        }
    }
}
