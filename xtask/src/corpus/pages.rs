//! Scattered page writes, as a busy database leaves them, and the list of changed extents that tells where they went.

use crate::problem::{Context, Outcome};
use crate::random::Random;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What file systems and databases write at once.
pub const PAGE_BYTES: u64 = 4096;

/// A changed range of an image, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins
    pub offset: u64,
    /// How long it is
    pub length: u64,
}

/// Overwrites `count` pages of the image at places drawn from the seed, half of each page incompressible.
pub fn scatter(image: &Path, count: u64, seed: u64) -> Outcome<Vec<Extent>> {
    let file = OpenOptions::new()
        .write(true)
        .open(image)
        .context(image.display())?;
    let pages = length(&file, image)? / PAGE_BYTES;
    let mut random = Random::new(seed);
    let places = random.sample(pages, count);
    let mut page = vec![0; usize::try_from(PAGE_BYTES).context("page")?];
    for &place in &places {
        fill(&mut page, place, &mut random);
        file.write_all_at(&page, place * PAGE_BYTES)
            .context(image.display())?;
    }
    Ok(places
        .into_iter()
        .map(|place| Extent {
            offset: place * PAGE_BYTES,
            length: PAGE_BYTES,
        })
        .collect())
}

/// One page: random bytes, then rows of text.
fn fill(page: &mut [u8], place: u64, random: &mut Random) {
    let (noise, rows) = page.split_at_mut(page.len() / 2);
    random.fill(noise);
    let row = format!("{place:012} row data value ");
    for (byte, letter) in rows.iter_mut().zip(row.bytes().cycle()) {
        *byte = letter;
    }
}

/// Writes one `offset length` line for each extent, in bytes: what a changed-block tracker would say.
pub fn write_extents(extents: &[Extent], path: &Path) -> Outcome<()> {
    let mut text = String::new();
    for extent in extents {
        writeln!(text, "{} {}", extent.offset, extent.length).context("extents")?;
    }
    std::fs::write(path, text).context(path.display())
}

/// Reads what [`write_extents`] wrote.
pub fn read_extents(path: &Path) -> Outcome<Vec<Extent>> {
    let text = std::fs::read_to_string(path).context(path.display())?;
    let wrong = || format!("{} holds other than `offset length` lines", path.display());
    text.lines()
        .map(|line| {
            let (offset, length) = line.split_once(' ').context(wrong())?;
            Ok(Extent {
                offset: offset.parse().context(wrong())?,
                length: length.trim().parse().context(wrong())?,
            })
        })
        .collect()
}

/// How many bytes the extents hold.
pub fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.length).sum()
}

fn length(file: &File, path: &Path) -> Outcome<u64> {
    Ok(file.metadata().context(path.display())?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::compare::changed;

    #[test]
    fn scattered_pages_are_exactly_the_extents_told() {
        let folder = std::env::temp_dir().join(format!("xtask-pages-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (before, after) = (folder.join("before"), folder.join("after"));
        File::create(&before).unwrap().set_len(1 << 20).unwrap();
        File::create(&after).unwrap().set_len(1 << 20).unwrap();
        let told = scatter(&after, 20, 3).unwrap();
        assert_eq!(total(&told), 20 * PAGE_BYTES);
        let found = changed(&before, &after).unwrap();
        assert_eq!(total(&found), total(&told));
        let list = folder.join("extents");
        write_extents(&told, &list).unwrap();
        assert_eq!(read_extents(&list).unwrap(), told);
        std::fs::write(&list, "12 x\n").unwrap();
        assert!(read_extents(&list).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
