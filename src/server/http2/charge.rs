//! What is kept for a call from its request on, until its answer is written: its request, where the answer is made from
//! that piece by piece, or room for the answer, where the answer must be made before anybody knows whether the client
//! takes it. Either counts as if it were a part of the answer that waits.
//!
//! ```text
//!   connection   counted at once: beyond its bound, further requests of the connection wait
//!   core         little is counted at once; a write that needs much waits until the core has room, a read that does
//!                is refused, and other connections go on
//! ```
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::task::{Context, Poll};

use super::account::Account;
use super::memory::InLine;

/// Bytes that are never waited for.
pub const LITTLE_BYTES: usize = 64 * 1024;
/// Bytes by which any answer may be longer than what is kept for it.
const SURPLUS_BYTES: usize = 4 * 1024;

/// Bytes kept for one call, counted until dropped.
pub struct Charge {
    account: Rc<Account>,
    bytes: usize,
    /// The core counts them too.
    is_granted: bool,
    waiting: Option<InLine>,
}

impl Charge {
    /// Nothing is kept yet.
    pub fn new(account: &Rc<Account>) -> Self {
        Self { account: account.clone(), bytes: 0, is_granted: true, waiting: None }
    }

    /// So many bytes are to be kept from now on. True if the core has room for them; [`Charge::poll_granted`] waits for
    /// it otherwise.
    #[must_use]
    pub fn set(&mut self, bytes: usize) -> bool {
        let before = self.counted();
        self.account.count_unsent(self.bytes, bytes);
        self.bytes = bytes;
        self.waiting = None;
        let memory = self.account.memory();
        self.is_granted = bytes <= before.max(LITTLE_BYTES) || memory.has_room(bytes - before);
        memory.count_unsent(before, self.counted());
        self.is_granted
    }

    /// So many bytes are kept already, whether the core has room for them or not.
    pub fn hold(&mut self, bytes: usize) {
        let before = self.counted();
        self.account.count_unsent(self.bytes, bytes);
        (self.bytes, self.is_granted, self.waiting) = (bytes, true, None);
        self.account.memory().count_unsent(before, bytes);
    }

    /// Ready when the core has room for what is to be kept.
    pub fn poll_granted(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.is_granted {
            return Poll::Ready(());
        }
        let memory = self.account.memory();
        if !memory.has_room(self.bytes) {
            let waiting = self.waiting.get_or_insert_with(|| InLine::new(memory, self.bytes));
            waiting.register(cx.waker());
            return Poll::Pending;
        }
        self.waiting = None;
        self.is_granted = true;
        memory.count_unsent(0, self.bytes);
        Poll::Ready(())
    }

    /// Whether the connection and the core have room for an answer of `bytes` in place of this.
    pub fn may_become(&self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.counted());
        let is_little = more <= LITTLE_BYTES || self.account.memory().has_room(more);
        more <= SURPLUS_BYTES || (is_little && !self.account.is_full_beside(self.bytes))
    }

    /// What the core counts.
    fn counted(&self) -> usize {
        if self.is_granted { self.bytes } else { 0 }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.hold(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::account::CONNECTION_UNSENT_MAX;
    use super::super::memory::Memory;
    use super::*;
    use crate::stdx::waker::Wakes;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_is_kept_fills_its_connection_and_is_given_back() {
        let memory = Memory::new();
        let account = Account::new(memory.clone());
        let mut charge = Charge::new(&account);
        assert!(charge.set(10) && charge.set(CONNECTION_UNSENT_MAX + 1) && account.is_full());
        assert_eq!(memory.unsent(), CONNECTION_UNSENT_MAX + 1);
        assert!(charge.may_become(CONNECTION_UNSENT_MAX + 1), "what is kept is for this");
        assert!(!Charge::new(&account).may_become(SURPLUS_BYTES + 1));
        assert!(charge.set(10) && !account.is_full());
        drop(charge);
        assert_eq!((account.unsent(), memory.unsent()), (0, 0));
    }

    #[test]
    fn what_is_held_is_counted_also_where_there_is_no_room() {
        let memory = Memory::new();
        let (full, account) = (Account::new(memory.clone()), Account::new(memory.clone()));
        let (mut much, mut charge) = (Charge::new(&full), Charge::new(&account));
        much.hold(127 * MIB);
        assert!(charge.set(MIB / 2) && !memory.is_exhausted());
        charge.hold(6 * MIB);
        assert_eq!((memory.unsent(), account.unsent()), (133 * MIB, 6 * MIB));
        assert!(memory.is_exhausted() && account.is_full());
        charge.hold(MIB);
        assert_eq!((memory.unsent(), account.unsent()), (128 * MIB, MIB));
        drop((much, charge));
        assert_eq!((memory.unsent(), account.unsent()), (0, 0));
    }

    #[test]
    fn who_needs_much_waits_for_the_core_and_others_who_need_little_do_not() {
        let memory = Memory::new();
        let accounts: Vec<_> = (0..4).map(|_| Account::new(memory.clone())).collect();
        let mut charges: Vec<_> = accounts.iter().map(Charge::new).collect();
        let granted: Vec<bool> = charges.iter_mut().map(|charge| charge.set(60 * MIB)).collect();
        assert_eq!((granted, memory.unsent()), (vec![true, true, false, false], 120 * MIB));
        assert!(accounts[3].is_full() && Charge::new(&Account::new(memory.clone())).set(LITTLE_BYTES));
        let (waker, wakes) = Wakes::new();
        let cx = Context::from_waker(&waker);
        assert!(charges[2].poll_granted(&cx).is_pending() && charges[3].poll_granted(&cx).is_pending());
        charges.remove(0);
        assert_eq!(wakes.count(), 1, "there is room for one");
        charges.remove(1);
        assert_eq!((wakes.count(), accounts[2].unsent()), (2, 0), "it has gone, and the next gets the room");
        assert!(charges[1].poll_granted(&cx).is_ready());
        assert_eq!(memory.unsent(), 120 * MIB);
        drop(charges);
        assert_eq!((memory.unsent(), accounts[3].unsent()), (0, 0));
    }
}
