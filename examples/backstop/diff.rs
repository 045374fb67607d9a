//! `diff`: where two recovery points may differ.

use std::fmt::Write;

use backstop::{Error, Extent, ProtectionServer, StreamName};
use futures::TryStreamExt;

use crate::ending::{Ending, Stop, Verdict};
use crate::output::{Output, error_object, write_out};
use crate::point_reference::PointReference;

/// Text is written out in pieces of this many bytes.
const PIECE: usize = 64 << 10;

/// Prints the ranges as they are found, however many there are: as the lines
/// that `protect --extents` takes, or as a JSON array. If it fails in the
/// middle, the error is the array's last element.
pub async fn diff(
    from: &PointReference,
    to: &PointReference,
    server: &ProtectionServer,
    output: Output,
) -> Ending {
    let (from, to) = (
        from.find(&*server.recovery_service()).await?,
        to.find(&*server.recovery_service()).await?,
    );
    let disk = StreamName::disk();
    let mut ranges = server.compare((from.id, &disk), (to.id, &disk)).await?;
    let mut list = List::new(output);
    loop {
        match ranges.try_next().await {
            Ok(Some(range)) => list.add(range)?,
            Ok(None) => return list.end(),
            Err(error) => return list.fail(error),
        }
    }
}

/// A list that is written out while it grows.
struct List {
    output: Output,
    text: String,
    separator: &'static str,
    is_begun: bool,
}

impl List {
    fn new(output: Output) -> Self {
        Self {
            output,
            text: String::new(),
            separator: "[",
            is_begun: false,
        }
    }

    fn add(&mut self, range: Extent) -> Result<(), Stop> {
        let (offset, length) = (range.offset(), range.length());
        match self.output {
            Output::People => self.push(format_args!("{offset} {length}\n")),
            Output::Programs => {
                self.element(format_args!(r#"{{"offset":{offset},"length":{length}}}"#));
            }
        }
        if self.text.len() >= PIECE {
            write_out(&self.text)?;
            self.text.clear();
            self.is_begun = true;
        }
        Ok(())
    }

    fn element(&mut self, element: std::fmt::Arguments<'_>) {
        self.text.push_str(self.separator);
        self.separator = ",";
        self.push(element);
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string can't fail.
        let _ = self.text.write_fmt(text);
    }

    fn end(mut self) -> Ending {
        if self.output.is_json() {
            let end = if self.separator == "[" { "[]\n" } else { "]\n" };
            self.text.push_str(end);
        }
        write_out(&self.text)?;
        Ok(Verdict::Done)
    }

    /// What was found before the error is of use to people, and to programs
    /// only if some of it is out already.
    fn fail(mut self, error: Error) -> Ending {
        match self.output {
            Output::Programs if !self.is_begun => return Err(Stop::Failed(error)),
            Output::Programs => {
                self.element(format_args!("{}", error_object(&error)));
                self.text.push_str("]\n");
            }
            Output::People => {}
        }
        write_out(&self.text)?;
        Err(Stop::Reported(error))
    }
}
