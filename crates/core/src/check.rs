//! How a consistency check cuts what it compares.

use crate::{ByteCount, ByteOffset, Error, Extent, RegionIndex, Result};

/// The block in which differences inside a slice are found, in bytes: 4 KiB.
pub const CHECK_BLOCK_LENGTH: u32 = 4096;

/// The blocks of [`CHECK_BLOCK_LENGTH`] bytes of a range, counted from its
/// start; the last one may be shorter.
pub fn check_blocks(range: Extent) -> impl Iterator<Item = Extent> {
    let starts = (range.offset().0..range.end().0).step_by(CHECK_BLOCK_LENGTH as usize);
    starts.map(move |start| {
        let end = start.saturating_add(u64::from(CHECK_BLOCK_LENGTH));
        Extent::between(ByteOffset(start), ByteOffset(end.min(range.end().0)))
    })
}

/// Refuses ranges, relative to a region of this length, that are unsorted,
/// overlap, or pass its end.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) naming the range.
pub fn check_ranges(region: RegionIndex, length: ByteCount, ranges: &[Extent]) -> Result<()> {
    let mut end = ByteOffset(0);
    for range in ranges {
        if range.offset() < end || range.end().0 > length.0 {
            return Err(Error::invalid_input(format!(
                "range {range} of region {} ({length} bytes) is out of order, overlaps the one before, \
                 or passes the region's end",
                region.0
            )));
        }
        end = range.end();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent::new(ByteOffset(offset), ByteCount(length)).unwrap()
    }

    #[test]
    fn blocks_cover_a_range_from_its_start() {
        let blocks: Vec<_> = check_blocks(extent(100, 9000)).collect();
        assert_eq!(
            blocks,
            [extent(100, 4096), extent(4196, 4096), extent(8292, 808)]
        );
        assert_eq!(check_blocks(extent(7, 0)).next(), None);
    }

    #[test]
    fn ranges_out_of_place_are_refused() {
        let check = |ranges: &[Extent]| check_ranges(RegionIndex(3), ByteCount(1000), ranges);
        check(&[]).unwrap();
        check(&[extent(0, 10), extent(10, 0), extent(10, 990)]).unwrap();
        for bad in [
            [extent(0, 10), extent(9, 1)],
            [extent(5, 10), extent(0, 1)],
            [extent(0, 1), extent(999, 2)],
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
