//! That a store is the snapshot of a leader: what a start goes by when the log does not lead to the store.
#![forbid(unsafe_code)]

use crate::btree::{Read, Tree, WriteTxn};

const KEY: &[u8] = b"snapshot_installed";

/// Notes that the store has in it the snapshot whose last entry has this index and term.
pub fn note(txn: &mut WriteTxn<'_>, index: u64, term: u64) {
    txn.put(Tree::Meta, KEY, &[index.to_be_bytes(), term.to_be_bytes()].concat());
}

/// Index and term of the last entry in the snapshot that the store is, if nothing was applied to it since.
pub fn read(read: &impl Read) -> Option<(u64, u64)> {
    let (numbers, rest) = read.get(Tree::Meta, KEY)?.as_chunks::<8>();
    let [index, term] = *numbers else { return None };
    let (index, term) = (u64::from_be_bytes(index), u64::from_be_bytes(term));
    let applied = read.applied();
    (rest.is_empty() && (index, term) == (applied.index, applied.term)).then_some((index, term))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::{Applied, Store};

    #[test]
    fn a_store_that_has_gone_on_is_like_any_other() {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        assert_eq!(read(&txn), None);
        note(&mut txn, 7, 3);
        for (index, term, found) in [(7, 3, Some((7, 3))), (8, 3, None), (7, 4, None)] {
            txn.set_applied(Applied { index, term, ..Applied::default() });
            assert_eq!(read(&txn), found);
        }
    }
}
