//! Proves a store file whole: each page is reached exactly once or free, never both or neither; checksums, order and
//! bounds of keys hold everywhere.
//!
//! It reads the file by itself and trusts nothing that the pager believes. Where it finds something wrong it goes on,
//! so that the report shows how far the damage reaches.
#![forbid(unsafe_code)]

use super::file::PageFile;
use super::layout::{HEADER, PAGE_SIZE, Page, PageId, PageRef, RunRef};
use super::meta::{self, Applied, Meta, OpenError, TREES};
use super::node::{CAPACITY, Node, Value};
use super::pager;
use super::set::PageSet;
use super::table::{Birth, verify};
use std::fmt;

/// Problems that are told one by one; further ones are only counted.
const PROBLEMS_TOLD_MAX: usize = 50;

/// Deeper than any tree can be; a deeper one goes round in circles.
const DEPTH_MAX: usize = 64;

/// What is in one tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeReport {
    /// Levels, leaves included; 0 for an empty tree.
    pub depth: usize,
    /// Pairs of key and value.
    pub keys: u64,
    /// Pages with pairs.
    pub leaves: u64,
    /// Pages above the leaves.
    pub branches: u64,
    /// Pages of values and keys too long for a leaf.
    pub run_pages: u64,
    /// Bytes that leaves and branches use of their pages.
    pub used_bytes: u64,
}

/// What is in a store file, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Number of the checkpoint looked at.
    pub checkpoint: u64,
    /// What it contains.
    pub applied: Applied,
    /// Pages in use or free.
    pub pages: u64,
    /// Free pages among them.
    pub free_pages: u64,
    /// By tree, in the order of the roots.
    pub trees: [TreeReport; TREES],
    /// What the trees are called.
    pub names: [&'static str; TREES],
    /// What is wrong, the first few; empty for a sound file.
    pub problems: Vec<String>,
    /// How many there are in all.
    pub problem_count: u64,
}

impl Report {
    /// True when nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problem_count == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let applied = &self.applied;
        writeln!(
            f,
            "checkpoint {}: raft index {}, term {}, revision {}, compacted {}",
            self.checkpoint, applied.index, applied.term, applied.revision, applied.compact_revision
        )?;
        writeln!(f, "pages {}, free {}", self.pages, self.free_pages)?;
        for (tree, name) in self.trees.iter().zip(self.names) {
            if tree.depth > 0 {
                let fill = tree.used_bytes * 100 / ((tree.leaves + tree.branches) * CAPACITY as u64);
                writeln!(
                    f,
                    "{name}: keys {}, depth {}, leaves {}, branches {}, filled {fill} %, pages in runs {}",
                    tree.keys, tree.depth, tree.leaves, tree.branches, tree.run_pages
                )?;
            }
        }
        for problem in &self.problems {
            writeln!(f, "problem: {problem}")?;
        }
        match self.problem_count {
            0 => write!(f, "sound: every page is either reached once or free"),
            count => write!(f, "{count} problems"),
        }
    }
}

/// Checks a file that nobody writes to. `names` is what the report calls the trees.
///
/// # Errors
/// When it is no store, or its list of free pages cannot be read; everything else is in the report.
pub fn check(file: &dyn PageFile, names: [&'static str; TREES]) -> Result<Report, OpenError> {
    let Some(meta) = meta::read(file)? else { return Ok(Report::default()) };
    let free = pager::read_free(file, &meta)?;
    let mut check = Check { file, reached: PageSet::default(), report: Report::default(), tree: 0 };
    check.report.names = names;
    check.report.checkpoint = meta.sequence;
    check.report.applied = meta.state.applied;
    check.report.pages = u64::from(meta.page_count);
    check.report.free_pages = u64::from(free.len());
    if let Some(run) = meta.free {
        check.claim(run.id, run.pages(), &meta, "the list of free pages");
    }
    for (tree, root) in meta.state.roots.into_iter().enumerate() {
        check.tree = tree;
        if !root.is_none() {
            check.walk(&meta, root, Bounds { low: None, high: None }, 1);
        }
    }
    check.compare(&meta, &free);
    Ok(check.report)
}

struct Check<'f> {
    file: &'f dyn PageFile,
    reached: PageSet,
    report: Report,
    tree: usize,
}

