//! Watches HTTP/2 frame headers pass by.
//!
//! h2 answers PING frames itself and tells nobody, but etcd punishes clients that send too many of them. So the
//! bytes read from a connection are looked at on their way into h2: nine bytes per frame, the rest is skipped.
//! Whatever is malformed is h2's to judge; the sniffer merely loses count then, and the connection ends.
#![forbid(unsafe_code)]

const HEADER_BYTES: usize = 9;
const TYPE_DATA: u8 = 0;
const TYPE_PING: u8 = 6;
const PING_BYTES: usize = 8;
const FLAG_ACK: u8 = 1;
/// Length of the client's connection preface, which is no frame.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether `frames`, which begin at a frame's head, are acknowledgements of PING frames and nothing else. No frames
/// are not.
pub fn are_pongs(frames: &[u8]) -> bool {
    let frame = HEADER_BYTES + PING_BYTES;
    !frames.is_empty()
        && frames.len().is_multiple_of(frame)
        && frames.chunks(frame).all(|pong| pong[..5] == [0, 0, PING_BYTES as u8, TYPE_PING, FLAG_ACK])
}

/// Counts the PING frames (not their acknowledgements) in a client's byte stream.
pub struct Sniffer {
    /// Bytes still to skip: the rest of the preface or of a payload.
    skip: usize,
    /// The first bytes of a frame header that was cut by the end of a read.
    head: [u8; HEADER_BYTES],
    have: usize,
    pings: u32,
    data: bool,
}

impl Default for Sniffer {
    fn default() -> Self {
        Self { skip: PREFACE.len(), head: [0; HEADER_BYTES], have: 0, pings: 0, data: false }
    }
}

impl Sniffer {
    /// Looks at the next bytes of the stream.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let step = self.skip.min(bytes.len());
                self.skip -= step;
                bytes = &bytes[step..];
            } else if self.have == 0 && bytes.len() >= HEADER_BYTES {
                let (head, rest) = bytes.split_at(HEADER_BYTES);
                self.frame(head[0], head[1], head[2], head[3], head[4]);
                bytes = rest;
            } else {
                let step = (HEADER_BYTES - self.have).min(bytes.len());
                self.head[self.have..self.have + step].copy_from_slice(&bytes[..step]);
                self.have += step;
                bytes = &bytes[step..];
                if self.have == HEADER_BYTES {
                    self.have = 0;
                    let head = self.head;
                    self.frame(head[0], head[1], head[2], head[3], head[4]);
                }
            }
        }
    }

    fn frame(&mut self, high: u8, middle: u8, low: u8, kind: u8, flags: u8) {
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if kind == TYPE_PING && flags & FLAG_ACK == 0 {
            self.pings = self.pings.saturating_add(1);
        }
        self.data |= kind == TYPE_DATA;
    }

    /// The PING frames seen since the last call.
    pub fn take_pings(&mut self) -> u32 {
        std::mem::take(&mut self.pings)
    }

    /// Whether a DATA frame was seen since the last call.
    pub fn take_data_seen(&mut self) -> bool {
        std::mem::take(&mut self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 0];
        bytes.resize(HEADER_BYTES + payload, TYPE_PING);
        bytes
    }

    #[test]
    fn pings_are_counted_wherever_reads_are_cut() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(4, 0, 18));
        bytes.extend(frame(TYPE_PING, 0, 8));
        bytes.extend(frame(0, 1, 300));
        bytes.extend(frame(TYPE_PING, FLAG_ACK, 8));
        bytes.extend(frame(TYPE_PING, 0, 8));
        let mut prng = Prng::new(1);
        for _ in 0..200 {
            let mut sniffer = Sniffer::default();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let cut = 1 + prng.below(40.min(rest.len() as u64)) as usize;
                sniffer.feed(&rest[..cut]);
                rest = &rest[cut..];
            }
            assert_eq!((sniffer.take_pings(), sniffer.take_pings()), (2, 0));
            assert_eq!((sniffer.take_data_seen(), sniffer.take_data_seen()), (true, false));
        }
    }

    #[test]
    fn pongs_are_told_from_anything_else() {
        let pong = frame(TYPE_PING, FLAG_ACK, PING_BYTES);
        assert!(are_pongs(&pong) && are_pongs(&[&pong[..], &pong].concat()));
        let settings = frame(4, FLAG_ACK, 0);
        // A frame of another type that is as long as a pong, or a ping of our own.
        let (window, ping) = (frame(8, 0, PING_BYTES), frame(TYPE_PING, 0, PING_BYTES));
        for other in [&[][..], &settings, &window, &ping] {
            assert!(!are_pongs(other));
            assert!(other.is_empty() || !are_pongs(&[&pong, other].concat()));
        }
    }
}
