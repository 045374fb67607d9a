//! Read-ahead: what is read in order is asked for before it is wanted.

use std::collections::VecDeque;
use std::sync::Arc;

use backstop_core::{ByteCount, ByteOffset, Extent, RecoveredRange, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::task::{AbortHandle, JoinHandle};

/// How much is asked for at once, in bytes.
pub(super) const WINDOW: u64 = 1 << 20;

/// How many windows are held at most, besides those of reads under way.
pub(super) const WINDOWS_MAX: usize = 4;

/// A part of the image that was asked for ahead. Dropping it takes that back.
pub(super) struct Window {
    extent: Extent,
    reading: Shared<BoxFuture<'static, Option<Arc<RecoveredRange>>>>,
    task: AbortHandle,
}

impl Window {
    fn new(extent: Extent, task: JoinHandle<Result<RecoveredRange>>) -> Self {
        let abort = task.abort_handle();
        let reading = task.map(|read| Some(Arc::new(read.ok()?.ok()?)));
        Self {
            extent,
            reading: reading.boxed().shared(),
            task: abort,
        }
    }

    /// What was read; nothing if that failed, so that it is asked for anew.
    pub(super) async fn recovered(&self) -> Option<Arc<RecoveredRange>> {
        self.reading.clone().await
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How one image is read.
#[derive(Default)]
pub(super) struct Ahead {
    /// Where the last read ended.
    next: Option<ByteOffset>,
    /// How many windows are asked for: one more with each that was wanted.
    depth: usize,
    /// In order, without gaps.
    windows: VecDeque<Arc<Window>>,
}

impl Ahead {
    /// Notes that a range of an image of this length is read; tells its parts in
    /// order, each with the window that has it, if one has. `ask` begins to read a
    /// window.
    pub(super) fn read(
        &mut self,
        range: Extent,
        length: ByteCount,
        ask: impl Fn(Extent) -> JoinHandle<Result<RecoveredRange>>,
    ) -> Vec<(Extent, Option<Arc<Window>>)> {
        let goes_on = self.next == Some(range.offset()) || self.has(range.offset());
        self.next = Some(range.end());
        if !goes_on {
            self.windows.clear();
            self.depth = 0;
            return vec![(range, None)];
        }
        self.depth = self.depth.max(1);
        let parts = self.parts(range);
        let mut from = range.end();
        if let Some(last) = self.windows.back() {
            from = from.max(last.extent.end());
        }
        let is_behind = |window: &Arc<Window>| window.extent.end() <= range.end();
        while self.windows.front().is_some_and(is_behind) {
            self.windows.pop_front();
            self.depth = (self.depth + 1).min(WINDOWS_MAX);
        }
        while self.windows.len() < self.depth && from.0 < length.0 {
            let end = ByteOffset(from.0.saturating_add(WINDOW).min(length.0));
            let extent = Extent::between(from, end);
            let window = Window::new(extent, ask(extent));
            self.windows.push_back(Arc::new(window));
            from = end;
        }
        parts
    }

    fn has(&self, at: ByteOffset) -> bool {
        let mut windows = self.windows.iter().map(|window| window.extent);
        windows.any(|extent| extent.offset() <= at && at < extent.end())
    }

    fn parts(&self, range: Extent) -> Vec<(Extent, Option<Arc<Window>>)> {
        let mut parts = Vec::new();
        let mut at = range.offset();
        for window in &self.windows {
            let part = window.extent.intersection(range);
            if part.is_empty() {
                continue;
            }
            // Nothing, unless the read has begun before its window.
            push(&mut parts, Extent::between(at, part.offset()), None);
            at = part.end();
            push(&mut parts, part, Some(Arc::clone(window)));
        }
        push(&mut parts, Extent::between(at, range.end()), None);
        parts
    }
}

fn push(
    parts: &mut Vec<(Extent, Option<Arc<Window>>)>,
    extent: Extent,
    window: Option<Arc<Window>>,
) {
    if !extent.is_empty() {
        parts.push((extent, window));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const LENGTH: ByteCount = ByteCount(100 << 20);

    fn extent(at: u64, length: u64) -> Extent {
        Extent::new(ByteOffset(at), ByteCount(length)).unwrap()
    }

    /// Reads, and gives what was asked for ahead and how many parts windows had.
    fn read(ahead: &mut Ahead, at: u64, length: u64) -> (Vec<Extent>, usize) {
        let asked = RefCell::new(Vec::new());
        let range = extent(at, length);
        let parts = ahead.read(range, LENGTH, |extent| {
            asked.borrow_mut().push(extent);
            tokio::spawn(async { Ok(RecoveredRange::default()) })
        });
        let mut end = range.offset();
        for (part, window) in &parts {
            assert_eq!(part.offset(), end);
            end = part.end();
            assert!(window.as_ref().is_none_or(|it| it.extent.contains(*part)));
        }
        assert_eq!(end, range.end());
        let windows = parts.iter().filter(|(_, window)| window.is_some());
        (asked.take(), windows.count())
    }

    #[tokio::test]
    async fn reading_in_order_asks_ahead_and_more_as_it_goes_on() {
        let mut ahead = Ahead::default();
        let small = 64 << 10;
        assert_eq!(read(&mut ahead, 0, small), (vec![], 0));
        let (asked, had) = read(&mut ahead, small, small);
        assert_eq!((asked, had), (vec![extent(2 * small, WINDOW)], 0));
        let mut at = 2 * small;
        let mut asked_until = at + WINDOW;
        let mut held_most = 0;
        while at < 30 << 20 {
            let (asked, had) = read(&mut ahead, at, small);
            assert_eq!(had, 1, "at {at}");
            at += small;
            for extent in asked {
                assert_eq!(extent, super::tests::extent(asked_until, WINDOW));
                asked_until += WINDOW;
            }
            let held = asked_until - at;
            assert!(held <= WINDOWS_MAX as u64 * WINDOW, "{held}");
            held_most = held_most.max(held);
        }
        assert_eq!(held_most, WINDOWS_MAX as u64 * WINDOW);
    }

    #[tokio::test]
    async fn reading_here_and_there_asks_for_nothing_more() {
        let mut ahead = Ahead::default();
        for at in [50 << 20, 3 << 20, 70 << 20, 0, 20 << 20] {
            assert_eq!(read(&mut ahead, at, 4096), (vec![], 0), "at {at}");
        }
        read(&mut ahead, (20 << 20) + 4096, 4096);
        assert_eq!(ahead.windows.len(), 1);
        assert_eq!(read(&mut ahead, 7, 4096), (vec![], 0));
        assert_eq!(ahead.windows.len(), 0, "what was asked for is taken back");
    }

    #[tokio::test]
    async fn long_reads_go_past_windows_and_the_end() {
        let mut ahead = Ahead::default();
        let long = 3 << 20;
        let mut at = 0;
        while at < LENGTH.0 {
            let length = long.min(LENGTH.0 - at);
            let (asked, _) = read(&mut ahead, at, length);
            assert!(asked.iter().all(|asked| asked.end().0 <= LENGTH.0));
            assert!(ahead.windows.len() <= WINDOWS_MAX);
            at += length;
        }
        assert_eq!(ahead.windows.len(), 0);
        assert_eq!(read(&mut ahead, LENGTH.0, 0).0, []);
    }
}
