//! Opening a file, and reading its pages with every number in them checked.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;

use super::layout::{
    BUCKET_BYTES, ELEMENT_BYTES, FIRST_PAGE, HEADER_BYTES, Header, KEY_BYTES_MAX, Kind, META_BYTES, Meta,
    NoMeta, halves,
};
use super::walk::Walk;

/// The bytes of a file.
pub trait Source {
    /// How many there are.
    fn bytes(&self) -> u64;

    /// Fills `into` with the bytes from `offset` on, which are there.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl Source for [u8] {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|from| self.get(from..)?.get(..into.len()));
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Why a file cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// The disk's fault.
    Io(io::Error),
    /// It is no file of bbolt, or it is damaged; the text says where.
    Damaged(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "reading the database: {error}"),
            Self::Damaged(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An error that says what is damaged.
pub(super) fn damaged<T>(what: impl Into<String>) -> Result<T, ReadError> {
    Err(ReadError::Damaged(what.into()))
}

/// A file that was opened.
pub struct Database<'s, S: Source + ?Sized> {
    source: &'s S,
    meta: Meta,
}

/// The bytes of a page that bbolt makes on any system.
const PAGE_BYTES_MIN: u32 = 512;
const PAGE_BYTES_MAX: u32 = 64 << 10;

impl<'s, S: Source + ?Sized> Database<'s, S> {
    /// Reads the meta that counts.
    ///
    /// # Errors
    /// When neither meta can be used, and when the file is shorter than it says.
    pub fn open(source: &'s S) -> Result<Self, ReadError> {
        let first = read_meta(source, 0)?;
        let second = match first {
            Ok(meta) => read_meta(source, u64::from(meta.page_bytes))?,
            // Where the second meta lies is what the first one would say.
            Err(_) => second_meta(source)?,
        };
        let meta = match (first, second) {
            (Ok(first), Ok(second)) => {
                Ok(if first.transaction >= second.transaction { first } else { second })
            }
            (Ok(meta), Err(_)) | (Err(_), Ok(meta)) => Ok(meta),
            (Err(why), Err(_)) => Err(why),
        };
        let meta = match meta {
            Ok(meta) => meta,
            Err(NoMeta::Magic) => return damaged("this is no file of bbolt: it begins with no meta page"),
            Err(NoMeta::Checksum) => {
                return damaged("both meta pages are damaged: they fail their checksums");
            }
            Err(NoMeta::Version(version)) => {
                return damaged(format!("the file has version {version} of its format, known is version 2"));
            }
        };
        check_meta(&meta, source.bytes())?;
        Ok(Self { source, meta })
    }

    /// What the file says about itself.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// A walk over the buckets.
    ///
    /// # Errors
    /// When the root's page is damaged.
    pub fn buckets(&self) -> Result<Walk<'_, 's, S>, ReadError> {
        Walk::new(self, self.page(self.meta.root)?, None)
    }

    /// A walk over the pairs of the bucket of that name; none if there is no such bucket.
    ///
    /// # Errors
    /// When the way to it is damaged.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Walk<'_, 's, S>>, ReadError> {
        let mut buckets = self.buckets()?;
        while buckets.advance()? {
            if buckets.key() == name {
                return buckets.open_bucket();
            }
        }
        Ok(None)
    }

    /// A page with all that belongs to it.
    pub(super) fn page(&self, page: u64) -> Result<Block, ReadError> {
        if page < FIRST_PAGE || page >= self.meta.pages {
            return damaged(format!("page {page} is named, and the file has {} pages", self.meta.pages));
        }
        let page_bytes = u64::from(self.meta.page_bytes);
        let mut head = vec![0; page_bytes as usize];
        self.source.read_at(page * page_bytes, &mut head)?;
        let header = header_of(&head);
        if header.page != page {
            return damaged(format!("page {page} says that it is page {}", header.page));
        }
        let behind = u64::from(header.overflow);
        if behind >= self.meta.pages - page {
            return damaged(format!("page {page} goes beyond the end of the file"));
        }
        let Some(kind) = Kind::from_flags(header.flags) else {
            return damaged(format!("page {page} is of no known kind ({:#x})", header.flags));
        };
        let at = page * page_bytes;
        Block { page, pages: 1 + behind, kind, count: header.count, at, len: (1 + behind) * page_bytes, head }
            .checked()
    }

    /// The leaf that stands inside a bucket's value, `at` bytes from the start of the file.
    pub(super) fn inline(&self, page: u64, at: u64, len: u64) -> Result<Block, ReadError> {
        let mut head = vec![0; len.min(u64::from(self.meta.page_bytes)) as usize];
        self.source.read_at(at, &mut head)?;
        if head.len() < HEADER_BYTES || Kind::from_flags(header_of(&head).flags) != Some(Kind::Leaf) {
            return damaged(format!("a bucket inside page {page} is no leaf"));
        }
        let count = header_of(&head).count;
        Block { page, pages: 0, kind: Kind::Leaf, count, at, len, head }.checked()
    }

    /// Bytes of a block that are within it.
    pub(super) fn read(&self, block: &Block, from: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let cached = usize::try_from(from).ok().and_then(|from| block.head.get(from..)?.get(..into.len()));
        match cached {
            Some(bytes) => into.copy_from_slice(bytes),
            None => self.source.read_at(block.at + from, into)?,
        }
        Ok(())
    }

