//! Meta contexts: what is told of an image's parts beside their bytes.

use backstop_core::{BlockSource, ByteOffset, Extent, Result};

use crate::protocol::numbers::{BASE_ALLOCATION, STATE_HOLE, STATE_ZERO};
use crate::protocol::replies::StatusExtent;

/// The most extents in one reply: 8 KiB of them.
const MOST_EXTENTS: usize = 1024;

/// The source is asked for this much at first, then for more as long as it
/// tells little, in bytes.
const FIRST_WINDOW: u64 = 4 << 20;

/// A window that gave no more than this is followed by a larger one.
const FEW_EXTENTS: usize = 16;

/// A meta context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Context {
    /// `base:allocation`: where holes are.
    Allocation,
}

impl Context {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Allocation => BASE_ALLOCATION,
        }
    }

    /// Its id in replies.
    pub(crate) fn id(self) -> u32 {
        match self {
            Self::Allocation => 1,
        }
    }

    /// Whether a client that asks so means this one. Only in a list a
    /// namespace alone means all of it.
    pub(crate) fn matches(self, query: &str, in_list: bool) -> bool {
        let is_namespace = query.ends_with(':') && self.name().starts_with(query);
        self.name() == query || (in_list && is_namespace)
    }

    /// The states from the start of `range` on, at least one, at most as far
    /// as the range goes: how far is up to the server.
    pub(crate) async fn status(
        self,
        source: &dyn BlockSource,
        range: Extent,
        only_one: bool,
    ) -> Result<Vec<StatusExtent>> {
        match self {
            Self::Allocation => allocation(source, range, only_one).await,
        }
    }
}

/// Where data may be and where holes are, in whole blocks: a block that holds
/// any data is data, since clients round as they like.
async fn allocation(
    source: &dyn BlockSource,
    range: Extent,
    only_one: bool,
) -> Result<Vec<StatusExtent>> {
    let most = if only_one { 1 } else { MOST_EXTENTS };
    let geometry = source.geometry();
    let end = ByteOffset(geometry.length.0);
    let mut states = States::default();
    let mut at = range.offset();
    let mut length = FIRST_WINDOW;
    while at < range.end() && !states.has_more_than(most) {
        let next = range.end().min(ByteOffset(at.0.saturating_add(length)));
        // Blocks are whole, so that one that two windows share is one state.
        let window = Extent::between(at, next).aligned_out(geometry.block, end);
        let told = source.data_extents(window).await?;
        let part = Extent::between(at, next);
        let mut seen = part.offset();
        for data in &told {
            let data = data.aligned_out(geometry.block, end).intersection(part);
            if data.is_empty() {
                continue;
            }
            states.add(
                data.offset().0.saturating_sub(seen.0),
                STATE_HOLE | STATE_ZERO,
            );
            let from = data.offset().max(seen);
            states.add(data.end().0.saturating_sub(from.0), 0);
            seen = seen.max(data.end());
            if states.has_more_than(most) {
                break;
            }
        }
        if !states.has_more_than(most) {
            states.add(part.end().0.saturating_sub(seen.0), STATE_HOLE | STATE_ZERO);
        }
        at = next;
        if told.len() <= FEW_EXTENTS {
            length = length.saturating_mul(4);
        }
    }
    states.extents.truncate(most);
    Ok(states.extents)
}

/// States in order, neighbours that are alike as one.
#[derive(Debug, Default)]
struct States {
    extents: Vec<StatusExtent>,
}

impl States {
    /// Appends a state; the lengths together are those of one request, which
    /// has 32 bits.
    fn add(&mut self, length: u64, flags: u32) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        match self.extents.last_mut() {
            _ if length == 0 => {}
            Some(last) if last.flags == flags => last.length = last.length.saturating_add(length),
            _ => self.extents.push(StatusExtent { length, flags }),
        }
    }

    /// Whether so many are complete.
    fn has_more_than(&self, most: usize) -> bool {
        self.extents.len() > most
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::ByteCount;
    use backstop_core::memory::MemorySource;
    use bytes::Bytes;

    use super::*;

    const HOLE: u32 = STATE_HOLE | STATE_ZERO;

    /// The states of a range, told in as many replies as it takes.
    async fn told(source: &MemorySource, range: Extent, only_one: bool) -> Vec<(u64, u64, u32)> {
        let mut all: Vec<(u64, u64, u32)> = Vec::new();
        let mut at = range.offset();
        while at < range.end() {
            let rest = Extent::between(at, range.end());
            let states = Context::Allocation.status(source, rest, only_one).await;
            let states = states.unwrap();
            assert!(!states.is_empty() && states.len() <= if only_one { 1 } else { MOST_EXTENTS });
            for StatusExtent { length, flags } in states {
                let next = ByteOffset(at.0 + u64::from(length));
                match all.last_mut() {
                    Some((_, end, last)) if *last == flags => *end = next.0,
                    _ => all.push((at.0, next.0, flags)),
                }
                at = next;
            }
        }
        assert_eq!(at, range.end());
        all
    }

    #[tokio::test]
    async fn states_are_those_of_whole_blocks_however_they_are_asked_for() {
        let mut random = fastrand::Rng::with_seed(0x57a7e);
        for round in 0..12 {
            let length = random.u64(10 << 20..16 << 20);
            let mut parts = Vec::new();
            let mut at = random.u64(..20_000);
            while at < length {
                let count = random
                    .u64(1..=[1, 3000, 100_000][round % 3])
                    .min(length - at);
                parts.push((
                    ByteOffset(at),
                    Bytes::from(vec![1; usize::try_from(count).unwrap()]),
                ));
                at += count + random.u64(1..[20_000, 300_000, 9 << 20][round % 3]);
            }
            let blocks = length.div_ceil(4096);
            let mut is_data = vec![false; usize::try_from(blocks).unwrap()];
            for (at, data) in &parts {
                for block in at.0 / 4096..(at.0 + data.len() as u64).div_ceil(4096) {
                    is_data[usize::try_from(block).unwrap()] = true;
                }
            }
            let source = MemorySource::sparse(ByteCount(length), parts).unwrap();
            let start = random.u64(..length);
            let end = random.u64(start + 1..=length);
            let range = Extent::between(ByteOffset(start), ByteOffset(end));
            let mut wanted: Vec<(u64, u64, u32)> = Vec::new();
            for (block, is_data) in (0..).step_by(4096).zip(is_data) {
                let (from, to) = (start.max(block), end.min(block + 4096));
                let flags = if is_data { 0 } else { HOLE };
                match wanted.last_mut() {
                    _ if from >= to => {}
                    Some((_, end, last)) if *last == flags => *end = to,
                    _ => wanted.push((from, to, flags)),
                }
            }
            for only_one in [false, true] {
                assert!(
                    told(&source, range, only_one).await == wanted,
                    "round {round}"
                );
            }
        }
    }
}
