//! Brings an image of a recovery point back to a block target.

use std::sync::Mutex;
use std::sync::PoisonError;

use backstop_core::{
    BlockTarget, BufferPool, ByteCount, ByteOffset, Error, ErrorKind, Event, Extent, ExtentSet,
    Monitor, PointId, Progress, REGION_LENGTH, RecoveredRange, Recovery, Result, StreamName,
};
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use metrics::counter;
use tracing::instrument;

use crate::extents::{Part, Parts};
use crate::missing::{Missing, MissingRange, Unlisted};
use crate::recover::only_stream;
use crate::server::ProtectionServer;

/// Neighbouring chunks are written together up to this many bytes: 1 MiB.
const WRITE_BYTES: usize = 1 << 20;

/// How an image is brought back: plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreOptions {
    /// How many regions are read, checked and written at once; at least one.
    /// Each holds up to 5 MiB.
    pub regions_in_flight: usize,
}

impl Default for RestoreOptions {
    /// One region more than there are processors, so that each has work while
    /// others are read and written; at most five, for the memory.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, Into::into);
        Self {
            regions_in_flight: (processors + 1).min(5),
        }
    }
}

/// What a restore has brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a restore may have gone around damage: look at `missing`"]
pub struct RestoreReport {
    /// The recovery point.
    pub point: PointId,
    /// The image of it.
    pub stream: StreamName,
    /// The length of the image.
    pub bytes: ByteCount,
    /// How much of it was data; the rest is holes and what is missing.
    pub data_bytes: ByteCount,
    /// What could not be brought back, in order; zeros in the target. The first
    /// 4096 ranges, so that a lost image takes bounded memory.
    pub missing: Vec<MissingRange>,
    /// What could not be brought back beyond these, counted; zeros too.
    pub unlisted: Unlisted,
}

impl ProtectionServer {
    /// Brings the only image of a recovery point back, whole; the server's
    /// monitor is told how far it is.
    ///
    /// Dropping the future stops it and leaves an undefined image.
    ///
    /// # Errors
    /// As [`restore_with`](Self::restore_with), and, after everything else was
    /// brought back, [`Corrupt`](ErrorKind::Corrupt) if stored data is damaged
    /// or [`Unreadable`](ErrorKind::Unreadable) if only blocks are missing
    /// that the source could not read. The error names the first of them.
    pub async fn restore<T: BlockTarget>(
        &self,
        point: PointId,
        target: T,
    ) -> Result<RestoreReport> {
        let options = RestoreOptions::default();
        let monitor = &*self.shared.monitor;
        let report = self
            .restore_with(point, None, &target, options, monitor)
            .await?;
        report.whole()
    }

    /// Brings an image of a recovery point back, around what is damaged.
    ///
    /// `stream` names the image; none means the only one. Regions are read,
    /// checked and written several at once; runs of holes are zeroed in one
    /// call. A range that can't be brought back is zeroed, told to `monitor`
    /// and reported, and stops nothing else. At the end the target is
    /// finished: the image is durable when this returns. The options bound the
    /// memory.
    ///
    /// Dropping the future stops it and leaves an undefined image.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for the point or the image;
    /// [`InvalidInput`](ErrorKind::InvalidInput) if none was named of several;
    /// those of the target; [`Unavailable`](ErrorKind::Unavailable) if the
    /// vault does not answer.
    #[instrument(skip_all, fields(%point), err(level = "debug"))]
    pub async fn restore_with(
        &self,
        point: PointId,
        stream: Option<&StreamName>,
        target: &dyn BlockTarget,
        options: RestoreOptions,
        monitor: &dyn Monitor,
    ) -> Result<RestoreReport> {
        let point = self.shared.store.point(point).await?;
        let stream = match stream {
            Some(stream) => stream,
            None => only_stream(&point)?,
        };
        let image = self.shared.open(&point, stream).await?;
        restore_image((point.id, stream), &*image, target, options, monitor).await
    }
}

