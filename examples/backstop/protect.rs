//! `protect` and `check`: makes a recovery point of an image.

use std::path::Path;
use std::sync::Arc;

use backstop::{
    Agent, AgentSettings, BlockSource, ByteCount, Changes, CpuPool, Event, FileSource,
    ProtectionServer, RecoveryPoint, Request, Result, SnapshotId, SourceName, StreamName,
    read_extents_file,
};
use serde::Serialize;

use crate::arguments::ProtectArguments;
use crate::ending::{Ending, Verdict};
use crate::output::{Output, warn};
use crate::point_reference::unknown_source;
use crate::progress::{Happened, Watch};
use crate::report::{PointReport, RangeReport, table};

#[derive(Debug, Serialize)]
struct Protected {
    #[serde(flatten)]
    point: PointReport,
    /// The first ranges that can't be read on the source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<RangeReport>,
}

/// Makes a recovery point: of everything, or of the changed extents.
pub async fn protect(
    arguments: &ProtectArguments,
    server: &ProtectionServer,
    cpu: &CpuPool,
    output: Output,
) -> Ending {
    let source = SourceName::new(&arguments.name)?;
    let image = FileSource::open(&arguments.image).await?;
    let changes = changes(arguments, &source, server).await?;
    let mut settings = AgentSettings::default();
    if let Some(slices) = arguments.sample {
        settings = settings.with_sample_slices(slices);
    }
    let job = Job {
        source,
        // An interrupted run of the same file, unchanged, is continued.
        snapshot: image.snapshot_id(),
        image: &image,
        changes,
        settings,
    };
    job.run(server, cpu, output).await
}

/// Compares an image with its replica, or with what is stored of that, and
/// makes a recovery point of it.
pub async fn check(
    name: &str,
    image: &Path,
    verify: bool,
    server: &ProtectionServer,
    cpu: &CpuPool,
    output: Output,
) -> Ending {
    let source = SourceName::new(name)?;
    if server
        .source(&source)
        .await?
        .and_then(|replica| replica.head)
        .is_none()
    {
        return Err(unknown_source(&source).into());
    }
    let image = FileSource::open(image).await?;
    if verify {
        // Lasts until a check has done it, should this one be interrupted.
        server.request_check(&source).await?;
    }
    let job = Job {
        source,
        snapshot: image.snapshot_id(),
        image: &image,
        changes: Changes::Unknown,
        settings: AgentSettings::default(),
    };
    job.run(server, cpu, output).await
}

/// What the arguments say of the changes.
async fn changes(
    arguments: &ProtectArguments,
    source: &SourceName,
    server: &ProtectionServer,
) -> Result<Changes> {
    let Some(path) = &arguments.extents else {
        return Ok(Changes::Unknown);
    };
    let extents = read_extents_file(path).await?;
    let base = match &arguments.base {
        Some(base) => Some(base.find(&*server.recovery_service()).await?.id),
        None => server
            .source(source)
            .await?
            .and_then(|replica| replica.head),
    };
    if let Some(base) = base {
        return Ok(Changes::Since { base, extents });
    }
    warn(format_args!(
        "source {source} has no recovery point yet: the extents are not used, everything is sent"
    ));
    Ok(Changes::Unknown)
}

/// A recovery point to be made.
pub struct Job<'a> {
    /// What to call the source.
    pub source: SourceName,
    /// What to read.
    pub image: &'a dyn BlockSource,
    /// What an interrupted run must have read to be continued.
    pub snapshot: Option<SnapshotId>,
    /// What may have changed.
    pub changes: Changes,
    /// How it is read.
    pub settings: AgentSettings,
}

impl Job<'_> {
    /// Makes the point and tells of it.
    pub async fn run(self, server: &ProtectionServer, cpu: &CpuPool, output: Output) -> Ending {
        let watch = Watch::new("protecting", output);
        let watch = Arc::new(match self.changes {
            Changes::Unknown => watch.expecting_check(),
            Changes::Since { .. } => watch,
        });
        let agent = Agent::new(server.service())
            .with_cpu_pool(cpu.clone())
            .with_settings(self.settings)
            .with_monitor(Arc::clone(&watch) as _);
        let mut request =
            Request::new(self.source).with_stream(StreamName::disk(), self.image, self.changes);
        if let Some(snapshot) = self.snapshot {
            request = request.with_snapshot(snapshot);
        }
        let outcome = agent.synchronize(request).await;
        let happened = watch.finish();
        // What it added to the vault is told by the server, not to the agent.
        let point = server.point(outcome?.id).await?;
        let protected = Protected {
            point: PointReport::from(&point),
            unreadable: unreadable(&happened),
        };
        output.print(&protected, table([&point]))?;
        Ok(verdict(&point))
    }
}

fn unreadable(happened: &Happened) -> Vec<RangeReport> {
    let events = happened.events.iter();
    let ranges = events.filter_map(|event| match event {
        Event::Unreadable { extent, error, .. } => {
            Some(RangeReport::from(*extent).with_error(error))
        }
        _ => None,
    });
    ranges.collect()
}

fn verdict(point: &RecoveryPoint) -> Verdict {
    if point.counts.bytes_unreadable == ByteCount::ZERO {
        return Verdict::Done;
    }
    warn(format_args!(
        "{} bytes of the source can't be read; they are recorded as unreadable, the rest is protected",
        point.counts.bytes_unreadable
    ));
    Verdict::BlocksUnreadable
}
