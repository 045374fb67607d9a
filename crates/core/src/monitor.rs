//! How a long operation tells what it does, without printing.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::{ByteCount, Error, Extent, Result, SourceName, StreamName};

/// How far an operation has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the image dealt with so far.
    pub done: ByteCount,
    /// Bytes to deal with in all.
    pub total: ByteCount,
}

/// Something worth telling that stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Blocks of the source could not be read; they are recorded as
    /// unreadable in the recovery point and the rest is protected.
    Unreadable {
        /// The source.
        source: SourceName,
        /// The image of it.
        stream: StreamName,
        /// Which bytes.
        extent: Extent,
        /// What the source said.
        error: String,
    },
    /// Bytes of a recovery point can't be brought back; the rest is restored.
    Missing {
        /// The image.
        stream: StreamName,
        /// Which bytes.
        extent: Extent,
        /// Why.
        error: String,
    },
    /// Changed blocks can't be trusted, so everything is compared.
    CheckNeeded {
        /// The source.
        source: SourceName,
        /// Why.
        reason: String,
    },
    /// The service is not available, or its vault is full: the synchronization
    /// stands still and goes on later.
    Waiting {
        /// The source.
        source: SourceName,
        /// What the service said.
        error: String,
        /// In how long it is tried again.
        delay: Duration,
    },
}

/// Receives progress and events.
///
/// Called from async tasks: must return at once, may not block. A panic in it
/// fails the operation that called it, nothing else: who calls one does so by
/// `tell_progress` and `tell_event`, which contain it.
pub trait Monitor: Send + Sync + fmt::Debug {
    /// How far the operation has come; called at most once per region of 4 MiB,
    /// and once more when everything was dealt with.
    fn progress(&self, progress: Progress);

    /// Something happened that stops nothing.
    fn event(&self, event: &Event);
}

impl dyn Monitor + '_ {
    /// Calls [`progress`](Monitor::progress) and contains a panic of it.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) if it panicked.
    pub fn tell_progress(&self, progress: Progress) -> Result<()> {
        contained(|| self.progress(progress))
    }

    /// Calls [`event`](Monitor::event) and contains a panic of it.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) if it panicked.
    pub fn tell_event(&self, event: &Event) -> Result<()> {
        contained(|| self.event(event))
    }
}

fn contained(call: impl FnOnce()) -> Result<()> {
    // Nothing of ours is in the call but what the monitor is shown.
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|_| Error::internal("the monitor panicked, so the operation was given up"))
}

/// A monitor that tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMonitor;

impl Monitor for NoMonitor {
    fn progress(&self, _progress: Progress) {}
    fn event(&self, _event: &Event) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Clumsy;

    impl Monitor for Clumsy {
        fn progress(&self, _progress: Progress) {
            panic!("on progress");
        }
        fn event(&self, _event: &Event) {
            panic!("on an event");
        }
    }

    #[test]
    fn a_panic_is_an_error_of_the_operation() -> Result<()> {
        let clumsy: &dyn Monitor = &Clumsy;
        let event = Event::CheckNeeded {
            source: SourceName::new("vm")?,
            reason: "a reason".into(),
        };
        for told in [
            clumsy.tell_progress(Progress::default()),
            clumsy.tell_event(&event),
        ] {
            let kind = told.map_err(|error| error.kind());
            assert_eq!(kind, Err(crate::ErrorKind::Internal));
        }
        let quiet: &dyn Monitor = &NoMonitor;
        quiet.tell_progress(Progress::default())?;
        quiet.tell_event(&event)
    }
}
