//! A panic is a defect of this program: it ends with a sentence and an exit
//! code of its own.

use std::io::Write;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};

use backstop::Error;

/// From now on a panic is told in one line, also one that the library contains.
pub fn tell_panics() {
    set_hook(Box::new(tell));
}

/// Runs what may panic.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    // Nothing that was under way is looked at again.
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| Error::internal("a defect of this program stopped it; please report it"))
}

fn tell(panic: &PanicHookInfo<'_>) {
    let said = panic.payload_as_str().unwrap_or("without a word");
    let place = panic
        .location()
        .map(|place| format!(" at {place}"))
        .unwrap_or_default();
    let said = said.replace('\n', " ");
    // Who closed standard error wants to know nothing.
    let _ = writeln!(std::io::stderr(), "backstop: panicked{place}: {said}");
}
