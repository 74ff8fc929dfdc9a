//! What the HTTP/1.1 clients of a core make it hold, all connections together: heads that are not whole, and answers
//! that are not taken. A client that would make it more than [`HELD_MAX`] is told that the service is not available.
#![forbid(unsafe_code)]

use std::cell::Cell;

/// Bytes that are held for all connections. An answer with all metrics has some 100 KB.
pub const HELD_MAX: usize = 64 << 20;
/// What one connection may hold, although all of them together hold too much.
const HELD_SPARED: usize = 4 * 1024;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Bytes held for one connection, counted until dropped.
#[derive(Debug, Default)]
pub struct Held(usize);

impl Held {
    /// So many bytes are held now. False if that is too much.
    pub fn set(&mut self, bytes: usize) -> bool {
        let held = HELD.get() - self.0 + bytes;
        HELD.set(held);
        self.0 = bytes;
        held <= HELD_MAX || bytes <= HELD_SPARED
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(HELD.get() - self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_share_one_bound_and_each_has_a_little() {
        let (mut one, mut other) = (Held::default(), Held::default());
        assert!(one.set(HELD_MAX - 1) && !other.set(HELD_SPARED + 1) && other.set(HELD_SPARED));
        assert!(!one.set(HELD_MAX) && one.set(0) && other.set(HELD_MAX));
        drop((one, other));
        assert_eq!(HELD.get(), 0);
    }
}
