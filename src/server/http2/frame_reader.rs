//! Bytes as they come, cut anywhere, to whole frames.
#![forbid(unsafe_code)]

use super::frame::{HEAD_BYTES, Head, PAYLOAD_MAX, PREFACE, Reason};

/// A buffer for cut frames that an idle connection may keep.
const PARTIAL_KEPT_BYTES: usize = 512;

/// What a connection has received and not understood.
pub(super) struct FrameReader {
    /// Bytes of the preface still to come.
    preface_left: usize,
    /// A frame that the end of a read has cut.
    partial: Vec<u8>,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self { preface_left: PREFACE.len(), partial: Vec::new() }
    }
}

impl FrameReader {
    /// Bytes of a frame that is not whole.
    pub(super) fn held(&self) -> usize {
        self.partial.len()
    }

    /// Gives back memory that an idle connection does not need.
    pub(super) fn shrink(&mut self) {
        if self.partial.is_empty() && self.partial.capacity() > PARTIAL_KEPT_BYTES {
            self.partial = Vec::new();
        }
    }

    /// Hands each frame that is whole now to `take`.
    ///
    /// # Errors
    /// What `take` refuses a frame with; when the preface is another, or a frame is too long.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Head, &[u8]) -> Result<(), Reason>,
    ) -> Result<(), Reason> {
        let mut bytes = self.skip_preface(bytes)?;
        while !self.partial.is_empty() {
            let whole = match self.partial.first_chunk() {
                Some(head) => HEAD_BYTES + check_length(Head::parse(*head))?.length,
                None => HEAD_BYTES,
            };
            let step = (whole - self.partial.len()).min(bytes.len());
            self.partial.extend_from_slice(&bytes[..step]);
            bytes = &bytes[step..];
            let Some(head) = self.partial.first_chunk() else { return Ok(()) };
            let head = check_length(Head::parse(*head))?;
            if self.partial.len() < HEAD_BYTES + head.length {
                if bytes.is_empty() {
                    return Ok(());
                }
                continue;
            }
            let mut partial = std::mem::take(&mut self.partial);
            take(head, &partial[HEAD_BYTES..])?;
            partial.clear();
            self.partial = partial;
        }
        while let Some(head) = bytes.first_chunk() {
            let head = check_length(Head::parse(*head))?;
            let Some(payload) = bytes.get(HEAD_BYTES..HEAD_BYTES + head.length) else { break };
            take(head, payload)?;
            bytes = &bytes[HEAD_BYTES + head.length..];
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// What follows the preface.
    fn skip_preface<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Reason> {
        let (preface, rest) = bytes.split_at(self.preface_left.min(bytes.len()));
        if !PREFACE[PREFACE.len() - self.preface_left..].starts_with(preface) {
            return Err(Reason::ProtocolError);
        }
        self.preface_left -= preface.len();
        Ok(rest)
    }
}

fn check_length(head: Head) -> Result<Head, Reason> {
    if head.length > PAYLOAD_MAX { Err(Reason::FrameSizeError) } else { Ok(head) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two frames, one of them empty.
    fn sent() -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        bytes.extend([0, 0, 3, 6, 0, 0, 0, 0, 1, b'a', b'b', b'c']);
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn frames_are_the_same_wherever_the_bytes_are_cut() {
        let sent = sent();
        for cut in 0..=sent.len() {
            let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
            for part in [&sent[..cut], &sent[cut..]] {
                let take = |head: Head, payload: &[u8]| {
                    frames.push((head.kind, head.stream, payload.to_vec()));
                    Ok(())
                };
                reader.read(part, take).unwrap();
            }
            assert_eq!(frames, [(6, 1, b"abc".to_vec()), (4, 0, Vec::new())], "cut at {cut}");
            assert_eq!(reader.held(), 0);
        }
    }

    #[test]
    fn another_preface_is_refused_at_its_first_wrong_byte() {
        let mut reader = FrameReader::default();
        assert_eq!(reader.read(b"PRI * HTTP/2.0\r\n", |_, _| Ok(())), Ok(()));
        assert_eq!(reader.read(b"\n", |_, _| Ok(())), Err(Reason::ProtocolError));
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_has_come() {
        let mut reader = FrameReader::default();
        reader.read(PREFACE, |_, _| Ok(())).unwrap();
        assert_eq!(reader.read(&[0, 0x40, 1, 0, 0, 0, 0, 0, 1], |_, _| Ok(())), Err(Reason::FrameSizeError));
    }
}