/// Brings an image of a recovery point back, wherever it is read from: as
/// [`restore_with`](ProtectionServer::restore_with), which opens it first, for
/// one that was opened already, such as by a client over the network.
///
/// `from` names the image in what is told and reported.
///
/// # Errors
/// Those of the target, and [`Unavailable`](ErrorKind::Unavailable) if the image
/// can't be read now; damage is no error.
pub async fn restore_image(
    from: (PointId, &StreamName),
    image: &dyn Recovery,
    target: &dyn BlockTarget,
    options: RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<RestoreReport> {
    let (point, stream) = from;
    let restore = Restore::new(image, target, stream, options, monitor);
    restore.run(options).await?;
    Ok(restore.report(point))
}

impl RestoreReport {
    /// How many bytes could not be brought back, listed or not.
    pub fn missing_bytes(&self) -> ByteCount {
        let listed = self.missing.iter().map(|missing| missing.extent.length());
        listed
            .sum::<ByteCount>()
            .saturating_add(self.unlisted.bytes)
    }

    /// In how many ranges.
    pub fn missing_ranges(&self) -> u64 {
        (self.missing.len() as u64).saturating_add(self.unlisted.ranges)
    }

    /// The report, unless something is missing.
    fn whole(self) -> Result<Self> {
        let Some(first) = self.missing.first() else {
            return Ok(self);
        };
        let listed = self.missing.iter().map(|missing| missing.kind);
        let damaged = listed
            .chain(self.unlisted.kind)
            .find(|kind| *kind != ErrorKind::Unreadable);
        Err(Error::new(
            damaged.unwrap_or(ErrorKind::Unreadable),
            format!(
                "image {} of recovery point {} was restored without {} bytes in {} ranges, \
                 the first at {}: {}",
                self.stream,
                self.point,
                self.missing_bytes(),
                self.missing_ranges(),
                first.extent,
                first.reason
            ),
        ))
    }
}

/// A restore under way.
struct Restore<'a> {
    image: &'a dyn Recovery,
    target: &'a dyn BlockTarget,
    stream: &'a StreamName,
    monitor: &'a dyn Monitor,
    buffers: BufferPool,
    length: ByteCount,
    totals: Mutex<Totals>,
}

#[derive(Default)]
struct Totals {
    done: ByteCount,
    data: ByteCount,
    missing: Missing,
}

impl<'a> Restore<'a> {
    fn new(
        image: &'a dyn Recovery,
        target: &'a dyn BlockTarget,
        stream: &'a StreamName,
        options: RestoreOptions,
        monitor: &'a dyn Monitor,
    ) -> Self {
        Self {
            image,
            target,
            stream,
            monitor,
            buffers: BufferPool::new(WRITE_BYTES, options.regions_in_flight),
            length: image.geometry().length,
            totals: Mutex::default(),
        }
    }

    async fn run(&self, options: RestoreOptions) -> Result<()> {
        self.target.prepare(self.length).await?;
        let parts = stream::try_unfold(Parts::new(self.image), async |mut parts| {
            let part = parts.next().await?;
            Ok::<_, Error>(part.map(|part| (part, parts)))
        });
        let regions_in_flight = options.regions_in_flight.max(1);
        parts
            .try_for_each_concurrent(regions_in_flight, |part| self.bring_back(part))
            .await?;
        self.target.finish().await
    }

    async fn bring_back(&self, part: Part) -> Result<()> {
        match part {
            Part::Hole(extent) => {
                self.target.zero(extent).await?;
                let progress = self.add(extent.length(), ByteCount::ZERO);
                // Shorter ones are told of with the data beside them.
                if extent.length().0 >= u64::from(REGION_LENGTH) || progress.done == progress.total
                {
                    self.monitor.tell_progress(progress)?;
                }
            }
            Part::Data(extent) => {
                let data = self.bring_back_data(extent).await?;
                let progress = self.add(extent.length(), data);
                self.monitor.tell_progress(progress)?;
            }
        }
        Ok(())
    }

