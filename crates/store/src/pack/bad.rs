//! Frames that are known to be unreadable.

use std::collections::{HashSet, VecDeque};

use backstop_core::ChunkDigest;

use super::frame::Content;

/// How many frames are remembered as bad.
pub(super) const BAD_REMEMBERED: usize = 32 << 10;

/// Frames that could not be read where the catalog says that they stand, the
/// oldest forgotten first: what is found is sent again at once, so that few wait.
/// The catalog of an owner keeps the same ones.
#[derive(Debug, Default)]
pub(super) struct Bad {
    frames: HashSet<(Content, ChunkDigest)>,
    order: VecDeque<(Content, ChunkDigest)>,
}

impl Bad {
    /// Tells whether it is new; and what is forgotten for it.
    pub(super) fn insert(
        &mut self,
        frame: (Content, ChunkDigest),
    ) -> (bool, Option<(Content, ChunkDigest)>) {
        if !self.frames.insert(frame) {
            return (false, None);
        }
        self.order.push_back(frame);
        if self.order.len() <= BAD_REMEMBERED {
            return (true, None);
        }
        let oldest = self.order.pop_front();
        (true, oldest.filter(|oldest| self.frames.remove(oldest)))
    }

    /// Tells whether it was there. Its place in the order stays: that costs at
    /// worst a mark too early.
    pub(super) fn remove(&mut self, frame: &(Content, ChunkDigest)) -> bool {
        self.frames.remove(frame)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &(Content, ChunkDigest)> {
        self.frames.iter()
    }

    pub(super) fn contains(&self, frame: &(Content, ChunkDigest)) -> bool {
        self.frames.contains(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_frames_are_remembered_within_bounds() {
        let mut bad = Bad::default();
        let frame = |number: usize| (Content::Chunk, ChunkDigest::of(&number.to_le_bytes()));
        for number in 0..BAD_REMEMBERED + 10 {
            bad.insert(frame(number));
            if number % 3 == 0 {
                bad.remove(&frame(number));
            }
        }
        assert!(bad.frames.len() <= BAD_REMEMBERED && bad.order.len() <= BAD_REMEMBERED);
        assert!(!bad.frames.contains(&frame(1)));
        assert!(bad.frames.contains(&frame(BAD_REMEMBERED + 9)));
    }
}
