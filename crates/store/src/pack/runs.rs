//! Runs of frames: sealed together, in memory that is used again.

use std::sync::{Mutex, PoisonError};

use backstop_core::Result;

use super::frame::{self, PlainFrame};
use super::table::TableEntry;
use crate::seal::SealingKey;

/// Frames are sealed in batches of about this many bytes.
const BATCH: usize = 1 << 20;

/// How many of the frames, at least one, make a batch.
pub(super) fn batch(frames: &[PlainFrame]) -> usize {
    let mut length = 0;
    let full = frames.iter().position(|frame| {
        length += frame.header.frame_length();
        length > BATCH
    });
    full.unwrap_or(frames.len()).max(1)
}

/// Memory for sealed batches, used again: an allocator would keep one for each
/// thread that ever sealed one.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<Vec<Vec<u8>>>);

impl Runs {
    /// How many are kept, and how large they may be, in bytes.
    const KEPT: usize = 2;
    const LARGEST: usize = 2 * BATCH;

    pub(super) fn take(&self) -> Vec<u8> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, mut run: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < Self::KEPT && run.capacity() <= Self::LARGEST {
            run.clear();
            kept.push(run);
        }
    }
}

/// Seals frames that will stand from `start` on of their pack. CPU work.
pub(super) fn seal_run(
    mut run: Vec<u8>,
    key: &SealingKey,
    start: u64,
    frames: &[PlainFrame],
) -> Result<(Vec<u8>, Vec<TableEntry>)> {
    let length = frames.iter().map(|frame| frame.header.frame_length()).sum();
    run.reserve(length);
    let mut entries = Vec::with_capacity(frames.len());
    for frame in frames {
        let offset = start + run.len() as u64;
        entries.push(TableEntry {
            digest: frame.digest,
            offset,
            header: frame.header,
        });
        frame::seal_into(&mut run, start, frame, key)?;
    }
    Ok((run, entries))
}