    /// Brings a part of one region back; gives how much of it was data.
    async fn bring_back_data(&self, extent: Extent) -> Result<ByteCount> {
        let recovered = match self.image.recover(extent).await {
            Ok(recovered) => recovered,
            // A map that can't be read costs its own region.
            Err(error) if error.kind() == ErrorKind::Corrupt => RecoveredRange {
                missing: vec![(extent, error)],
                ..RecoveredRange::default()
            },
            Err(error) => return Err(error),
        };
        let data: ExtentSet = recovered.data.iter().map(|(extent, _)| *extent).collect();
        for hole in holes(&data, extent) {
            self.target.zero(hole).await?;
        }
        let bytes = data.total();
        counter!("backstop_server_restored_bytes").increment(bytes.0);
        for (at, data) in self.runs(recovered.data) {
            self.target.write(at, data).await?;
        }
        for (extent, error) in recovered.missing {
            self.miss(extent, &error)?;
        }
        Ok(bytes)
    }

    /// Joins data that lies side by side, so that few writes are made of many
    /// chunks.
    fn runs(&self, data: Vec<(Extent, Bytes)>) -> Vec<(ByteOffset, Bytes)> {
        let mut groups: Vec<Vec<(Extent, Bytes)>> = Vec::new();
        let mut length = 0;
        for (extent, bytes) in data {
            let joins = groups
                .last()
                .and_then(|group| group.last())
                .is_some_and(|(last, _)| {
                    last.end() == extent.offset() && length + bytes.len() <= WRITE_BYTES
                });
            if joins {
                length += bytes.len();
            } else {
                length = bytes.len();
                groups.push(Vec::new());
            }
            if let Some(group) = groups.last_mut() {
                group.push((extent, bytes));
            }
        }
        groups
            .into_iter()
            .filter_map(|group| self.join(group))
            .collect()
    }

    fn join(&self, mut group: Vec<(Extent, Bytes)>) -> Option<(ByteOffset, Bytes)> {
        let at = group.first()?.0.offset();
        if group.len() == 1 {
            return group.pop().map(|(_, bytes)| (at, bytes));
        }
        let length = group.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut buffer = self.buffers.take(length);
        let mut end = 0;
        for (_, bytes) in group {
            buffer[end..end + bytes.len()].copy_from_slice(&bytes);
            end += bytes.len();
        }
        Some((at, buffer.freeze()))
    }

    /// Records what can't be brought back.
    fn miss(&self, extent: Extent, error: &Error) -> Result<()> {
        tracing::warn!(stream = %self.stream, %extent, %error, "bytes can't be brought back");
        counter!("backstop_server_missing_bytes").increment(extent.length().0);
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.missing.add(extent, error);
        drop(totals);
        self.monitor.tell_event(&Event::Missing {
            stream: self.stream.clone(),
            extent,
            error: error.to_string(),
        })
    }

    fn add(&self, done: ByteCount, data: ByteCount) -> Progress {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.done = totals.done.saturating_add(done);
        totals.data = totals.data.saturating_add(data);
        Progress {
            done: totals.done,
            total: self.length,
        }
    }

    fn report(self, point: PointId) -> RestoreReport {
        let totals = self
            .totals
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let (missing, unlisted) = totals.missing.into_ranges();
        RestoreReport {
            point,
            stream: self.stream.clone(),
            bytes: self.length,
            data_bytes: totals.data,
            missing,
            unlisted,
        }
    }
}

/// What of a range holds no data: holes, and what is missing.
fn holes(data: &ExtentSet, range: Extent) -> Vec<Extent> {
    let mut holes = Vec::new();
    let mut at = range.offset();
    for extent in data.within(range) {
        holes.push(Extent::between(at, extent.offset()));
        at = extent.end();
    }
    holes.push(Extent::between(at, range.end()));
    holes.retain(|hole| !hole.is_empty());
    holes
}
