//! Verification of the in-memory store.

use super::vault::Vault;
use crate::{DamagedRange, Extent, SliceContent, VerifyReport};

impl Vault {
    /// See [`crate::Maintenance::verify`].
    pub(super) fn verify(&self) -> VerifyReport {
        let (chunks, _, _) = self.chunks.totals();
        let mut report = VerifyReport {
            frames: chunks,
            damaged: self.chunks.damaged(),
            ..VerifyReport::default()
        };
        let expired = self.expired.values().map(|expired| &expired.entry);
        let mut points: Vec<_> = self.points.values().chain(expired).collect();
        points.sort_by_key(|entry| (&entry.point.source, entry.point.sequence));
        for entry in points {
            for (stream, image) in entry.point.streams.iter().zip(&entry.images) {
                for (extent, content) in image.runs(Extent::whole(image.length())) {
                    let SliceContent::Chunk { digest, .. } = content else {
                        continue;
                    };
                    if self.chunks.is_damaged(digest) {
                        let point = (entry.point.source.clone(), entry.point.id);
                        if report.points.last() != Some(&point) {
                            report.points.push(point);
                        }
                        report.ranges.push(DamagedRange {
                            source: entry.point.source.clone(),
                            point: entry.point.id,
                            stream: Some(stream.name.clone()),
                            extent: Some(extent),
                        });
                    }
                }
            }
        }
        report
    }
}
