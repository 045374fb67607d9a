//! A block target in memory that starts dirty and watches its contract.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{BlockTarget, ByteCount, ByteOffset, Error, Extent, ExtentSet, Result};

/// An image in memory to write to.
///
/// Until it is written or zeroed, every byte is garbage, so that a zero which
/// was not asked for is seen. A call that breaks the contract of
/// [`BlockTarget`] fails and is kept in [`violations`](Self::violations).
/// Sparse: it costs only what was written.
#[derive(Debug, Default)]
pub struct MemoryTarget {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    length: Option<ByteCount>,
    finished: bool,
    /// Written and zeroed ranges.
    covered: ExtentSet,
    /// Written data by the position of its first byte.
    parts: BTreeMap<u64, Bytes>,
    zero_calls: u64,
    write_calls: u64,
    violations: Vec<String>,
}

impl State {
    fn violated(&mut self, sentence: String) -> Error {
        self.violations.push(sentence.clone());
        Error::invalid_input(sentence)
    }

    /// Checks that a range may be written or zeroed now, and takes it.
    fn cover(&mut self, what: &str, range: Extent) -> Result<()> {
        let problem = if self.finished {
            "comes after finish".to_owned()
        } else if let Some(overlap) = self.covered.within(range).next() {
            format!("overlaps {overlap}, which was written or zeroed before")
        } else {
            match self.length {
                None => "comes before prepare".to_owned(),
                Some(length) if !Extent::whole(length).contains(range) => {
                    format!("passes the end of an image of {length} bytes")
                }
                Some(_) => {
                    self.covered.insert(range);
                    return Ok(());
                }
            }
        };
        Err(self.violated(format!("{what} of {range} {problem}")))
    }
}

/// What untouched bytes hold: never zero, and not the same everywhere.
fn garbage(range: Extent) -> Result<Vec<u8>> {
    let pattern: Vec<u8> = (0..=u8::MAX).map(|byte| byte | 0x81).collect();
    let skip = usize::from(range.offset().0.to_le_bytes()[0]);
    let length = range.length().to_usize()?;
    let mut bytes = pattern.repeat((skip + length).div_ceil(pattern.len()));
    bytes.truncate(skip + length);
    Ok(bytes.split_off(skip))
}

impl MemoryTarget {
    /// A target that nothing was done to.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a range as they stand; garbage where nothing was written
    /// or zeroed.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if memory can't hold
    /// so much.
    pub fn read(&self, range: Extent) -> Result<Vec<u8>> {
        let state = self.state();
        let start = range.offset().0;
        let mut bytes = garbage(range)?;
        let mut fill = |extent: Extent, data: Option<&[u8]>| -> Result<()> {
            let from = ByteCount(extent.offset().0 - start).to_usize()?;
            let to = from + extent.length().to_usize()?;
            match data {
                Some(data) => bytes[from..to].copy_from_slice(data),
                None => bytes[from..to].fill(0),
            }
            Ok(())
        };
        for extent in state.covered.within(range) {
            fill(extent, None)?;
        }
        for (&at, data) in &state.parts {
            let part = Extent::new(ByteOffset(at), ByteCount::from(data.len()))?;
            let shared = part.intersection(range);
            if !shared.is_empty() {
                let skip = ByteCount(shared.offset().0 - at).to_usize()?;
                let data = &data[skip..skip + shared.length().to_usize()?];
                fill(shared, Some(data))?;
            }
        }
        Ok(bytes)
    }

    /// The whole image as it stands; empty before `prepare`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn contents(&self) -> Result<Vec<u8>> {
        let length = self.state().length.unwrap_or_default();
        self.read(Extent::whole(length))
    }

    /// Whether `finish` succeeded.
    pub fn is_finished(&self) -> bool {
        self.state().finished
    }

    /// Whether every byte was written or zeroed.
    pub fn is_covered(&self) -> bool {
        let state = self.state();
        state
            .length
            .is_some_and(|length| state.covered.total() == length)
    }

    /// How many ranges were zeroed.
    pub fn zero_calls(&self) -> u64 {
        self.state().zero_calls
    }

    /// How many ranges were written.
    pub fn write_calls(&self) -> u64 {
        self.state().write_calls
    }

    /// Every breach of the contract so far, as sentences.
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }
}

#[async_trait]
impl BlockTarget for MemoryTarget {
    async fn prepare(&self, length: ByteCount) -> Result<()> {
        let mut state = self.state();
        if state.length.is_some() {
            return Err(state.violated("the target was prepared twice".into()));
        }
        state.length = Some(length);
        Ok(())
    }

    async fn write(&self, at: ByteOffset, data: Bytes) -> Result<()> {
        let range = Extent::new(at, ByteCount::from(data.len()))?;
        let mut state = self.state();
        state.cover("a write", range)?;
        state.write_calls += 1;
        state.parts.insert(at.0, data);
        Ok(())
    }

    async fn zero(&self, range: Extent) -> Result<()> {
        let mut state = self.state();
        state.cover("zeroing", range)?;
        state.zero_calls += 1;
        Ok(())
    }

    async fn finish(&self) -> Result<()> {
        let mut state = self.state();
        if state.length.is_none() {
            return Err(state.violated("finish comes before prepare".into()));
        }
        if state.finished {
            return Err(state.violated("the target was finished twice".into()));
        }
        state.finished = true;
        Ok(())
    }
}
