//! Lists of changed extents, as a file of `offset length` lines.

use std::path::PathBuf;

use backstop_core::{ByteCount, Error, Extent, ExtentSet, Result};

use crate::blocking::blocking;
use crate::failure::failure;

/// Reads changed extents from a text file: lines of `offset length` in decimal
/// bytes, in any order; empty lines and lines that begin with `#` are passed
/// over. The whole file is held in memory while it is read.
///
/// # Errors
/// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) naming the file
/// and its first bad line; [`NotFound`](backstop_core::ErrorKind::NotFound).
pub async fn read_extents_file(path: impl Into<PathBuf>) -> Result<ExtentSet> {
    let path = path.into();
    blocking(move || {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| failure(&path, "can't be read as a list of extents", error))?;
        ExtentSet::parse(&text).map_err(|error| error.within(path.display()))
    })
    .await
}

/// Checks that changed extents lie inside an image of this length.
///
/// # Errors
/// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) naming the first
/// extent that does not.
pub fn check_extents(extents: &ExtentSet, image: ByteCount) -> Result<()> {
    if extents.end().0 <= image.0 {
        return Ok(());
    }
    // Sets are sorted: the first that ends past the image is the one to name.
    let outside = extents.iter().find(|extent| extent.end().0 > image.0);
    let outside = outside.unwrap_or(Extent::whole(ByteCount::ZERO));
    Err(Error::invalid_input(format!(
        "changed extent {outside} lies outside the image of {image} bytes"
    )))
}

#[cfg(test)]
mod tests {
    use backstop_core::{ByteOffset, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn bad_lists_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dirty.txt");
        std::fs::write(&path, "0 512\n4096 what\n").unwrap();
        let error = read_extents_file(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let text = error.to_string();
        assert!(
            text.contains("dirty.txt") && text.contains("line 2"),
            "{text}"
        );

        let missing = read_extents_file(folder.path().join("none")).await;
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(read_extents_file(&path).await.is_err());

        std::fs::write(&path, "# two\n512 512\n0 512\n").unwrap();
        let extents = read_extents_file(&path).await.unwrap();
        assert_eq!(
            extents.iter().collect::<Vec<_>>(),
            [Extent::whole(ByteCount(1024))]
        );
        check_extents(&extents, ByteCount(1024)).unwrap();
        let error = check_extents(&extents, ByteCount(1023)).unwrap_err();
        assert!(error.to_string().contains("0+1024"), "{error}");
        let far = Extent::new(ByteOffset(9000), ByteCount(1)).unwrap();
        let both = extents.iter().chain([far]).collect();
        let error = check_extents(&both, ByteCount(1024)).unwrap_err();
        assert!(error.to_string().contains("9000+1"), "{error}");
    }
}
