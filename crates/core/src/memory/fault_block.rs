//! Wrappers that inject faults into block sources and targets.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Faults, Operation};
use crate::{BlockSource, BlockTarget, ByteCount, ByteOffset, Extent, Geometry, Result};

/// A block source that fails as planned.
pub struct FaultSource {
    inner: Arc<dyn BlockSource>,
    faults: Faults,
}

impl FaultSource {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn BlockSource>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl BlockSource for FaultSource {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        let call = self.inner.read(at, length);
        self.faults.around(Operation::SourceRead, call).await
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        let call = self.inner.read_extents(extents);
        self.faults.around(Operation::SourceRead, call).await
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        let call = self.inner.data_extents(range);
        self.faults.around(Operation::SourceExtents, call).await
    }

    async fn verify_unchanged(&self) -> Result<()> {
        let call = self.inner.verify_unchanged();
        self.faults.around(Operation::SourceVerify, call).await
    }
}

/// A block target that fails as planned.
pub struct FaultTarget {
    inner: Arc<dyn BlockTarget>,
    faults: Faults,
}

impl FaultTarget {
    /// Wraps a target.
    pub fn new(inner: Arc<dyn BlockTarget>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl BlockTarget for FaultTarget {
    async fn prepare(&self, length: ByteCount) -> Result<()> {
        let call = self.inner.prepare(length);
        self.faults.around(Operation::TargetPrepare, call).await
    }

    async fn write(&self, at: ByteOffset, data: Bytes) -> Result<()> {
        let call = self.inner.write(at, data);
        self.faults.around(Operation::TargetWrite, call).await
    }

    async fn zero(&self, range: Extent) -> Result<()> {
        let call = self.inner.zero(range);
        self.faults.around(Operation::TargetZero, call).await
    }

    async fn finish(&self) -> Result<()> {
        let call = self.inner.finish();
        self.faults.around(Operation::TargetFinish, call).await
    }
}
