//! Which parts of a new file were written, in bounded memory: the others are
//! holes already.

use backstop_core::{ByteCount, ByteOffset, Extent, ExtentSet};

/// More ranges than this are remembered more coarsely.
const MOST_RANGES: usize = 1 << 15;

/// The ranges that were written, or more.
#[derive(Debug)]
pub(crate) struct Touched {
    ranges: ExtentSet,
    /// Ranges are widened to multiples of this, in bytes.
    grain: u64,
}

impl Touched {
    pub(crate) fn new() -> Self {
        Self {
            ranges: ExtentSet::new(),
            grain: 1,
        }
    }

    pub(crate) fn insert(&mut self, written: Extent) {
        self.ranges.insert(widened(written, self.grain));
        while self.ranges.len() > MOST_RANGES {
            // Starts with the page and quickly leaves few ranges.
            self.grain = self.grain.saturating_mul(16).max(4096);
            let grain = self.grain;
            self.ranges = self
                .ranges
                .iter()
                .map(|range| widened(range, grain))
                .collect();
        }
    }

    /// The parts of `range` that may hold something.
    pub(crate) fn within(&self, range: Extent) -> Vec<Extent> {
        self.ranges.within(range).collect()
    }
}

fn widened(range: Extent, grain: u64) -> Extent {
    range.aligned_out(ByteCount(grain), ByteOffset(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent::new(ByteOffset(offset), ByteCount(length)).unwrap()
    }

    #[test]
    fn memory_is_bounded_and_nothing_written_is_forgotten() {
        let mut touched = Touched::new();
        touched.insert(extent(5, 5));
        assert_eq!(touched.within(extent(0, 100)), [extent(5, 5)]);
        let gap = 1 << 20;
        for at in 0..3 * MOST_RANGES as u64 {
            touched.insert(extent(at * gap, 1));
        }
        assert!(touched.ranges.len() <= MOST_RANGES);
        for at in [0, 7, 3 * MOST_RANGES as u64 - 1] {
            assert_eq!(touched.within(extent(at * gap, 1)), [extent(at * gap, 1)]);
        }
        assert!(touched.within(extent(gap * (1 << 20), gap)).is_empty());
    }
}
