//! A file of buckets, counted first and then written.
#![forbid(unsafe_code)]

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::layout::{BUCKET_FLAG, FIRST_PAGE, KEY_BYTES_MAX, Layout, Meta, PAGE_BYTES, VALUE_BYTES_MAX};
use super::tree::{Pages, Tree};

/// Takes the pairs of a file in their order, twice: see the folder's page.
pub struct Writer {
    /// What the count has found; none while counting.
    planned: Option<Layout>,
    pages: Pages,
    top: Tree,
    bucket: Option<OpenBucket>,
    /// Of the bucket before.
    last_name: Vec<u8>,
}

struct OpenBucket {
    name: Vec<u8>,
    tree: Tree,
    last_key: Vec<u8>,
}

/// What makes no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// A key or the name of a bucket is not above the one before it, or is empty.
    Order,
    /// A key, a name or a value is longer than bbolt takes.
    TooLong,
    /// A pair stands outside of all buckets, or a value has another length than was said.
    Shape,
    /// What was written is not what was counted.
    Differs,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Order => "the keys of a bucket do not ascend",
            Self::TooLong => "a key or a value is longer than bbolt takes",
            Self::Shape => "a value has not the length that was said",
            Self::Differs => "what was written is not what was counted",
        })
    }
}

impl std::error::Error for WriteError {}

impl Writer {
    /// One that counts: values are not given to it, and it writes nothing.
    pub fn counting() -> Self {
        Self::with(None, None)
    }

    /// One that writes the pairs that were counted.
    pub fn new(planned: Layout) -> Self {
        let mut out = BytesMut::with_capacity(2 * PAGE_BYTES);
        Meta::pages_of(&planned).iter().for_each(|page| out.extend_from_slice(page));
        Self::with(Some(planned), Some(out))
    }

    fn with(planned: Option<Layout>, out: Option<BytesMut>) -> Self {
        let pages = Pages::new(FIRST_PAGE, out);
        Self { planned, pages, top: Tree::new(), bucket: None, last_name: Vec::new() }
    }

    /// Begins the next bucket.
    ///
    /// # Errors
    /// When its name is not above that of the bucket before, and when the last value is not complete.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.end_bucket()?;
        check_key(name, &self.last_name)?;
        keep(&mut self.last_name, name);
        self.bucket = Some(OpenBucket { name: name.to_vec(), tree: Tree::new(), last_key: Vec::new() });
        Ok(())
    }

    /// Begins the next pair of the bucket. Its value follows in [`Writer::value`], unless this is a count.
    ///
    /// # Errors
    /// When the key is not above the one before, and when the last value is not complete.
    pub fn pair(&mut self, key: &[u8], value_len: usize) -> Result<(), WriteError> {
        self.check_complete()?;
        let bucket = self.bucket.as_mut().ok_or(WriteError::Shape)?;
        check_key(key, &bucket.last_key)?;
        if value_len > VALUE_BYTES_MAX {
            return Err(WriteError::TooLong);
        }
        keep(&mut bucket.last_key, key);
        bucket.tree.pair(&mut self.pages, key, value_len, 0);
        Ok(())
    }

    /// The next part of the value of the pair that was begun last.
    ///
    /// # Errors
    /// When the value gets longer than was said.
    pub fn value(&mut self, part: &[u8]) -> Result<(), WriteError> {
        if self.planned.is_none() || part.is_empty() {
            return Ok(());
        }
        let bucket = self.bucket.as_mut().ok_or(WriteError::Shape)?;
        let is_taken = if self.pages.is_passing() { self.pages.pass(part) } else { bucket.tree.value(part) };
        if is_taken { Ok(()) } else { Err(WriteError::Shape) }
    }

    /// What was written since the last time. Nothing else of the file is held but pages that are open.
    pub fn take(&mut self) -> Bytes {
        let taken = |out: &mut BytesMut| std::mem::replace(out, BytesMut::with_capacity(out.len()));
        self.pages.out.as_mut().map_or_else(Bytes::new, |out| taken(out).freeze())
    }

    /// Bytes that [`Writer::take`] would return.
    pub fn written(&self) -> usize {
        self.pages.out.as_ref().map_or(0, BytesMut::len)
    }

    /// Ends the file; what is left of it is to be taken.
    ///
    /// # Errors
    /// When the last value is not complete, and when this is not the file that was counted.
    pub fn finish(&mut self) -> Result<Layout, WriteError> {
        self.end_bucket()?;
        let root = std::mem::replace(&mut self.top, Tree::new()).finish(&mut self.pages);
        let layout = Layout { root, pages: self.pages.next };
        let agrees = self.planned.is_none_or(|planned| planned == layout);
        if agrees { Ok(layout) } else { Err(WriteError::Differs) }
    }

    fn check_complete(&self) -> Result<(), WriteError> {
        let is_missing = |bucket: &OpenBucket| bucket.tree.is_value_missing();
        let is_writing = self.planned.is_some();
        let is_short = self.pages.is_passing() || self.bucket.as_ref().is_some_and(is_missing);
        if is_writing && is_short { Err(WriteError::Shape) } else { Ok(()) }
    }

    fn end_bucket(&mut self) -> Result<(), WriteError> {
        self.check_complete()?;
        let Some(OpenBucket { name, tree, .. }) = self.bucket.take() else { return Ok(()) };
        let bucket = tree.finish_bucket(&mut self.pages);
        self.top.pair(&mut self.pages, &name, bucket.value_len, BUCKET_FLAG);
        if self.planned.is_some() && !self.pages.pass(&bucket.value) {
            self.top.value(&bucket.value);
        }
        Ok(())
    }
}

fn check_key(key: &[u8], last: &[u8]) -> Result<(), WriteError> {
    if key.len() > KEY_BYTES_MAX {
        Err(WriteError::TooLong)
    } else if key <= last {
        Err(WriteError::Order)
    } else {
        Ok(())
    }
}

fn keep(last: &mut Vec<u8>, key: &[u8]) {
    last.clear();
    last.extend_from_slice(key);
}
