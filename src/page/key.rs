//! Keys as nodes have them: compared fast, cut short, and in a cell or in a run.
#![forbid(unsafe_code)]

use super::layout::RunRef;
use super::node::KEY_INLINE_MAX;
use std::cmp::Ordering;

/// The first four bytes of a suffix as a number that orders like them; equal numbers decide nothing.
#[inline]
pub(super) fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk::<4>() {
        Some(&four) => u32::from_be_bytes(four),
        None => {
            let mut four = [0; 4];
            four[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(four)
        }
    }
}

/// Up to eight bytes as a number that orders like them, shorter ones as if zeros followed.
#[inline]
fn number_of(bytes: &[u8]) -> u64 {
    if let Some(&eight) = bytes.first_chunk::<8>() {
        return u64::from_be_bytes(eight);
    }
    let missing = 8 * (8 - bytes.len()) as u32;
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(&first), Some(&last)) => {
            let (first, last) = (u32::from_be_bytes(first), u32::from_be_bytes(last));
            u64::from(first) << 32 | (u64::from(last) << missing & 0xffff_ffff)
        }
        _ => bytes
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
            .checked_shl(missing)
            .unwrap_or(0),
    }
}

/// Compares as slices compare. Keys are short: eight bytes at a time take less than a call of memcmp.
#[inline]
pub(super) fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while let (Some((x, a_rest)), Some((y, b_rest))) =
        (a.split_first_chunk::<8>(), b.split_first_chunk::<8>())
    {
        if x != y {
            return u64::from_be_bytes(*x).cmp(&u64::from_be_bytes(*y));
        }
        (a, b) = (a_rest, b_rest);
    }
    // One has fewer than eight bytes left. If zeros make up for what it lacks, the shorter begins the longer.
    number_of(a).cmp(&number_of(b)).then(a.len().cmp(&b.len()))
}

/// Length of what two keys begin with in common.
pub(crate) fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Where a cell has its key: in itself, or in a run that exists already.
#[derive(Clone, Copy)]
pub(crate) struct Key<'k> {
    pub(crate) bytes: &'k [u8],
    pub(crate) run: Option<RunRef>,
}

impl<'k> Key<'k> {
    /// Bytes this key takes in a cell of a page with a prefix of this length.
    pub(crate) fn cell_len(&self, prefix: usize) -> usize {
        if self.run.is_some() { RunRef::SIZE } else { self.bytes.len() - prefix }
    }
}

/// The longest prefix that all keys share which lie between two of one page, themselves included.
pub(crate) fn prefix_between<'k>(first: &'k [u8], last: &[u8]) -> &'k [u8] {
    &first[..common_len(first, last).min(KEY_INLINE_MAX)]
}

/// The shortest key above `left` and not above `right`.
pub(crate) fn separator<'k>(left: &[u8], right: &'k [u8]) -> &'k [u8] {
    assert!(left < right, "keys are out of order");
    &right[..common_len(left, right) + 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;

    #[test]
    fn heads_order_like_the_bytes_they_stand_for() {
        let keys: [&[u8]; 7] = [b"", b"\0", b"a", b"ab", b"abc", b"abcd", b"abd"];
        for pair in keys.windows(2) {
            assert!(head_of(pair[0]) <= head_of(pair[1]));
        }
    }

    #[test]
    fn keys_compare_as_slices_do() {
        let mut prng = Prng::new(7);
        for _ in 0..20_000 {
            let mut bytes = |len: u64| -> Vec<u8> {
                (0..prng.below(len)).map(|_| [0, 0, 1, 0xff][prng.below(4) as usize]).collect()
            };
            let (common, mut a, mut b) = (bytes(20), bytes(12), bytes(12));
            a.splice(..0, common.iter().copied());
            b.splice(..0, common.iter().copied());
            assert_eq!(compare(&a, &b), a.cmp(&b), "{a:?} {b:?}");
        }
    }

    #[test]
    fn separators_are_as_short_as_can_be() {
        assert_eq!(separator(b"abc", b"abde"), b"abd");
        assert_eq!(separator(b"ab", b"abc"), b"abc");
        assert_eq!(prefix_between(b"/registry/a", b"/registry/b"), b"/registry/");
    }
}
