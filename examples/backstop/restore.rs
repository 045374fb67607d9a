//! `restore`: brings a recovery point back, around what is damaged.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use backstop::{
    ByteCount, CpuPool, Error, FileTarget, PointId, RecoveryService, RestoreOptions, RestoreReport,
    Result, SourceName, Unlisted, restore_image,
};
use serde::Serialize;

use crate::arguments::RestoreArguments;
use crate::certificates::client;
use crate::ending::{Ending, Verdict};
use crate::interrupt::unless_interrupted;
use crate::output::{Output, warn};
use crate::progress::Watch;
use crate::report::{RangeReport, amount, short};
use crate::table::{Align, Table};
use crate::wire_arguments::ServerArguments;

#[derive(Debug, Serialize)]
struct Restored {
    id: PointId,
    source: SourceName,
    to: PathBuf,
    length: ByteCount,
    bytes_data: ByteCount,
    bytes_missing: ByteCount,
    /// The first ranges; there are more than these only where the next is not
    /// zero.
    missing: Vec<RangeReport>,
    ranges_unlisted: u64,
}

/// Restores a point of a protection server elsewhere.
pub async fn restore_from(
    server: &ServerArguments,
    arguments: &RestoreArguments,
    cpu: CpuPool,
    output: Output,
) -> Ending {
    let client = client(server)?.build()?.with_cpu_pool(cpu);
    unless_interrupted(restore(arguments, &client, output)).await?
}

/// Restores a point to a new file, in the place of one, or to a device.
pub async fn restore(
    arguments: &RestoreArguments,
    service: &dyn RecoveryService,
    output: Output,
) -> Ending {
    let point = arguments.point.find(service).await?;
    let opened = service.open(point.id).await?;
    let ([summary], [image]) = (&*opened.point.streams, &*opened.images) else {
        let sentence = format!(
            "recovery point {} has several images; export them",
            point.id
        );
        return Err(Error::invalid_input(sentence).into());
    };
    let target = target(arguments).await?.with_sync(!arguments.no_sync);
    let watch = Watch::new("restoring", output);
    let options = RestoreOptions::default();
    let from = (point.id, &summary.name);
    let report = restore_image(from, &**image, &target, options, &watch).await;
    watch.finish();
    let report = report?;
    let missing = report.missing_bytes();
    let restored = Restored {
        id: point.id,
        source: point.source,
        to: arguments.to.clone(),
        length: report.bytes,
        bytes_data: report.data_bytes,
        bytes_missing: missing,
        missing: ranges(&report),
        ranges_unlisted: report.unlisted.ranges,
    };
    output.print(&restored, text(&restored, &report))?;
    if report.missing.is_empty() {
        return Ok(Verdict::Done);
    }
    warn(format_args!(
        "{} was restored without {missing} bytes in {} ranges, which read as zeros; they are listed above; `check {} --image IMAGE --verify` brings back what the source still has",
        arguments.to.display(),
        report.missing_ranges(),
        restored.source,
    ));
    Ok(Verdict::RangesMissing)
}

async fn target(arguments: &RestoreArguments) -> Result<FileTarget> {
    let path = &arguments.to;
    match arguments.overwrite {
        false => FileTarget::create(path).await,
        true if is_device(path) => FileTarget::device(path).await,
        true => FileTarget::overwrite(path).await,
    }
}

#[cfg(unix)]
fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_block_device())
}

#[cfg(not(unix))]
fn is_device(_path: &Path) -> bool {
    false
}

fn ranges(report: &RestoreReport) -> Vec<RangeReport> {
    let ranges = report.missing.iter();
    ranges
        .map(|range| RangeReport::from(range.extent).with_error(&range.reason))
        .collect()
}

fn text(restored: &Restored, report: &RestoreReport) -> String {
    let mut text = format!(
        "restored {} of {} to {}: {}, {} of it data\n",
        short(restored.id),
        restored.source,
        restored.to.display(),
        amount(restored.length),
        amount(restored.bytes_data),
    );
    if !report.missing.is_empty() {
        let mut table = Table::new(&[
            ("missing at", Align::Right),
            ("bytes", Align::Right),
            ("why", Align::Left),
        ]);
        for range in &report.missing {
            table.row(vec![
                range.extent.offset().to_string(),
                range.extent.length().to_string(),
                range.reason.clone(),
            ]);
        }
        text.push_str(&table.to_string());
        let Unlisted { ranges, bytes, .. } = report.unlisted;
        if ranges > 0 {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{ranges} more ranges of {bytes} bytes are not listed");
        }
    }
    text
}