    /// An element of a block.
    pub(super) fn element(&self, block: &Block, index: u16) -> Result<Element, ReadError> {
        let mut bytes = [0; ELEMENT_BYTES];
        let at = (HEADER_BYTES + ELEMENT_BYTES * usize::from(index)) as u64;
        self.read(block, at, &mut bytes)?;
        let [first, second] = halves(&bytes);
        let [first_low, first_high] = [first as u32, (first >> 32) as u32].map(u64::from);
        let [second_low, second_high] = [second as u32, (second >> 32) as u32].map(u64::from);
        let is_leaf = block.kind == Kind::Leaf;
        let element = if is_leaf {
            Element {
                flags: first_low as u32,
                key_at: at + first_high,
                key_len: second_low,
                value_len: second_high,
                child: 0,
            }
        } else {
            Element { flags: 0, key_at: at + first_low, key_len: first_high, value_len: 0, child: second }
        };
        let page = block.page;
        if element.key_len > KEY_BYTES_MAX as u64 {
            return damaged(format!("page {page}: key {index} has {} bytes", element.key_len));
        }
        let data = HEADER_BYTES as u64 + ELEMENT_BYTES as u64 * u64::from(block.count);
        let end = element.key_at + element.key_len + element.value_len;
        if element.key_at < data || end > block.len {
            return damaged(format!("page {page}: element {index} lies outside of the page's data"));
        }
        Ok(element)
    }

    /// What a bucket's value leads to.
    pub(super) fn bucket_at(&self, block: &Block, from: u64, len: u64) -> Result<Block, ReadError> {
        let page = block.page;
        if len < BUCKET_BYTES as u64 {
            return damaged(format!("page {page}: a bucket has a head of {len} bytes"));
        }
        let mut bytes = [0; BUCKET_BYTES];
        self.read(block, from, &mut bytes)?;
        match halves(&bytes) {
            [0, _] => {
                let head = BUCKET_BYTES as u64;
                self.inline(page, block.at + from + head, len - head)
            }
            [root, _] => self.page(root),
        }
    }
}

fn header_of(head: &[u8]) -> Header {
    head.first_chunk().map_or(Header { page: 0, flags: 0, count: 0, overflow: 0 }, Header::read)
}

fn read_meta<S: Source + ?Sized>(source: &S, at: u64) -> Result<Result<Meta, NoMeta>, ReadError> {
    let mut bytes = [0; META_BYTES];
    let from = at + HEADER_BYTES as u64;
    if source.bytes() < from + META_BYTES as u64 {
        return Ok(Err(NoMeta::Magic));
    }
    source.read_at(from, &mut bytes)?;
    let meta = Meta::read(&bytes);
    let is_known = |meta: &Meta| {
        meta.page_bytes.is_power_of_two() && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&meta.page_bytes)
    };
    Ok(meta.and_then(|meta| if is_known(&meta) { Ok(meta) } else { Err(NoMeta::Checksum) }))
}

/// The meta of page 1 in a file whose pages are of unknown size.
fn second_meta<S: Source + ?Sized>(source: &S) -> Result<Result<Meta, NoMeta>, ReadError> {
    let mut page_bytes = PAGE_BYTES_MIN;
    while page_bytes <= PAGE_BYTES_MAX {
        if let Ok(meta) = read_meta(source, u64::from(page_bytes))?
            && meta.page_bytes == page_bytes
        {
            return Ok(Ok(meta));
        }
        page_bytes *= 2;
    }
    Ok(Err(NoMeta::Magic))
}

fn check_meta(meta: &Meta, bytes: u64) -> Result<(), ReadError> {
    let there = bytes / u64::from(meta.page_bytes);
    if meta.pages > there {
        return damaged(format!("the file is cut short: it says {} pages and has {there}", meta.pages));
    }
    for (page, what) in [(Some(meta.root), "root"), (meta.free_list, "free list")] {
        if let Some(page) = page.filter(|page| !(FIRST_PAGE..meta.pages).contains(page)) {
            return damaged(format!("the {what} is on page {page}, and the file has {} pages", meta.pages));
        }
    }
    Ok(())
}

/// A page with all that belongs to it, or a bucket inside one.
pub(super) struct Block {
    /// The page, or the one that it lies in.
    pub(super) page: u64,
    /// Pages that are its own; none of a bucket inside another page.
    pub(super) pages: u64,
    pub(super) kind: Kind,
    pub(super) count: u16,
    /// Where it begins in the file.
    pub(super) at: u64,
    pub(super) len: u64,
    /// Its first bytes, as many as a page has.
    head: Vec<u8>,
}

impl Block {
    fn checked(self) -> Result<Self, ReadError> {
        let elements = match self.kind {
            Kind::FreeList => 0,
            Kind::Branch | Kind::Leaf => ELEMENT_BYTES as u64 * u64::from(self.count),
        };
        if HEADER_BYTES as u64 + elements > self.len {
            return damaged(format!("page {} has no room for its {} elements", self.page, self.count));
        }
        Ok(self)
    }
}

/// What a page says of one pair or child. Key and value lie within the page.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Element {
    pub(super) flags: u32,
    /// Counted from the start of the page.
    pub(super) key_at: u64,
    pub(super) key_len: u64,
    pub(super) value_len: u64,
    pub(super) child: u64,
}