/// What the keys of a page may be: not below `low`, below `high`.
#[derive(Clone, Copy)]
struct Bounds<'k> {
    low: Option<&'k [u8]>,
    high: Option<&'k [u8]>,
}

impl Check<'_> {
    fn problem(&mut self, text: String) {
        self.report.problem_count += 1;
        if self.report.problems.len() < PROBLEMS_TOLD_MAX {
            self.report.problems.push(text);
        }
    }

    fn counts(&mut self) -> &mut TreeReport {
        &mut self.report.trees[self.tree]
    }

    /// Notes that something has these pages; false if they are outside of the file or taken.
    fn claim(&mut self, id: PageId, pages: u32, meta: &Meta, what: &str) -> bool {
        let end = u64::from(id.0) + u64::from(pages);
        if id.0 < 2 || end > u64::from(meta.page_count.min(self.file.pages())) {
            self.problem(format!("{what} is at page {}, outside of the file", id.0));
            return false;
        }
        for page in (id.0..id.0 + pages).map(PageId) {
            if self.reached.contains(page) {
                self.problem(format!("page {} is reached twice, now as {what}", page.0));
                return false;
            }
            self.reached.insert(page);
        }
        true
    }

    /// Goes through a page and all below it. Returns the number of levels from here on.
    fn walk(&mut self, meta: &Meta, r: PageRef, bounds: Bounds<'_>, depth: usize) {
        if depth > DEPTH_MAX {
            return self.problem(format!("page {} is below {DEPTH_MAX} others", r.id.0));
        }
        if !self.claim(r.id, 1, meta, "a node") {
            return;
        }
        let mut page: Page = [0; PAGE_SIZE];
        let loaded = self.file.read(r.id.0, &mut page).map_err(|error| format!("cannot be read: {error}"));
        let node = Node::new(&page);
        let sound =
            loaded.and_then(|()| verify(r.id, Birth::Stamp(r.stamp), &page)).and_then(|()| node.check());
        if let Err(what) = sound {
            return self.problem(format!("page {} {what}", r.id.0));
        }
        self.counts().used_bytes += node.used() as u64;
        let keys = self.keys(meta, r, &node);
        self.check_order(r, &keys, bounds);
        if node.is_leaf() {
            self.leaf(meta, r, &node, depth);
        } else {
            self.counts().branches += 1;
            for index in 0..=node.count() {
                let low = index.checked_sub(1).map(|at| keys[at].as_slice()).or(bounds.low);
                let high = keys.get(index).map(Vec::as_slice).or(bounds.high);
                self.walk(meta, node.child(index), Bounds { low, high }, depth + 1);
            }
        }
    }

    fn leaf(&mut self, meta: &Meta, r: PageRef, node: &Node<'_>, depth: usize) {
        let counts = self.counts();
        counts.leaves += 1;
        counts.keys += node.count() as u64;
        let expected = std::mem::replace(&mut counts.depth, depth);
        if expected != 0 && expected != depth {
            self.problem(format!("leaf {} is at depth {depth}, others at {expected}", r.id.0));
        }
        if node.count() == 0 {
            self.problem(format!("leaf {} is empty", r.id.0));
        }
        for at in 0..node.count() {
            if let Value::Run(run) = node.value(at) {
                self.run(meta, run);
            }
        }
    }

    /// All keys of a page.
    fn keys(&mut self, meta: &Meta, r: PageRef, node: &Node<'_>) -> Vec<Vec<u8>> {
        let keys = (0..node.count()).map(|at| match node.key_run_at(at) {
            Some(run) => self.run(meta, run),
            None => [node.prefix(), node.inline_suffix(at)].concat(),
        });
        let keys = keys.collect::<Vec<_>>();
        for (key, at) in keys.iter().zip(0..) {
            if !node.head_agrees(at, key) {
                self.problem(format!("page {}: slot {at} says another beginning than its key", r.id.0));
            }
        }
        keys
    }

    fn check_order(&mut self, r: PageRef, keys: &[Vec<u8>], bounds: Bounds<'_>) {
        if keys.windows(2).any(|pair| pair[0] >= pair[1]) {
            self.problem(format!("page {}: keys are out of order", r.id.0));
        }
        let below = bounds.low.zip(keys.first()).is_some_and(|(low, first)| first.as_slice() < low);
        let above = bounds.high.zip(keys.last()).is_some_and(|(high, last)| last.as_slice() >= high);
        if below || above {
            self.problem(format!("page {}: keys lie outside of what the branch above says", r.id.0));
        }
    }

    /// The content of a run, empty if something is wrong with it.
    fn run(&mut self, meta: &Meta, run: RunRef) -> Vec<u8> {
        if !self.claim(run.id, run.pages(), meta, "a run") {
            return Vec::new();
        }
        self.counts().run_pages += u64::from(run.pages());
        let mut bytes = vec![0; run.pages() as usize * PAGE_SIZE];
        let loaded = self.file.read(run.id.0, &mut bytes).map_err(|error| format!("cannot be read: {error}"));
        if let Err(what) = loaded.and_then(|()| verify(run.id, Birth::Run(run), &bytes)) {
            self.problem(format!("the run at page {} {what}", run.id.0));
            return Vec::new();
        }
        bytes.truncate(HEADER + run.bytes as usize);
        bytes.split_off(HEADER)
    }

    /// Compares what was reached with what is said to be free.
    fn compare(&mut self, meta: &Meta, free: &PageSet) {
        for id in (2..meta.page_count).map(PageId) {
            match (self.reached.contains(id), free.contains(id)) {
                (true, true) => self.problem(format!("page {} is reached and free", id.0)),
                (false, false) => self.problem(format!("page {} is neither reached nor free", id.0)),
                _ => {}
            }
        }
        for id in free.iter().filter(|id| id.0 < 2 || id.0 >= meta.page_count) {
            self.problem(format!("page {} is free but cannot be used", id.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::MemoryFile;
    use super::*;
    use crate::btree::{Store, Tree};
    use std::sync::Arc;

    fn sound_file() -> Arc<MemoryFile> {
        let file = Arc::new(MemoryFile::default());
        let mut store = Store::open(file.clone()).unwrap();
        for turn in 0..3u32 {
            let mut txn = store.write();
            for n in 0..500u32 {
                txn.put(Tree::Kv, &(turn * 500 + n).to_be_bytes(), &[1; 100]);
                txn.put(Tree::Index, format!("key-{}", n % 100).as_bytes(), &vec![2; n as usize * 20]);
            }
            txn.put(Tree::Meta, &[3; 5_000], b"long");
            txn.commit();
            let job = store.begin_checkpoint().unwrap();
            job.execute().unwrap();
            store.finish_checkpoint(job.generation());
        }
        file
    }

    #[test]
    fn a_sound_file_is_counted() {
        let report = check(&*sound_file(), Tree::NAMES).unwrap();
        assert!(report.is_sound(), "{report}");
        assert!(report.to_string().contains("Index: keys 100, depth"));
        assert_eq!(report.checkpoint, 4, "three, and the meta page of the open");
        let [kv, index, .., meta] = report.trees;
        assert_eq!((kv.keys, index.keys, meta.keys), (1_500, 100, 1));
        assert_eq!((kv.run_pages, meta.run_pages), (0, 2));
        assert!(index.run_pages > 100 && kv.depth == 2);
        assert_eq!(check(&MemoryFile::default(), Tree::NAMES).unwrap().pages, 0);
    }

    #[test]
    fn every_rotten_byte_of_a_page_in_use_is_found() {
        let file = sound_file();
        let len = file.bytes().len();
        let mut silent = 0;
        for at in (2 * PAGE_SIZE..len).step_by(997) {
            file.bytes()[at] ^= 0x10;
            match check(&*file, Tree::NAMES) {
                Ok(report) => silent += usize::from(report.is_sound()),
                Err(error) => assert!(error.to_string().contains("list of free pages")),
            }
            file.bytes()[at] ^= 0x10;
        }
        // Only free pages may hold anything.
        let free = check(&*file, Tree::NAMES).unwrap().free_pages as usize;
        assert!(silent <= (free + 1) * (PAGE_SIZE / 997 + 1), "{silent} of {free} free pages");
    }
}
