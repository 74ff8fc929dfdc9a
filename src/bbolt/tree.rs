//! One tree, laid out from its leaves up while its pairs come by.
#![forbid(unsafe_code)]

use bytes::{BufMut, BytesMut};

use super::layout::{BUCKET_BYTES, ELEMENT_BYTES, HEADER_BYTES, Header, INLINE_BYTES_MAX, Kind, PAGE_BYTES};

/// Where pages go: to the file, or nowhere while they are counted.
pub(super) struct Pages {
    /// The number of the next page.
    pub(super) next: u64,
    /// What was written and not taken yet; none in a count.
    pub(super) out: Option<BytesMut>,
    /// The long value that is passing through.
    long: Option<Long>,
}

/// A value that has a page with overflow for itself.
struct Long {
    /// Bytes of the value that are to come.
    left: usize,
    /// Zeros behind it.
    padding: usize,
}

impl Pages {
    pub(super) fn new(first: u64, out: Option<BytesMut>) -> Self {
        Self { next: first, out, long: None }
    }

    /// The numbers of as many pages as `bytes` bytes take: the first, and how many follow it.
    fn reserve(&mut self, bytes: usize) -> (u64, u32) {
        let (page, count) = (self.next, bytes.div_ceil(PAGE_BYTES));
        self.next += count as u64;
        (page, count as u32 - 1)
    }

    /// Writes a page, and returns its number.
    fn write(&mut self, page: &OpenPage) -> u64 {
        let bytes = page.bytes();
        let (number, overflow) = self.reserve(bytes);
        if let Some(out) = &mut self.out {
            page.put(number, overflow, out);
            out.put_bytes(0, bytes.next_multiple_of(PAGE_BYTES) - bytes);
        }
        number
    }

    /// Writes a leaf of one pair but for its value, which [`Pages::pass`] writes.
    fn write_long(&mut self, page: &OpenPage) -> u64 {
        let bytes = page.bytes();
        let (number, overflow) = self.reserve(bytes);
        if let Some(out) = &mut self.out {
            page.put(number, overflow, out);
            let padding = bytes.next_multiple_of(PAGE_BYTES) - bytes;
            match page.missing {
                0 => out.put_bytes(0, padding),
                left => self.long = Some(Long { left, padding }),
            }
        }
        number
    }

    /// Writes the next part of a long value. False when it is no part of one.
    pub(super) fn pass(&mut self, part: &[u8]) -> bool {
        let (Some(long), Some(out)) = (&mut self.long, &mut self.out) else { return false };
        let Some(left) = long.left.checked_sub(part.len()) else { return false };
        out.put_slice(part);
        long.left = left;
        if left == 0 {
            out.put_bytes(0, long.padding);
            self.long = None;
        }
        true
    }

    /// Whether a long value is not complete.
    pub(super) fn is_passing(&self) -> bool {
        self.long.is_some()
    }
}

struct Element {
    /// The flags of a leaf's pair.
    flags: u32,
    key_len: usize,
    value_len: usize,
    /// The page that a branch leads to.
    child: u64,
}

/// A page that may still take elements.
struct OpenPage {
    kind: Kind,
    elements: Vec<Element>,
    /// Keys and values, each value behind its key. In a count there are no values.
    data: Vec<u8>,
    /// Bytes of values that are not in `data`: all of them in a count, otherwise those to come.
    missing: usize,
}

impl OpenPage {
    fn new(kind: Kind) -> Self {
        Self { kind, elements: Vec::new(), data: Vec::new(), missing: 0 }
    }

    /// Length of the page if nothing else is added.
    fn bytes(&self) -> usize {
        HEADER_BYTES + ELEMENT_BYTES * self.elements.len() + self.data.len() + self.missing
    }

    fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    fn push(&mut self, key: &[u8], element: Element) {
        self.data.extend_from_slice(key);
        self.missing += element.value_len;
        self.elements.push(element);
    }

    fn first_key(&self) -> Vec<u8> {
        let len = self.elements.first().map_or(0, |element| element.key_len);
        self.data[..len].to_vec()
    }

    /// Appends all but the zeros at the end, and the values that are missing.
    fn put(&self, page: u64, overflow: u32, out: &mut BytesMut) {
        Header { page, flags: self.kind.flags(), count: self.elements.len() as u16, overflow }.put(out);
        let mut at = ELEMENT_BYTES * self.elements.len();
        for element in &self.elements {
            let [key_len, value_len] = [element.key_len, element.value_len].map(|len| len as u32);
            if self.kind == Kind::Leaf {
                [element.flags, at as u32, key_len, value_len].into_iter().for_each(|n| out.put_u32_le(n));
            } else {
                [at as u32, key_len].into_iter().for_each(|n| out.put_u32_le(n));
                out.put_u64_le(element.child);
            }
            // Positions count from the element itself.
            at = at + element.key_len + element.value_len - ELEMENT_BYTES;
        }
        out.put_slice(&self.data);
    }

