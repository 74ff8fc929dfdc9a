//! Files that are written and read; files that are made by hand to be wrong.

use super::fuzz::{Buckets, Pairs, read, run, write};
use super::layout::{BUCKET_BYTES, INLINE_BYTES_MAX, KEY_BYTES_MAX, PAGE_BYTES, VALUE_BYTES_MAX};
use super::*;
use crate::stdx::prng::Prng;

fn pairs(count: u64, value_len: usize) -> Pairs {
    (0..count).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; value_len])).collect()
}

fn file_of(buckets: &Buckets) -> Vec<u8> {
    write(buckets, Prng::new(1)).unwrap()
}

fn one(pairs: Pairs) -> Buckets {
    vec![(b"key".to_vec(), pairs)]
}

fn error_of(file: &[u8]) -> String {
    Database::open(file).and_then(|database| check::check(&database)).unwrap_err().to_string()
}

#[test]
fn random_files_come_back_and_damaged_ones_are_survived() {
    (1..60).for_each(run);
}

#[test]
fn an_empty_file_and_empty_buckets_can_be_read() {
    for buckets in [vec![], one(vec![]), vec![(b"a".to_vec(), vec![]), (b"b".to_vec(), pairs(1, 0))]] {
        let file = file_of(&buckets);
        assert_eq!(file.len(), 3 * PAGE_BYTES);
        assert_eq!(read(&file).unwrap(), buckets);
    }
}

#[test]
fn small_buckets_lie_inside_their_parent_and_longer_ones_have_pages() {
    // One pair of 8 + n bytes makes a leaf of 40 + n.
    let at_bound = INLINE_BYTES_MAX - 40;
    assert_eq!(file_of(&one(pairs(1, at_bound))).len(), 3 * PAGE_BYTES);
    assert_eq!(file_of(&one(pairs(1, at_bound + 1))).len(), 4 * PAGE_BYTES);
}

#[test]
fn a_long_value_has_its_own_pages_and_passes_through() {
    let long = 10 * PAGE_BYTES;
    let buckets = one(vec![(vec![1], vec![7; long]), (vec![2], vec![8; 3]), (vec![3], vec![9; long])]);
    assert_eq!(read(&file_of(&buckets)).unwrap(), buckets);
    let mut count = Writer::counting();
    count.bucket(b"key").unwrap();
    for (key, value) in &buckets[0].1 {
        count.pair(key, value.len()).unwrap();
    }
    let mut writer = Writer::new(count.finish().unwrap());
    writer.bucket(b"key").unwrap();
    writer.pair(&[1], long).unwrap();
    for _ in 0..long / 16 {
        assert!(writer.written() <= 3 * PAGE_BYTES, "{} bytes are held", writer.written());
        writer.value(&[7; 16]).unwrap();
        writer.take();
    }
}

#[test]
fn a_full_file_is_hardly_longer_than_what_it_has() {
    let buckets = one(pairs(100_000, 100));
    let payload = 100_000 * (16 + 8 + 100);
    let file = file_of(&buckets);
    assert!(file.len() < payload * 104 / 100, "{} bytes for {payload}", file.len());
    assert_eq!(read(&file).unwrap(), buckets);
}

#[test]
fn what_makes_no_file_is_refused() {
    let mut writer = Writer::counting();
    assert_eq!(writer.pair(b"a", 0), Err(WriteError::Shape), "outside of all buckets");
    assert_eq!(writer.bucket(b""), Err(WriteError::Order));
    writer.bucket(b"b").unwrap();
    assert_eq!(writer.bucket(b"b"), Err(WriteError::Order));
    writer.bucket(b"c").unwrap();
    writer.pair(b"k", 0).unwrap();
    for key in [&b"k"[..], b"j", b""] {
        assert_eq!(writer.pair(key, 0), Err(WriteError::Order));
    }
    assert_eq!(writer.pair(&[b'z'; KEY_BYTES_MAX + 1], 0), Err(WriteError::TooLong));
    assert_eq!(writer.pair(b"l", VALUE_BYTES_MAX + 1), Err(WriteError::TooLong));
}

#[test]
fn a_value_of_another_length_or_another_file_than_counted_is_refused() {
    for len in [10, 3 * PAGE_BYTES] {
        let planned = |len: usize| {
            let mut count = Writer::counting();
            count.bucket(b"key").unwrap();
            count.pair(b"a", len).unwrap();
            count.finish().unwrap()
        };
        let begun = || {
            let mut writer = Writer::new(planned(len));
            writer.bucket(b"key").unwrap();
            writer.pair(b"a", len).unwrap();
            writer
        };
        let mut writer = begun();
        writer.value(&vec![0; len - 1]).unwrap();
        assert_eq!(writer.value(&[0; 2]), Err(WriteError::Shape), "too long");
        assert_eq!(writer.pair(b"b", 0), Err(WriteError::Shape), "too short");
        assert_eq!(writer.finish(), Err(WriteError::Shape), "too short");
        let mut writer = begun();
        writer.value(&vec![0; len]).unwrap();
        assert_eq!(writer.value(&[0]), Err(WriteError::Shape), "behind its end");
        writer.pair(b"b", 5000).unwrap();
        writer.value(&[0; 5000]).unwrap();
        assert_eq!(writer.finish(), Err(WriteError::Differs));
    }
}

