//! Everything in a file, looked at once.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use super::layout::{FIRST_PAGE, HEADER_BYTES, Kind};
use super::reader::{Block, Database, ReadError, Source, damaged};
use super::walk::Walk;

/// How deep buckets may lie: in the root, and not in one another. etcd's have none inside.
const NESTING_MAX: usize = 1;
/// Numbers of free pages that are read at a time.
const FREE_AT_ONCE: usize = 512;
/// The count of a free list that is longer than a page can say: its first number is the count.
const COUNT_FOLLOWS: u16 = u16::MAX;

/// Which pages of a file are in use.
pub(super) struct Marks(RefCell<Vec<u64>>);

impl Marks {
    fn new(pages: u64) -> Self {
        Self(RefCell::new(vec![0; pages.div_ceil(64) as usize]))
    }

    /// Notes that pages within the file are used.
    pub(super) fn mark(&self, first: u64, count: u64) -> Result<(), ReadError> {
        let mut words = self.0.borrow_mut();
        for page in first..first + count {
            let (word, bit) = (&mut words[(page / 64) as usize], 1 << (page % 64));
            if *word & bit != 0 {
                return damaged(format!("page {page} is used twice"));
            }
            *word |= bit;
        }
        Ok(())
    }

    fn is_marked(&self, page: u64) -> bool {
        self.0.borrow()[(page / 64) as usize] & (1 << (page % 64)) != 0
    }
}

/// Looks at every page: each is used once or free, keys ascend, and all that is named is there.
///
/// # Errors
/// The first thing that is damaged.
pub fn check<S: Source + ?Sized>(database: &Database<'_, S>) -> Result<(), ReadError> {
    let meta = database.meta();
    let marks = Marks::new(meta.pages);
    marks.mark(0, FIRST_PAGE)?;
    let root = database.page(meta.root)?;
    check_tree(&mut Walk::new(database, root, Some(&marks))?, 0)?;
    let Some(free_list) = meta.free_list else { return Ok(()) };
    let block = database.page(free_list)?;
    marks.mark(free_list, block.pages)?;
    check_free(database, &block, &marks)?;
    match (FIRST_PAGE..meta.pages).find(|&page| !marks.is_marked(page)) {
        Some(page) => damaged(format!("page {page} is neither used nor free")),
        None => Ok(()),
    }
}

fn check_tree<S: Source + ?Sized>(walk: &mut Walk<'_, '_, S>, nesting: usize) -> Result<(), ReadError> {
    if nesting > NESTING_MAX {
        return damaged("a bucket lies in a bucket, and those of etcd do not");
    }
    while walk.advance()? {
        if let Some(mut bucket) = walk.open_bucket()? {
            check_tree(&mut bucket, nesting + 1)?;
        }
    }
    Ok(())
}

fn check_free<S: Source + ?Sized>(
    database: &Database<'_, S>,
    block: &Block,
    marks: &Marks,
) -> Result<(), ReadError> {
    if block.kind != Kind::FreeList {
        return damaged(format!("page {} is no free list", block.page));
    }
    let mut at = HEADER_BYTES as u64;
    let mut left = u64::from(block.count);
    if block.count == COUNT_FOLLOWS {
        let mut count = [0; 8];
        database.read(block, at, &mut count)?;
        (left, at) = (u64::from_le_bytes(count), at + 8);
    }
    if left > (block.len - at) / 8 {
        return damaged(format!("page {} has no room for {left} free pages", block.page));
    }
    let mut numbers = vec![0; 8 * FREE_AT_ONCE];
    while left > 0 {
        let count = left.min(FREE_AT_ONCE as u64);
        let bytes = &mut numbers[..8 * count as usize];
        database.read(block, at, bytes)?;
        for number in bytes.as_chunks::<8>().0 {
            let page = u64::from_le_bytes(*number);
            if !(FIRST_PAGE..database.meta().pages).contains(&page) {
                return damaged(format!("page {page} is said to be free, and is not in the file"));
            }
            marks.mark(page, 1)?;
        }
        (left, at) = (left - count, at + 8 * count);
    }
    Ok(())
}
