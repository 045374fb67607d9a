//! `export`: brings a recovery point out as an image of a format that virtual
//! machines take. Raw images are written here; for the others `qemu-img` reads
//! the point from a server of ours, so that no raw copy is ever made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstop::{
    ByteCount, ByteOffset, Error, ErrorKind, Extent, FileDraft, FileTarget, NbdExport, NbdServer,
    NbdServerLimits, PointId, ProtectionServer, REGION_LENGTH, Recovery, RecoveryPoint,
    RestoreOptions, Result, SourceName, StreamName,
};
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use crate::arguments::ExportArguments;
use crate::ending::{Ending, Verdict};
use crate::image_format::ImageFormat;
use crate::observed::Observed;
use crate::output::Output;
use crate::progress::Watch;
use crate::qemu;
use crate::report::{amount, short};

/// So many ranges are named in the error of a point that can't be exported.
const MOST_NAMED: usize = 8;

#[derive(Debug, Serialize)]
struct Exported {
    id: PointId,
    source: SourceName,
    stream: StreamName,
    to: PathBuf,
    format: ImageFormat,
    /// Of the image that was protected.
    length: ByteCount,
    /// Of the disk that the file holds: some formats round it up, with zeros.
    virtual_length: ByteCount,
    bytes_read: ByteCount,
    bytes_file: ByteCount,
}

/// Exports a point to a new file, or in the place of one.
pub async fn export(
    arguments: &ExportArguments,
    server: &ProtectionServer,
    output: Output,
) -> Ending {
    let point = arguments.point.find(&*server.recovery_service()).await?;
    let stream = stream(&point, arguments.stream.as_deref())?;
    let image = server.open_stream(point.id, &stream).await?;
    let draft = if arguments.overwrite {
        FileDraft::overwrite(&arguments.to).await?
    } else {
        FileDraft::create(&arguments.to).await?
    };
    let length = image.geometry().length;
    let job = Job {
        point: &point,
        stream: &stream,
        image,
        draft: draft.path(),
        watch: Arc::new(Watch::new("exporting", output)),
    };
    let filled = match arguments.format {
        ImageFormat::Raw => job.write(server).await,
        format => job.convert(format).await,
    };
    job.watch.finish();
    let filled = filled?;
    let bytes_file = file_length(draft.path())?;
    draft.finish(!arguments.no_sync).await?;
    let exported = Exported {
        id: point.id,
        source: point.source,
        stream,
        to: arguments.to.clone(),
        format: arguments.format,
        length,
        virtual_length: filled.virtual_length,
        bytes_read: filled.bytes_read,
        bytes_file,
    };
    output.print(&exported, text(&exported))?;
    Ok(Verdict::Done)
}

/// The image that is meant: the named one, or the only one.
fn stream(point: &RecoveryPoint, name: Option<&str>) -> Result<StreamName> {
    if let Some(name) = name {
        return StreamName::new(name);
    }
    match &point.streams[..] {
        [only] => Ok(only.name.clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|stream| stream.name.as_str()).collect();
            Err(Error::invalid_input(format!(
                "recovery point {} has several images; name one with --stream: {}",
                point.id,
                names.join(", ")
            )))
        }
    }
}

/// An export under way.
struct Job<'a> {
    point: &'a RecoveryPoint,
    stream: &'a StreamName,
    image: Arc<dyn Recovery>,
    draft: &'a Path,
    watch: Arc<Watch>,
}

/// A file that holds the whole image.
struct Filled {
    virtual_length: ByteCount,
    bytes_read: ByteCount,
}

/// A range that can't be had, what that means, and why.
type Gap = (Extent, ErrorKind, String);

