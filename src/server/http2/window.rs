//! Flow control (RFC 9113, 5.2): how much one side may send before the other says more.
#![forbid(unsafe_code)]

use super::frame::Reason;

/// What a window is before anybody has said otherwise.
pub const INITIAL: u32 = 65_535;
/// The largest that a window may grow to.
const MAX: i64 = (1 << 31) - 1;

/// What we may send. Negative after a client has shrunk its windows under us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendWindow(i64);

impl SendWindow {
    /// A window of `bytes`.
    pub fn new(bytes: u32) -> Self {
        Self(i64::from(bytes))
    }

    /// Bytes that may be sent.
    pub fn room(self) -> usize {
        self.0.max(0) as usize
    }

    /// `bytes` were sent.
    pub fn take(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.room(), "no more is sent than there is room for");
        self.0 -= bytes as i64;
    }

    /// The client has made it wider, or narrower.
    pub fn add(&mut self, bytes: i64) -> Result<(), Reason> {
        self.0 += bytes;
        if self.0 > MAX { Err(Reason::FlowControlError) } else { Ok(()) }
    }
}

/// What a client may send us.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveWindow {
    left: u32,
    size: u32,
    /// Taken note of, and not given back to the client yet.
    consumed: u32,
}

impl ReceiveWindow {
    /// A window of `size` bytes, all of which the client knows of.
    pub fn new(size: u32) -> Self {
        Self { left: size, size, consumed: 0 }
    }

    /// `bytes` came.
    pub fn take(&mut self, bytes: usize) -> Result<(), Reason> {
        let bytes = u32::try_from(bytes).map_err(|_| Reason::FlowControlError)?;
        self.left = self.left.checked_sub(bytes).ok_or(Reason::FlowControlError)?;
        Ok(())
    }

    /// Whether all that came was used.
    pub fn is_settled(&self) -> bool {
        self.consumed == self.size - self.left
    }

    /// `bytes` that came were used; by how much the client's window is to be widened, if that is worth a frame.
    pub fn release(&mut self, bytes: usize) -> Option<u32> {
        self.consumed += bytes as u32;
        debug_assert!(self.consumed <= self.size - self.left, "only what came is released");
        if self.consumed < self.size / 2 {
            return None;
        }
        self.left += self.consumed;
        Some(std::mem::take(&mut self.consumed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_window_back_by_halves() {
        let mut window = ReceiveWindow::new(100);
        assert_eq!((window.take(60), window.release(49), window.release(1)), (Ok(()), None, Some(50)));
        assert_eq!((window.take(90), window.take(1)), (Ok(()), Err(Reason::FlowControlError)));
        assert_eq!(window.release(100), Some(100));
    }

    #[test]
    fn our_window_may_be_narrowed_below_nothing_and_not_widened_beyond_bounds() {
        let mut window = SendWindow::new(10);
        window.take(10);
        assert_eq!((window.add(-10), window.room()), (Ok(()), 0));
        assert_eq!((window.add(15), window.room()), (Ok(()), 5));
        assert_eq!(window.add(MAX), Err(Reason::FlowControlError));
    }
}