    fn clear(&mut self) {
        self.elements.clear();
        self.data.clear();
        self.missing = 0;
    }
}

/// A tree that grows at its right end.
pub(super) struct Tree {
    leaf: OpenPage,
    /// First key and page of a leaf whose long value passes through, or has just done so: no page is written before all
    /// of it is.
    long: Option<(Vec<u8>, u64)>,
    /// The branches that lead to what is written, from the leaves up. Each page is open.
    branches: Vec<OpenPage>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { leaf: OpenPage::new(Kind::Leaf), long: None, branches: Vec::new() }
    }

    /// Begins a pair, whose key is above all before it. Its value follows, unless this is a count.
    pub(super) fn pair(&mut self, pages: &mut Pages, key: &[u8], value_len: usize, flags: u32) {
        self.end_long(pages);
        let bytes = ELEMENT_BYTES + key.len() + value_len;
        if !self.leaf.is_empty() && self.leaf.bytes() + bytes > PAGE_BYTES {
            self.close_leaf(pages);
        }
        self.leaf.push(key, Element { flags, key_len: key.len(), value_len, child: 0 });
        if self.leaf.bytes() > PAGE_BYTES {
            let page = pages.write_long(&self.leaf);
            self.long = Some((self.leaf.first_key(), page));
            self.leaf.clear();
        }
    }

    /// The next part of the value of the pair that was begun last. False when it has all of it.
    pub(super) fn value(&mut self, part: &[u8]) -> bool {
        let Some(missing) = self.leaf.missing.checked_sub(part.len()) else { return false };
        self.leaf.data.extend_from_slice(part);
        self.leaf.missing = missing;
        true
    }

    /// Whether a value is not complete. Not to be asked in a count.
    pub(super) fn is_value_missing(&self) -> bool {
        self.leaf.missing > 0
    }

    fn close_leaf(&mut self, pages: &mut Pages) {
        let (page, key) = (pages.write(&self.leaf), self.leaf.first_key());
        self.leaf.clear();
        self.lead_to(pages, 0, &key, page);
    }

    fn end_long(&mut self, pages: &mut Pages) {
        if let Some((key, page)) = self.long.take() {
            self.lead_to(pages, 0, &key, page);
        }
    }

    /// Has the branch of that level lead to a page whose first key is `key`.
    fn lead_to(&mut self, pages: &mut Pages, level: usize, key: &[u8], child: u64) {
        if level == self.branches.len() {
            self.branches.push(OpenPage::new(Kind::Branch));
        }
        let branch = &mut self.branches[level];
        let bytes = branch.bytes() + ELEMENT_BYTES + key.len();
        // With two children at least, a level has at most half as many pages as the one below it.
        if branch.elements.len() >= 2 && bytes > PAGE_BYTES {
            self.close_branch(pages, level);
        }
        let element = Element { flags: 0, key_len: key.len(), value_len: 0, child };
        self.branches[level].push(key, element);
    }

    fn close_branch(&mut self, pages: &mut Pages, level: usize) {
        let branch = &mut self.branches[level];
        let page = pages.write(branch);
        let key = branch.first_key();
        branch.clear();
        self.lead_to(pages, level + 1, &key, page);
    }

    /// Ends the tree, whose pages may be anywhere, and returns the root's page.
    pub(super) fn finish(mut self, pages: &mut Pages) -> u64 {
        self.end_long(pages);
        if self.branches.is_empty() {
            return pages.write(&self.leaf);
        }
        if !self.leaf.is_empty() {
            self.close_leaf(pages);
        }
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.branches.len();
            match &self.branches[level].elements[..] {
                [only] if is_top => return only.child,
                _ => self.close_branch(pages, level),
            }
            level += 1;
        }
    }

    /// Ends the tree of a bucket, and returns the value that leads to it from its parent.
    pub(super) fn finish_bucket(self, pages: &mut Pages) -> Bucket {
        let is_inline = self.branches.is_empty() && self.long.is_none();
        if is_inline && self.leaf.bytes() <= INLINE_BYTES_MAX {
            let mut value = BytesMut::with_capacity(BUCKET_BYTES + self.leaf.bytes());
            value.put_bytes(0, BUCKET_BYTES);
            self.leaf.put(0, 0, &mut value);
            return Bucket { value_len: BUCKET_BYTES + self.leaf.bytes(), value };
        }
        let mut value = BytesMut::with_capacity(BUCKET_BYTES);
        value.put_u64_le(self.finish(pages));
        value.put_u64_le(0);
        Bucket { value_len: BUCKET_BYTES, value }
    }
}

/// What leads to a bucket.
pub(super) struct Bucket {
    pub(super) value_len: usize,
    /// Shorter than `value_len` in a count.
    pub(super) value: BytesMut,
}
