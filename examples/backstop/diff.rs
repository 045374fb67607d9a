//! `diff`: where two recovery points may differ.

use std::fmt::Write;

use backstop::{ProtectionServer, StreamName};
use futures::TryStreamExt;

use crate::ending::{Ending, Verdict};
use crate::output::{Output, write_out};
use crate::point_reference::PointReference;

/// Text is written out in pieces of this many bytes.
const PIECE: usize = 64 << 10;

/// Prints the ranges as they are found, however many there are: as the lines
/// that `protect --extents` takes, or as a JSON array.
pub async fn diff(
    from: &PointReference,
    to: &PointReference,
    server: &ProtectionServer,
    output: Output,
) -> Ending {
    let (from, to) = (from.find(server).await?, to.find(server).await?);
    let disk = StreamName::disk();
    let mut ranges = server.compare((from.id, &disk), (to.id, &disk)).await?;
    let mut text = String::new();
    let mut separator = "[";
    while let Some(range) = ranges.try_next().await? {
        let (offset, length) = (range.offset(), range.length());
        // Writing to a string can't fail.
        let _ = match output {
            Output::People => writeln!(text, "{offset} {length}"),
            Output::Programs => {
                write!(
                    text,
                    r#"{separator}{{"offset":{offset},"length":{length}}}"#
                )
            }
        };
        separator = ",";
        if text.len() >= PIECE {
            write_out(&text)?;
            text.clear();
        }
    }
    if output.is_json() {
        text.push_str(if separator == "[" { "[]\n" } else { "]\n" });
    }
    write_out(&text)?;
    Ok(Verdict::Done)
}
