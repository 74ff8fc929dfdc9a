//! The order of all changes.
#![forbid(unsafe_code)]

use crate::error::Error;

/// Where a change stands: the write it belongs to, and its place within that write.
///
/// Only main revisions are visible to clients. The sub revision orders the changes of one transaction, and is
/// part of what `HashKV` digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Number of the write.
    pub main: i64,
    /// Number of the change within the write, from 0.
    pub sub: i64,
}

/// Length of an encoded [`Revision`].
pub const REVISION_BYTES: usize = 16;

impl Revision {
    /// A revision from its parts.
    pub const fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }

    /// The key of tree `Kv`: both parts big endian, so that byte order is revision order.
    pub fn to_bytes(self) -> [u8; REVISION_BYTES] {
        let mut bytes = [0; REVISION_BYTES];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// The inverse of [`Revision::to_bytes`].
    ///
    /// # Errors
    /// When `bytes` has another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let (parts, rest) = bytes.as_chunks::<8>();
        match (parts, rest) {
            ([main, sub], []) => Ok(Self { main: i64::from_be_bytes(*main), sub: i64::from_be_bytes(*sub) }),
            _ => Err(Error::Corrupt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_the_order() {
        let revisions = [
            Revision::new(1, 0),
            Revision::new(1, 1),
            Revision::new(2, 0),
            Revision::new(256, 0),
            Revision::new(256, 255),
            Revision::new(256, 256),
            Revision::new(i64::MAX, i64::MAX),
        ];
        for pair in revisions.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_bytes() < pair[1].to_bytes());
            assert_eq!(Revision::from_bytes(&pair[0].to_bytes()), Ok(pair[0]));
        }
        for len in [0, 8, 15, 17, 24] {
            assert_eq!(Revision::from_bytes(&vec![0; len]), Err(Error::Corrupt), "{len} bytes");
        }
    }
}
