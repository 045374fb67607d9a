//! Collection of the in-memory store: chunks that nothing names go at once.

use std::collections::BTreeSet;
use std::sync::Weak;

use super::image::Image;
use super::vault::Vault;
use crate::{ChunkDigest, CollectReport};

impl Vault {
    /// See [`crate::Maintenance::collect`].
    pub(super) fn collect(&mut self, dry_run: bool) -> CollectReport {
        let due = self.due();
        if !dry_run {
            self.expired.retain(|id, _| !due.contains(id));
            self.tick();
        }
        let mut live = BTreeSet::new();
        let mut roots = 0;
        let waiting = self.expired.iter().filter(|(id, _)| !due.contains(id));
        let waiting = waiting.map(|(_, expired)| &expired.entry);
        for entry in self.points.values().chain(waiting) {
            roots += 1;
            entry.images.iter().for_each(|image| name(image, &mut live));
        }
        for work in self.replicas.values().filter_map(|r| r.work.as_ref()) {
            roots += 1;
            for image in work.images.iter().chain(&work.base) {
                name(image, &mut live);
            }
            live.extend(&work.own);
        }
        self.opened.retain(|image| image.strong_count() > 0);
        for image in self.opened.iter().filter_map(Weak::upgrade) {
            name(&image, &mut live);
        }
        let mut report = CollectReport {
            roots,
            purged: due.len() as u64,
            live: live.len() as u64,
            ..CollectReport::default()
        };
        for bytes in self.chunks.others(&live) {
            report.dead += 1;
            report.dropped.add(bytes.0);
        }
        if !dry_run {
            report.deleted = report.dropped;
            self.chunks.keep(&live);
        }
        report
    }
}

/// Adds the chunks that an image names.
fn name(image: &Image, live: &mut BTreeSet<ChunkDigest>) {
    live.extend(image.chunks());
}
