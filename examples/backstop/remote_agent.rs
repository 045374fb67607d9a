//! `agent`: protects images of this host at a protection server elsewhere.

use std::sync::Arc;
use std::time::Duration;

use backstop::{
    Agent, AgentSettings, BandwidthSchedule, Changes, CpuPool, Error, ErrorKind, FileSource,
    ProtectionService, RecoveryPoint, Request, Result, SourceName, StreamName, SystemLocalTime,
    TcpClient, read_extents_file,
};

use crate::certificates::client;
use crate::ending::{Ending, Stop, Verdict};
use crate::output::{Output, warn};
use crate::progress::Watch;
use crate::report::{PointReport, table};
use crate::signals::{Stops, now};
use crate::wire_arguments::{AgentArguments, Named};

/// Protects images once, or again and again until it is told to stop.
pub async fn agent(arguments: &AgentArguments, cpu: &CpuPool, output: Output) -> Ending {
    let mut stops = Stops::listen()?;
    let mut asked = now()?;
    let mut client = client(&arguments.server)?;
    if let Some(schedule) = &arguments.bandwidth {
        let schedule: BandwidthSchedule = schedule.parse()?;
        client = client.with_bandwidth(schedule, Arc::new(SystemLocalTime::new()?));
    }
    let client = client.build()?;
    let Some(every) = arguments.every else {
        let work = round(arguments, &client, cpu, output);
        return unless_stopped(work, &mut stops, arguments.stop_within).await?;
    };
    loop {
        let work = round(arguments, &client, cpu, output);
        match unless_stopped(work, &mut stops, arguments.stop_within).await {
            // The next round may do better.
            Ok(Err(Stop::Failed(error))) => warn(error),
            Ok(Err(stop)) => return Err(stop),
            Ok(Ok(_)) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = stops.told() => return Ok(Verdict::Done),
            _ = asked.recv() => {}
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// Runs to the end of the work, or for so long after the program was told to stop.
async fn unless_stopped<T>(
    work: impl Future<Output = T>,
    stops: &mut Stops,
    within: Duration,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return Ok(done),
        () = stops.told() => {}
    }
    tokio::select! {
        done = work => Ok(done),
        () = tokio::time::sleep(within) => {
            let sentence = "stopped; what the server has is continued by the next run";
            Err(Error::new(ErrorKind::Cancelled, sentence))
        }
        () = stops.told() => Err(Error::new(ErrorKind::Cancelled, "interrupted")),
    }
}

/// Each image once: one that can't be protected holds up no other.
async fn round(
    arguments: &AgentArguments,
    client: &TcpClient,
    cpu: &CpuPool,
    output: Output,
) -> Ending {
    let mut failed = None;
    for image in &arguments.images {
        let extents = arguments.extents.iter().find(|it| it.name == image.name);
        let told = (arguments.patience, output);
        match protect(image, extents, client, cpu, told).await {
            Ok(point) => output.print(&PointReport::from(&point), table([&point]))?,
            Err(error) if failed.is_none() => failed = Some(error),
            Err(error) => warn(error),
        }
    }
    failed.map_or(Ok(Verdict::Done), |error| Err(error.into()))
}

async fn protect(
    image: &Named,
    extents: Option<&Named>,
    client: &TcpClient,
    cpu: &CpuPool,
    (patience, output): (Duration, Output),
) -> Result<RecoveryPoint> {
    let source = SourceName::new(&image.name)?;
    let file = FileSource::open(&image.path).await?;
    let changes = match extents {
        Some(extents) => {
            let extents = read_extents_file(&extents.path).await?;
            let replica = client.replica(&source).await?;
            match replica.and_then(|replica| replica.head) {
                Some(base) => Changes::Since { base, extents },
                None => Changes::Unknown,
            }
        }
        None => Changes::Unknown,
    };
    let watch = Watch::new("protecting", output);
    let watch = Arc::new(match changes {
        Changes::Unknown => watch.expecting_check(),
        Changes::Since { .. } => watch,
    });
    let agent = Agent::new(Arc::new(client.clone()))
        .with_cpu_pool(cpu.clone())
        .with_settings(AgentSettings::default().with_patience(patience))
        .with_monitor(Arc::clone(&watch) as _);
    let mut request = Request::new(source).with_stream(StreamName::disk(), &file, changes);
    if let Some(snapshot) = file.snapshot_id() {
        request = request.with_snapshot(snapshot);
    }
    let point = agent.synchronize(request).await;
    watch.finish();
    point
}
