//! Telling a monitor, whose panics stay its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use backstop_core::{Error, Event, Monitor, Progress, Result};

/// Tells how far an operation has come.
pub(crate) fn progress(monitor: &dyn Monitor, progress: Progress) -> Result<()> {
    contained(|| monitor.progress(progress))
}

/// Tells of an event.
pub(crate) fn event(monitor: &dyn Monitor, event: &Event) -> Result<()> {
    contained(|| monitor.event(event))
}

fn contained(call: impl FnOnce()) -> Result<()> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|_| Error::internal("the monitor panicked, so the synchronization was given up"))
}
