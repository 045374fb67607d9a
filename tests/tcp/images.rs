//! Images of recovery points that are made up, and note how they are read.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backstop::memory::MemorySource;
use backstop::{
    BlockSource, ByteCount, ByteOffset, Consistency, Error, ErrorKind, Extent, Geometry, Marks,
    OpenPoint, PointId, PointKind, Provenance, RecoveredRange, Recovery, RecoveryPoint,
    RecoveryService, Result, Sample, SourceName, SourceStatus, StreamName, StreamSummary,
    SynchronizationId, Timestamp, TransferCounts,
};
use bytes::Bytes;
use tokio::sync::watch;

/// An image that notes what is read of it, and around what can't be read.
pub(crate) struct Noting {
    image: MemorySource,
    pub(crate) reads: watch::Sender<Vec<Extent>>,
    /// Reads fail so, where it is set.
    pub(crate) failing: Mutex<Option<ErrorKind>>,
}

impl Noting {
    pub(crate) fn new(image: MemorySource) -> Arc<Self> {
        Arc::new(Self {
            image,
            reads: watch::Sender::new(Vec::new()),
            failing: Mutex::default(),
        })
    }

    pub(crate) fn taken(&self) -> Vec<Extent> {
        let mut taken = Vec::new();
        self.reads.send_modify(|reads| taken.append(reads));
        taken
    }
}

#[async_trait]
impl BlockSource for Noting {
    fn geometry(&self) -> Geometry {
        self.image.geometry()
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        self.image.read(at, length).await
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        self.image.read_extents(extents).await
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.image.data_extents(range).await
    }

    async fn verify_unchanged(&self) -> Result<()> {
        self.image.verify_unchanged().await
    }
}

#[async_trait]
impl Recovery for Noting {
    async fn recover(&self, range: Extent) -> Result<RecoveredRange> {
        self.reads.send_modify(|reads| reads.push(range));
        let failing = *self.failing.lock().unwrap();
        if let Some(kind) = failing {
            return Err(Error::new(kind, format!("{range} fails")));
        }
        let mut recovered = RecoveredRange::default();
        for data in self.image.data_extents(range).await? {
            let block = self.geometry().block.0;
            let mut at = data.offset();
            while at < data.end() {
                let end = ByteOffset((at.0 / block + 1) * block).min(data.end());
                let part = Extent::between(at, end);
                match self.image.read(at, part.length()).await {
                    Ok(bytes) => recovered.data.push((part, bytes)),
                    Err(error) => recovered.missing.push((part, error)),
                }
                at = end;
            }
        }
        Ok(recovered)
    }
}

/// Points of one image each.
pub(crate) struct Points(pub(crate) Vec<(RecoveryPoint, Arc<Noting>)>);

impl Points {
    /// The first one has the identity 1.
    pub(crate) fn of(source: &str, images: Vec<Arc<Noting>>) -> Arc<Self> {
        let numbered = (1..).zip(images);
        let points = numbered.map(|(number, image)| (point(source, number, &image), image));
        Arc::new(Self(points.collect()))
    }

    fn find(&self, id: PointId) -> Result<&(RecoveryPoint, Arc<Noting>)> {
        let found = self.0.iter().find(|(point, _)| point.id == id);
        found.ok_or_else(|| Error::not_found(format!("point {id} is not in this store")))
    }
}

pub(crate) fn id(number: u128) -> PointId {
    PointId::from_bytes(number.to_be_bytes())
}

fn point(source: &str, number: u8, image: &Noting) -> RecoveryPoint {
    RecoveryPoint {
        id: id(number.into()),
        source: SourceName::new(source).unwrap(),
        time: Timestamp(number.into()),
        sequence: number.into(),
        kind: PointKind::Initial,
        consistency: Consistency::Crash,
        snapshot_time: None,
        base: None,
        synchronization: SynchronizationId::from_bytes([number; 16]),
        streams: vec![StreamSummary {
            name: StreamName::disk(),
            length: image.geometry().length,
        }],
        counts: TransferCounts::default(),
        bytes_added: Some(ByteCount(1)),
        plain_bytes_added: Some(ByteCount(2)),
        sample: Sample::default(),
        marks: Marks::default(),
        provenance: Provenance::new(),
    }
}

#[async_trait]
impl RecoveryService for Points {
    async fn sources(&self) -> Result<Vec<SourceStatus>> {
        Ok(Vec::new())
    }

    async fn points(&self, source: &SourceName) -> Result<Vec<RecoveryPoint>> {
        let points = self.0.iter().map(|(point, _)| point.clone());
        Ok(points.filter(|point| point.source == *source).collect())
    }

    async fn point(&self, point: PointId) -> Result<RecoveryPoint> {
        Ok(self.find(point)?.0.clone())
    }

    async fn open(&self, point: PointId) -> Result<OpenPoint> {
        let (point, image) = self.find(point)?;
        Ok(OpenPoint {
            point: point.clone(),
            images: vec![Arc::clone(image) as _],
        })
    }

    async fn expire(&self, _: &[PointId]) -> Result<()> {
        Err(Error::conflict("nothing expires here"))
    }
}