#[test]
fn either_meta_is_enough_and_without_both_it_is_said() {
    let buckets = one(pairs(500, 50));
    let file = file_of(&buckets);
    for page in 0..2 {
        let mut damaged = file.clone();
        damaged[page * PAGE_BYTES..(page + 1) * PAGE_BYTES].fill(0);
        assert_eq!(read(&damaged).unwrap(), buckets, "without page {page}");
        damaged[(1 - page) * PAGE_BYTES + 40] ^= 1;
        let said = error_of(&damaged);
        assert!(said.contains("no file of bbolt") || said.contains("checksums"), "{said}");
    }
    assert!(error_of(b"").contains("no file of bbolt"));
    assert!(error_of(&file[..file.len() - 1]).contains("cut short"));
}

#[test]
fn each_kind_of_damage_is_named_with_its_page() {
    // Two leaves, on pages 2 and 3, their branch on page 4, the root on page 5.
    let file = file_of(&one(pairs(100, 30)));
    assert_eq!(file.len(), 6 * PAGE_BYTES);
    let damaged = |at: usize, bytes: &[u8]| {
        let mut damaged = file.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        error_of(&damaged)
    };
    let page = |page: usize, at: usize| page * PAGE_BYTES + at;
    // Where the data of an element begins is counted from the element.
    let position = page(3, 32 + 4);
    let moved = (u32::from_le_bytes(*file[position..].first_chunk().unwrap()) - 1).to_le_bytes();
    let cases = [
        (page(3, 0), &[9][..], "page 3 says that it is page 9"),
        (page(2, 8), &[4], "page 2 is of no known kind"),
        (page(2, 8), &[16], "child 0 is page 2, which is no node"),
        (page(2, 10), &[0, 0], "child 0 is page 2, which is no node"),
        (page(2, 10), &[255, 255], "page 2 has no room for its 65535 elements"),
        (page(2, 12), &[4], "page 2 goes beyond the end"),
        (page(2, 12), &[1], "page 3 is used twice"),
        (page(3, 16 + 4), &[255; 4], "page 3: element 0 lies outside"),
        (page(3, 16 + 4), &[0; 4], "page 3: element 0 lies outside"),
        (page(3, 16 + 8), &[255; 4], "page 3: key 0 has 4294967295 bytes"),
        (page(3, 16 + 12), &[255; 4], "page 3: element 0 lies outside"),
        (page(3, 32 + 4), &moved, "page 3: element 1 lies within the one before it"),
        (page(4, 16 + 8), &[200], "page 200 is named"),
        (page(4, 16 + 8), &[4], "page 4 is used twice"),
        (page(4, 16 + 8), &[3], "is not above"),
        (page(4, 32 + 8), &[2], "is used twice"),
    ];
    for (at, bytes, expected) in cases {
        let said = damaged(at, bytes);
        assert!(said.contains(expected), "{said:?}, not {expected:?}");
    }
    let bucket_head =
        file[page(5, 0)..].windows(BUCKET_BYTES).position(|bytes| bytes[0] == 4 && bytes[1..] == [0; 15]);
    let head = page(5, bucket_head.unwrap());
    assert!(damaged(head, &[77]).contains("page 77 is named"));
    assert!(damaged(head, &[0]).contains("inside page 5"));
}

#[test]
fn a_bucket_in_a_bucket_is_damage() {
    // An empty leaf behind the head of a bucket, as the value of a pair in a bucket that lies on page 2.
    let mut inner = vec![0; 2 * BUCKET_BYTES];
    inner[BUCKET_BYTES + 8] = 2;
    let file = file_of(&one(vec![(b"k".to_vec(), inner)]));
    assert!(Database::open(&file[..]).and_then(|database| check::check(&database)).is_ok());
    // On page 2: its header, the element of the bucket `key`, that name, the bucket's head, its header, the element.
    let flags = 2 * PAGE_BYTES + 16 + 16 + 3 + BUCKET_BYTES + 16;
    let mut nested = file;
    assert_eq!(nested[flags], 0);
    nested[flags] = 1;
    assert!(error_of(&nested).contains("a bucket lies in a bucket"), "{}", error_of(&nested));
}
