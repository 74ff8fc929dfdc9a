//! Reading values by revision, several at a time.
#![forbid(unsafe_code)]

use super::revision::Revision;
use super::schema::split_kv_value;
use super::view::View;
use crate::btree::{Finder, Leaf, Read, Tree, prefetch};
use crate::error::Error;

/// Values looked up at a time, at most: enough for memory to answer meanwhile, few enough to stay in the first cache.
pub(super) const BATCH: usize = 64;

/// How many values ahead of the one being copied memory is asked for.
const AHEAD: usize = 4;

/// A reader of values.
pub(super) struct Values<'a> {
    finder: Finder<'a>,
    found: Vec<&'a [u8]>,
}

impl<'a> Values<'a> {
    pub(super) fn new<R: Read>(view: &View<'a, R>) -> Self {
        Self { finder: view.read().finder(Tree::Kv), found: Vec::new() }
    }

    /// Shows `take` the encoded `KeyValue` of each of up to [`BATCH`] revisions, in their order, until it wants no
    /// more; how many it took.
    ///
    /// # Errors
    /// When one is not there or cannot be read: index and values are changed together, so one of them is damaged.
    pub(super) fn read(
        &mut self,
        revisions: &[Revision],
        mut take: impl FnMut(&'a [u8]) -> Result<bool, Error>,
    ) -> Result<usize, Error> {
        let mut leaves: [Option<Leaf<'a>>; BATCH] = [None; BATCH];
        for (leaf, revision) in leaves.iter_mut().zip(revisions) {
            *leaf = self.finder.leaf(&revision.to_bytes());
        }
        for (leaf, revision) in leaves.iter().zip(revisions) {
            if let Some(leaf) = leaf {
                leaf.prefetch(&revision.to_bytes());
            }
        }
        self.found.clear();
        for (leaf, revision) in leaves.iter().zip(revisions) {
            let Some(value) = leaf.and_then(|leaf| leaf.get(&revision.to_bytes())) else {
                return Err(Error::Corrupt);
            };
            self.found.push(value);
        }
        for (at, value) in self.found.iter().enumerate() {
            if let Some(value) = self.found.get(at + AHEAD) {
                prefetch(value);
            }
            if !take(split_kv_value(value)?.1)? {
                return Ok(at);
            }
        }
        Ok(self.found.len())
    }
}
