//! Comparing what was read of a region with the replica's slices. CPU work.

use backstop_core::{
    ByteOffset, CHECK_BLOCK_LENGTH, CheckSlice, ChunkDigest, Error, Extent, ExtentSet, Result,
    check_blocks, is_zero,
};

use crate::content::Content;

/// The first look at a region.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FirstLook {
    /// Slices of which some block may differ.
    pub(crate) differing: Vec<Extent>,
    /// What differs for certain.
    pub(crate) changed: ExtentSet,
}

/// The runs of a region that the slices make, checked: none empty, in order,
/// inside the region. Positions are the image's.
pub(crate) fn place(slices: &[CheckSlice], region: Extent) -> Result<Vec<(Extent, CheckSlice)>> {
    let mut end = region.offset();
    let mut placed = Vec::with_capacity(slices.len());
    for slice in slices {
        let start = region.offset().0.saturating_add(u64::from(slice.start));
        let run_end = start.saturating_add(u64::from(slice.length));
        let run = Extent::between(ByteOffset(start), ByteOffset(run_end));
        if run.is_empty() || run.offset() < end || !region.contains(run) {
            return Err(Error::internal(format!(
                "the service told slices of region {region} that are out of order or place at {run}"
            )));
        }
        end = run.end();
        placed.push((run, *slice));
    }
    Ok(placed)
}

/// Compares whole slices by their digests, and what no slice covers with
/// zeros.
pub(crate) fn first_look(
    slices: &[CheckSlice],
    region: Extent,
    content: &Content,
) -> Result<FirstLook> {
    let mut look = FirstLook::default();
    let mut hole_from = region.offset();
    for (run, slice) in place(slices, region)? {
        nonzero(
            Extent::between(hole_from, run.offset()),
            content,
            &mut look.changed,
        )?;
        hole_from = run.end();
        match slice.digest {
            None => look.changed.insert(run),
            Some(_) if content.is_unreadable(run) => look.differing.push(run),
            Some(digest) if ChunkDigest::of(&content.bytes(run)?) == digest => {}
            Some(_) => look.differing.push(run),
        }
    }
    nonzero(
        Extent::between(hole_from, region.end()),
        content,
        &mut look.changed,
    )?;
    Ok(look)
}

/// Compares slices block by block.
pub(crate) fn blocks(
    slices: &[Extent],
    digests: &[Option<ChunkDigest>],
    content: &Content,
    changed: &mut ExtentSet,
) -> Result<()> {
    let blocks = || slices.iter().flat_map(|slice| check_blocks(*slice));
    let count = blocks().count();
    if digests.len() != count {
        return Err(Error::internal(format!(
            "the service was asked for {count} blocks and answered for {}",
            digests.len()
        )));
    }
    for (block, digest) in blocks().zip(digests) {
        let equal = !content.is_unreadable(block)
            && *digest == Some(ChunkDigest::of(&content.bytes(block)?));
        if !equal {
            changed.insert(block);
        }
    }
    Ok(())
}

/// Finds the blocks of a hole of the replica that are no zeros in the source.
fn nonzero(hole: Extent, content: &Content, changed: &mut ExtentSet) -> Result<()> {
    // Only where something was read.
    let runs = content.extents().map(|run| run.intersection(hole));
    for run in runs.filter(|run| !run.is_empty()) {
        for block in aligned_blocks(run) {
            if content.is_unreadable(block) || !is_zero(&content.bytes(block)?) {
                changed.insert(block);
            }
        }
    }
    Ok(())
}

/// Cuts a range at multiples of the block in the image.
fn aligned_blocks(range: Extent) -> impl Iterator<Item = Extent> {
    let block = u64::from(CHECK_BLOCK_LENGTH);
    let first = range.offset().0 - range.offset().0 % block;
    let blocks = check_blocks(Extent::between(ByteOffset(first), range.end()));
    blocks.map(move |block| block.intersection(range))
}

#[cfg(test)]
mod tests {
    use backstop_core::ByteCount;
    use bytes::Bytes;

    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent::new(ByteOffset(offset), ByteCount(length)).unwrap()
    }

    fn slice(start: u32, data: &[u8]) -> CheckSlice {
        CheckSlice {
            start,
            length: u32::try_from(data.len()).unwrap(),
            digest: Some(ChunkDigest::of(data)),
            is_unreadable: false,
        }
    }

    #[test]
    fn only_what_differs_is_found() {
        let region = extent(1 << 22, 40_000);
        let data = Bytes::from(
            (0..20_000_u32)
                .map(|i| i.to_le_bytes()[0] | 1)
                .collect::<Vec<_>>(),
        );
        let content = Content::new(vec![(extent(1 << 22, 20_000), Some(data.clone()))]);
        let mut other = data.to_vec();
        other[9000] ^= 6;
        let slices = [
            slice(0, &data[..5000]),
            slice(5000, &other[5000..19_000]),
            slice(30_000, &[0; 99]),
        ];
        let look = first_look(&slices, region, &content).unwrap();
        let differing = extent((1 << 22) + 5000, 14_000);
        assert_eq!(look.differing, [differing]);
        // The replica has a hole where the data's end is.
        assert_eq!(
            look.changed.iter().collect::<Vec<_>>(),
            [extent((1 << 22) + 19_000, 1000)]
        );

        let digests: Vec<_> = other[5000..19_000]
            .chunks(4096)
            .map(|block| Some(ChunkDigest::of(block)))
            .collect();
        let mut changed = ExtentSet::new();
        blocks(&[differing], &digests, &content, &mut changed).unwrap();
        assert_eq!(
            changed.iter().collect::<Vec<_>>(),
            [extent((1 << 22) + 5000, 4096)]
        );
        assert!(blocks(&[differing], &digests[1..], &content, &mut changed).is_err());
    }

    #[test]
    fn slices_out_of_place_are_refused() {
        let region = extent(0, 1000);
        for bad in [
            vec![slice(0, &[1; 1001])],
            vec![slice(500, &[1; 10]), slice(0, &[1; 10])],
            vec![slice(0, &[1; 10]), slice(9, &[1; 10])],
            vec![slice(5, &[])],
        ] {
            assert!(
                first_look(&bad, region, &Content::default()).is_err(),
                "{bad:?}"
            );
        }
    }
}
