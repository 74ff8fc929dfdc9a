//! The pairs of one tree, from the first to the last.
#![forbid(unsafe_code)]

use super::check::Marks;
use super::layout::{BUCKET_FLAG, Kind};
use super::reader::{Block, Database, Element, ReadError, Source, damaged};

/// The longest value that is read as a whole.
const READ_BYTES_MAX: u64 = 128 << 20;
/// Levels of a tree. bbolt gives a branch two children at least, so that no file has more.
const DEPTH_MAX: usize = 64;

/// A page on the way to the pair.
struct Level {
    block: Block,
    /// Elements that were taken.
    taken: u16,
    /// Where the data of the last one of them ends. bbolt writes the data of elements in their order, so what lies
    /// before that belongs to no other element: a page has no more data than bytes, also in buckets that lie within.
    end: u64,
}

/// A walk over one tree. It ends for any bytes: it counts the pages that it comes to, and a tree has no page twice.
pub struct Walk<'d, 's, S: Source + ?Sized> {
    database: &'d Database<'s, S>,
    /// The way to the leaf.
    path: Vec<Level>,
    /// Pages that it came to.
    seen: u64,
    /// Where each of them is to be marked.
    marks: Option<&'d Marks>,
    /// The pair that it is at.
    element: Element,
    key: Vec<u8>,
    /// The key that is being read.
    next_key: Vec<u8>,
    /// No key may be below it: the key of the branch that led here.
    floor: Vec<u8>,
    is_begun: bool,
}

impl<'d, 's, S: Source + ?Sized> Walk<'d, 's, S> {
    pub(super) fn new(
        database: &'d Database<'s, S>,
        root: Block,
        marks: Option<&'d Marks>,
    ) -> Result<Self, ReadError> {
        let mut walk = Self {
            database,
            path: Vec::new(),
            seen: 0,
            marks,
            element: Element::default(),
            key: Vec::new(),
            next_key: Vec::new(),
            floor: Vec::new(),
            is_begun: false,
        };
        walk.enter(root)?;
        Ok(walk)
    }

    /// To the next pair; false at the end.
    ///
    /// # Errors
    /// What is damaged.
    pub fn advance(&mut self) -> Result<bool, ReadError> {
        while let Some(Level { block, taken, end }) = self.path.last_mut() {
            if *taken == block.count {
                self.path.pop();
                continue;
            }
            let index = *taken;
            *taken += 1;
            let (is_leaf, page) = (block.kind == Kind::Leaf, block.page);
            let element = self.database.element(block, index)?;
            if element.key_at < *end {
                return damaged(format!("page {page}: element {index} lies within the one before it"));
            }
            *end = element.key_at + element.key_len + element.value_len;
            self.next_key.resize(element.key_len as usize, 0);
            self.database.read(block, element.key_at, &mut self.next_key)?;
            // The first pair of a leaf may have the key of the branch that led to it.
            let is_above = !self.is_begun || self.next_key > self.key;
            if !is_above || self.next_key < self.floor || self.next_key.is_empty() {
                return damaged(format!("page {page}: key {index} is not above the one before it"));
            }
            if is_leaf {
                (self.element, self.is_begun) = (element, true);
                std::mem::swap(&mut self.key, &mut self.next_key);
                return Ok(true);
            }
            std::mem::swap(&mut self.floor, &mut self.next_key);
            let child = self.database.page(element.child)?;
            if child.kind == Kind::FreeList || child.count == 0 {
                return damaged(format!(
                    "page {page}: child {index} is page {}, which is no node",
                    child.page
                ));
            }
            self.enter(child)?;
        }
        Ok(false)
    }

    fn enter(&mut self, block: Block) -> Result<(), ReadError> {
        let page = block.page;
        if block.kind == Kind::FreeList || (block.kind == Kind::Branch && block.count == 0) {
            return damaged(format!("page {page} is the root of a tree and no node"));
        }
        self.seen += block.pages;
        if self.path.len() == DEPTH_MAX || self.seen > self.database.meta().pages {
            return damaged(format!("page {page}: a tree leads back to itself"));
        }
        if let Some(marks) = self.marks {
            marks.mark(page, block.pages)?;
        }
        self.path.push(Level { block, taken: 0, end: 0 });
        Ok(())
    }

    /// The key of the pair.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether the pair is a bucket.
    pub fn is_bucket(&self) -> bool {
        self.element.flags & BUCKET_FLAG != 0
    }

    /// Length of the pair's value.
    pub fn value_len(&self) -> u64 {
        self.element.value_len
    }

    /// Reads all of the pair's value, which has to be one that a request can have brought.
    ///
    /// # Errors
    /// When it is longer, and what the source answers.
    pub fn read_value(&self, into: &mut Vec<u8>) -> Result<(), ReadError> {
        let len = self.element.value_len;
        if len > READ_BYTES_MAX {
            let page = self.path.last().map_or(0, |level| level.block.page);
            return damaged(format!("page {page}: a value has {len} bytes, and no request has so many"));
        }
        into.resize(len as usize, 0);
        self.value(0, into)
    }

    /// Reads a part of the pair's value: as many bytes as `into` has, `from` bytes behind its beginning.
    ///
    /// # Errors
    /// When it has no such part, and what the source answers.
    pub fn value(&self, from: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let Some(Level { block: leaf, .. }) = self.path.last() else {
            return damaged("there is no pair at the end of a tree");
        };
        let end = from.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.element.value_len) {
            return damaged(format!("page {}: a value has {} bytes", leaf.page, self.element.value_len));
        }
        self.database.read(leaf, self.element.key_at + self.element.key_len + from, into)
    }

    /// A walk over the pairs of the bucket that this walk is at; none if it is at no bucket.
    ///
    /// # Errors
    /// What is damaged.
    pub fn open_bucket(&self) -> Result<Option<Walk<'d, 's, S>>, ReadError> {
        let Some(Level { block: leaf, .. }) = self.path.last().filter(|_| self.is_bucket()) else {
            return Ok(None);
        };
        let value_at = self.element.key_at + self.element.key_len;
        let root = self.database.bucket_at(leaf, value_at, self.element.value_len)?;
        Walk::new(self.database, root, self.marks).map(Some)
    }
}