impl Job<'_> {
    /// Writes the image as it is.
    async fn write(&self, server: &ProtectionServer) -> Result<Filled> {
        // The draft is made durable when it is whole.
        let target = FileTarget::in_place(self.draft).await?.with_sync(false);
        let options = RestoreOptions::default();
        let report = server
            .restore_with(
                self.point.id,
                Some(self.stream),
                &target,
                options,
                &*self.watch,
            )
            .await?;
        if !report.missing.is_empty() {
            let gaps = report.missing.iter();
            let gaps = gaps.map(|gap| (gap.extent, gap.kind, gap.reason.clone()));
            let ranges = report.missing_ranges();
            return Err(self.not_whole(gaps.collect(), ranges, report.missing_bytes()));
        }
        Ok(Filled {
            virtual_length: report.bytes,
            bytes_read: report.data_bytes,
        })
    }

    /// Lets `qemu-img` read the image from us and write the file.
    async fn convert(&self, format: ImageFormat) -> Result<Filled> {
        let folder = qemu::private_folder()?;
        let socket = folder.path().join("nbd");
        let listener = UnixListener::bind(&socket).map_err(|error| {
            let sentence = format!("no socket can be made at {}", socket.display());
            Error::unavailable(sentence).with_source(error)
        })?;
        let observed = Observed::new(Arc::clone(&self.image), Arc::clone(&self.watch));
        let observed = Arc::new(observed);
        let export = NbdExport::read_only(Arc::clone(&observed) as _);
        // Hardly more at once than a restore, for the memory; one more, since
        // `qemu-img` writes what it has read before it asks on.
        let limits = NbdServerLimits {
            connections: 1,
            requests_in_flight: RestoreOptions::default().regions_in_flight + 1,
            ..NbdServerLimits::default()
        };
        let server = NbdServer::new().with_export("", export).with_limits(limits);
        let (stop, stopped) = oneshot::channel::<()>();
        let converting = async {
            let converted = qemu::convert(&socket, format, self.draft).await;
            drop(stop);
            converted
        };
        let stopped = async {
            // Nothing is ever sent: it ends with the conversion.
            let _ = stopped.await;
        };
        let (converted, ()) = tokio::join!(converting, server.serve_unix(listener, stopped));
        let seen = observed.seen();
        let gaps = self.gaps(&seen.failed).await?;
        if !gaps.is_empty() {
            let ranges = gaps.len() as u64;
            let bytes = gaps.iter().map(|(extent, ..)| extent.length()).sum();
            return Err(self.not_whole(gaps, ranges, bytes));
        }
        converted?;
        if !seen.failed.is_empty() {
            return Err(Error::unavailable(format!(
                "recovery point {} could not be read for a while; export it again",
                self.point.id
            )));
        }
        let virtual_length = ByteCount(qemu::info(self.draft, Some(format)).await?.virtual_size);
        if virtual_length < self.image.geometry().length {
            return Err(Error::internal(format!(
                "qemu-img made a disk of {virtual_length} bytes of an image of {}",
                self.image.geometry().length
            )));
        }
        Ok(Filled {
            virtual_length,
            bytes_read: seen.bytes,
        })
    }

    /// What exactly is missing of ranges that could not be read.
    async fn gaps(&self, failed: &[Extent]) -> Result<Vec<Gap>> {
        let mut gaps = Vec::new();
        for part in failed.iter().copied().flat_map(by_region) {
            match self.image.recover(part).await {
                Ok(found) => {
                    let missing = found.missing.into_iter();
                    gaps.extend(missing.map(|(gap, error)| (gap, error.kind(), error.to_string())));
                }
                // A map that can't be read costs its own region.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    gaps.push((part, error.kind(), error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        gaps.sort_by_key(|(gap, ..)| *gap);
        gaps.dedup_by_key(|(gap, ..)| *gap);
        Ok(gaps)
    }

    /// The error for an image that is not whole: nothing that looks like one is
    /// made of it.
    fn not_whole(&self, gaps: Vec<Gap>, ranges: u64, bytes: ByteCount) -> Error {
        let mut kinds = gaps.iter().map(|(_, kind, _)| *kind);
        let kind = kinds.find(|kind| *kind != ErrorKind::Unreadable);
        let mut named: Vec<String> = gaps
            .into_iter()
            .take(MOST_NAMED)
            .map(|(gap, _, reason)| format!("{gap} ({reason})"))
            .collect();
        if ranges > named.len() as u64 {
            named.push("and more".to_owned());
        }
        Error::new(
            kind.unwrap_or(ErrorKind::Unreadable),
            format!(
                "image {} of recovery point {} is not exported, since {bytes} bytes of it in {ranges} ranges can't be had: {}; `restore` brings back the rest, `check {} --image IMAGE --verify` what the source still has",
                self.stream,
                self.point.id,
                named.join(", "),
                self.point.source
            ),
        )
    }
}

/// A range in parts of one region each.
fn by_region(range: Extent) -> impl Iterator<Item = Extent> {
    let region = u64::from(REGION_LENGTH);
    let (start, end) = (range.offset().0, range.end().0);
    (start / region..end.div_ceil(region)).map(move |index| {
        let from = start.max(index * region);
        let to = end.min((index + 1) * region);
        Extent::between(ByteOffset(from), ByteOffset(to))
    })
}

fn file_length(path: &Path) -> Result<ByteCount> {
    let facts = std::fs::metadata(path).map_err(|error| {
        let sentence = format!("{} can't be looked at", path.display());
        Error::unavailable(sentence).with_source(error)
    })?;
    Ok(ByteCount(facts.len()))
}

fn text(exported: &Exported) -> String {
    let beyond = match exported.virtual_length.0.saturating_sub(exported.length.0) {
        0 => String::new(),
        bytes => format!("; its disk is {bytes} bytes longer, all zeros"),
    };
    format!(
        "exported {} of {} to {}: {}, {} of it read{beyond}\n",
        short(exported.id),
        exported.source,
        exported.to.display(),
        amount(exported.length),
        amount(exported.bytes_read),
    )
}
