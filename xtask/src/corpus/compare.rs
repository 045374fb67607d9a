//! Finds which blocks of two images differ, by reading both.

use crate::corpus::pages::{Extent, PAGE_BYTES};
use crate::problem::{Context, Outcome};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

const BUFFER_BYTES: usize = 1 << 20;

/// The pages that differ, neighbours joined. Images of different lengths can't be compared.
pub fn changed(before: &Path, after: &Path) -> Outcome<Vec<Extent>> {
    let (mut left, mut right) = (open(before)?, open(after)?);
    let length = |file: &File| file.metadata().map(|facts| facts.len());
    if length(&left).context(before.display())? != length(&right).context(after.display())? {
        return Err(format!(
            "{} and {} differ in length",
            before.display(),
            after.display()
        ));
    }
    let mut extents: Vec<Extent> = Vec::new();
    let (mut one, mut other) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut offset = 0;
    loop {
        let count = fill(&mut left, &mut one).context(before.display())?;
        let same = fill(&mut right, &mut other).context(after.display())?;
        if count != same {
            return Err(format!("{} changed while it was read", after.display()));
        }
        if count == 0 {
            return Ok(extents);
        }
        if one[..count] != other[..count] {
            let page = usize::try_from(PAGE_BYTES).context("page")?;
            let pairs = one[..count].chunks(page).zip(other[..count].chunks(page));
            for (number, _) in pairs.enumerate().filter(|(_, (was, is))| was != is) {
                add(&mut extents, offset + number as u64 * PAGE_BYTES);
            }
        }
        offset += count as u64;
    }
}

/// Whether two files hold the same bytes.
pub fn identical(one: &Path, other: &Path) -> Outcome<bool> {
    Ok(changed(one, other)?.is_empty())
}

fn add(extents: &mut Vec<Extent>, offset: u64) {
    match extents.last_mut() {
        Some(last) if last.offset + last.length == offset => last.length += PAGE_BYTES,
        _ => extents.push(Extent {
            offset,
            length: PAGE_BYTES,
        }),
    }
}

fn open(path: &Path) -> Outcome<File> {
    File::open(path).context(path.display())
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined() {
        let mut extents = Vec::new();
        for offset in [0, 4096, 12288, 16384] {
            add(&mut extents, offset);
        }
        let ends: Vec<(u64, u64)> = extents
            .iter()
            .map(|each| (each.offset, each.length))
            .collect();
        assert_eq!(ends, [(0, 8192), (12288, 8192)]);
    }
}
