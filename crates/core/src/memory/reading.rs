//! What all images in memory do to be read.

use bytes::Bytes;

use crate::{BlockSource, ByteCount, Error, Extent, Result};

/// The bytes of a range that these parts of it hold, zeros elsewhere.
pub(super) fn plain<B: AsRef<[u8]>>(
    range: Extent,
    parts: impl IntoIterator<Item = (Extent, B)>,
) -> Result<Vec<u8>> {
    let mut plain = vec![0; range.length().to_usize()?];
    for (extent, data) in parts {
        let shared = extent.intersection(range);
        let index = |from: Extent| ByteCount(shared.offset().0 - from.offset().0).to_usize();
        let (to, from) = (index(range)?, index(extent)?);
        let count = shared.length().to_usize()?;
        plain[to..to + count].copy_from_slice(&data.as_ref()[from..from + count]);
    }
    Ok(plain)
}

/// Refuses a range that passes the end of what is named.
pub(super) fn check_range(name: &str, length: ByteCount, range: Extent) -> Result<()> {
    if Extent::whole(length).contains(range) {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "range {range} passes the end of {name} ({length} bytes)"
    )))
}

/// Reads ranges one after the other: memory has nothing to wait for.
pub(super) async fn one_by_one(image: &dyn BlockSource, extents: &[Extent]) -> Result<Vec<Bytes>> {
    let mut answers = Vec::with_capacity(extents.len());
    for extent in extents {
        answers.push(image.read(extent.offset(), extent.length()).await?);
    }
    Ok(answers)
}
