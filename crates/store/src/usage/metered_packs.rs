//! Packs that go past an object store, counted as if they did not: what a local
//! vault would ask of S3.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{PooledBuffer, Result};

use super::ObjectKind;
use super::meter::{Kind, Meter};
use super::metered::{object_kind, pages};
use crate::pack::sink::{PART_LENGTH, PackSink, PackStore};

/// Counts what is asked of local packs.
#[derive(Debug)]
pub(crate) struct MeteredPacks<S> {
    packs: S,
    meter: Arc<Meter>,
}

impl<S> MeteredPacks<S> {
    pub(crate) fn new(packs: S, meter: &Arc<Meter>) -> Self {
        Self {
            packs,
            meter: Arc::clone(meter),
        }
    }
}

#[async_trait]
impl<S: PackStore> PackStore for MeteredPacks<S> {
    async fn create(&self, path: &str) -> Result<Box<dyn PackSink>> {
        Ok(Box::new(MeteredSink {
            sink: self.packs.create(path).await?,
            object: object_kind(path),
            meter: Arc::clone(&self.meter),
            written: 0,
        }))
    }

    async fn read(&self, path: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let (object, operation) = (object_kind(path), self.meter.operation());
        self.meter.count_for(operation, object, Kind::Get, 1, 0);
        let read = self.packs.read(path, range).await?;
        let bytes = read.len() as u64;
        self.meter.count_for(operation, object, Kind::Get, 0, bytes);
        Ok(read)
    }

    async fn read_into(
        &self,
        path: &str,
        offset: u64,
        buffer: PooledBuffer,
    ) -> Result<PooledBuffer> {
        let (object, operation) = (object_kind(path), self.meter.operation());
        self.meter.count_for(operation, object, Kind::Get, 1, 0);
        let read = self.packs.read_into(path, offset, buffer).await?;
        let bytes = read.len() as u64;
        self.meter.count_for(operation, object, Kind::Get, 0, bytes);
        Ok(read)
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.meter.count(object_kind(path), Kind::Delete, 0);
        self.packs.delete(path).await
    }

    async fn list(&self) -> Result<Vec<(String, u64)>> {
        let listed = self.packs.list().await?;
        let (operation, pages) = (self.meter.operation(), pages(listed.len() as u64));
        self.meter
            .count_for(operation, ObjectKind::Other, Kind::List, pages, 0);
        Ok(listed)
    }

    async fn check_vault(&self) -> Result<()> {
        self.meter.count(ObjectKind::Other, Kind::Head, 0);
        self.packs.check_vault().await
    }
}

/// A local pack being written: its requests count when an upload would make
/// them.
struct MeteredSink {
    sink: Box<dyn PackSink>,
    object: ObjectKind,
    meter: Arc<Meter>,
    written: u64,
}

#[async_trait]
impl PackSink for MeteredSink {
    async fn write(&mut self, data: &[u8]) -> Result<()> {
        let part = PART_LENGTH as u64;
        let before = self.written / part;
        self.written += data.len() as u64;
        let full = self.written / part - before;
        if full > 0 {
            if before == 0 {
                self.meter.count(self.object, Kind::Upload, 0);
            }
            let operation = self.meter.operation();
            self.meter
                .count_for(operation, self.object, Kind::Part, full, full * part);
        }
        self.sink.write(data).await
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        let part = PART_LENGTH as u64;
        let rest = self.written % part;
        if self.written < part {
            self.meter.count(self.object, Kind::Put, rest);
        } else {
            if rest > 0 {
                self.meter.count(self.object, Kind::Part, rest);
            }
            self.meter.count(self.object, Kind::Upload, 0);
        }
        self.sink.finish().await
    }

    async fn abort(self: Box<Self>) {
        if self.written >= PART_LENGTH as u64 {
            self.meter.count(self.object, Kind::Delete, 0);
        }
        self.sink.abort().await;
    }
}
