//! Reading a source around the blocks that it can't read.

use backstop_core::{BlockSource, ByteOffset, Error, ErrorKind, Extent, Result};
use bytes::Bytes;

use crate::content::Content;

/// What was read, in order, and what could not be.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) runs: Vec<(Extent, Option<Bytes>)>,
    /// Each with what the source said.
    pub(crate) unreadable: Vec<(Extent, String)>,
}

impl Outcome {
    /// How many bytes were read.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.runs
            .iter()
            .filter_map(|(_, bytes)| Some(bytes.as_ref()?.len() as u64))
            .sum()
    }

    /// What was read of one region out of many.
    pub(crate) fn within(&self, region: Extent) -> Content {
        let first = self
            .runs
            .partition_point(|(extent, _)| extent.end() <= region.offset());
        let last = self
            .runs
            .partition_point(|(extent, _)| extent.offset() < region.end());
        Content::new(self.runs[first..last.max(first)].to_vec())
    }
}

/// Reads ranges that are in order and don't overlap. Unreadable parts are
/// narrowed down to the source's blocks and left out.
///
/// # Errors
/// Those of the source, but [`Unreadable`](ErrorKind::Unreadable).
pub(crate) async fn read(image: &dyn BlockSource, extents: &[Extent]) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    if extents.is_empty() {
        return Ok(outcome);
    }
    match image.read_extents(extents).await {
        Ok(answers) => {
            if answers.len() != extents.len() {
                return Err(Error::internal(format!(
                    "the source answered {} of {} ranges",
                    answers.len(),
                    extents.len()
                )));
            }
            for (extent, bytes) in extents.iter().zip(answers) {
                outcome.runs.push((*extent, Some(exact(*extent, bytes)?)));
            }
        }
        Err(error) if error.kind() == ErrorKind::Unreadable => {
            for extent in extents {
                narrow(image, *extent, &mut outcome).await?;
            }
        }
        Err(error) => return Err(error),
    }
    Ok(outcome)
}

/// Reads a range in halves until what can't be read is single blocks.
async fn narrow(image: &dyn BlockSource, extent: Extent, outcome: &mut Outcome) -> Result<()> {
    // The part to read next is the last.
    let mut parts = vec![extent];
    while let Some(part) = parts.pop() {
        match image.read(part.offset(), part.length()).await {
            Ok(bytes) => {
                let bytes = exact(part, bytes)?;
                outcome.runs.push((part, Some(bytes)));
            }
            Err(error) if error.kind() == ErrorKind::Unreadable => {
                match halves(part, image.geometry().block.0) {
                    Some((first, second)) => parts.extend([second, first]),
                    None => outcome.unreadable_block(part, &error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Outcome {
    fn unreadable_block(&mut self, block: Extent, error: &Error) {
        self.runs.push((block, None));
        match self.unreadable.last_mut() {
            Some((last, _)) if last.end() == block.offset() => {
                *last = Extent::between(last.offset(), block.end());
            }
            _ => self.unreadable.push((block, error.to_string())),
        }
    }
}

/// Cuts a range at the block boundary nearest its middle; none if it lies in
/// one block.
fn halves(extent: Extent, block: u64) -> Option<(Extent, Extent)> {
    let block = block.max(1);
    let first = extent.offset().0 / block;
    let last = extent.end().0.div_ceil(block);
    if last - first < 2 {
        return None;
    }
    let middle = ByteOffset((first + (last - first) / 2) * block);
    Some((
        Extent::between(extent.offset(), middle),
        Extent::between(middle, extent.end()),
    ))
}

/// Refuses an answer of another length: such a source must not be trusted.
fn exact(extent: Extent, bytes: Bytes) -> Result<Bytes> {
    if bytes.len() as u64 == extent.length().0 {
        return Ok(bytes);
    }
    Err(Error::internal(format!(
        "the source gave {} bytes for range {extent}",
        bytes.len()
    )))
}

#[cfg(test)]
mod tests {
    use backstop_core::ByteCount;
    use backstop_core::memory::MemorySource;

    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent::new(ByteOffset(offset), ByteCount(length)).unwrap()
    }

    #[tokio::test]
    async fn only_bad_blocks_are_left_out() {
        let data: Vec<u8> = (0..100_000_u32)
            .map(|i| (i % 251).to_le_bytes()[0])
            .collect();
        let source = MemorySource::new(data.clone())
            .with_block(ByteCount(512))
            .with_unreadable(extent(5000, 1))
            .with_unreadable(extent(40_960, 1024))
            .with_unreadable(extent(99_999, 1));
        let ranges = [
            extent(10, 4980),
            extent(4999, 60_000),
            extent(70_000, 30_000),
        ];
        let outcome = read(&source, &ranges).await.unwrap();
        let bad: Vec<Extent> = outcome
            .unreadable
            .iter()
            .map(|(extent, _)| *extent)
            .collect();
        // The first range ends in the bad block.
        assert_eq!(
            bad,
            [
                extent(4608, 512).intersection(ranges[0]),
                extent(4999, 121),
                extent(40_960, 1024),
                extent(99_840, 160)
            ]
        );
        let mut covered = Vec::new();
        for (extent, bytes) in &outcome.runs {
            covered.push(*extent);
            if let Some(bytes) = bytes {
                let start = usize::try_from(extent.offset().0).unwrap();
                assert_eq!(bytes[..], data[start..start + bytes.len()]);
            }
        }
        let total: u64 = covered.iter().map(|e| e.length().0).sum();
        assert_eq!(total, ranges.iter().map(|e| e.length().0).sum::<u64>());
        assert!(
            covered
                .windows(2)
                .all(|pair| pair[0].end() <= pair[1].offset())
        );
    }
}
