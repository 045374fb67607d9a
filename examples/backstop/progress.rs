//! A progress bar for people, and the events that a run must tell of.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use backstop::{Event, Monitor, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{Output, warn};

const TEMPLATE: &str =
    "{msg} {wide_bar} {percent:>3}% of {binary_total_bytes} {binary_bytes_per_sec} {eta:>4}";

/// More events than this are told and counted, but not kept: a dead disk has
/// many bad blocks.
const MOST_EVENTS: usize = 1000;

/// Shows progress on a terminal and keeps what happened.
#[derive(Debug)]
pub struct Watch {
    bar: Option<ProgressBar>,
    /// Whether a comparison of everything is what was asked for.
    check_expected: bool,
    happened: Mutex<Happened>,
}

/// What happened in a run.
#[derive(Debug, Default)]
pub struct Happened {
    /// The first events, in order.
    pub events: Vec<Event>,
    /// How many there were in all.
    pub count: usize,
}

impl Watch {
    /// A watch over one operation; the bar is there only on a terminal.
    pub fn new(doing: &'static str, output: Output) -> Self {
        let wanted = !output.is_json() && io::stderr().is_terminal();
        let bar = wanted.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.with_message(doing)
        });
        Self {
            bar,
            check_expected: false,
            happened: Mutex::default(),
        }
    }

    /// The same watch over an operation that compares everything anyhow: that
    /// is not told as a surprise.
    pub fn expecting_check(self) -> Self {
        Self {
            check_expected: true,
            ..self
        }
    }

    /// Takes the bar away and tells what happened.
    pub fn finish(&self) -> Happened {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let mut happened = self.happened.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *happened)
    }
}

impl Monitor for Watch {
    fn progress(&self, progress: Progress) {
        if let Some(bar) = &self.bar {
            bar.set_length(progress.total.0);
            bar.set_position(progress.done.0);
        }
    }

    fn event(&self, event: &Event) {
        let mut happened = self.happened.lock().unwrap_or_else(PoisonError::into_inner);
        happened.count += 1;
        if happened.events.len() < MOST_EVENTS {
            happened.events.push(event.clone());
        }
        drop(happened);
        let expected = self.check_expected && matches!(event, Event::CheckNeeded { .. });
        let Some(sentence) = sentence(event).filter(|_| !expected) else {
            return;
        };
        match &self.bar {
            Some(bar) => bar.suspend(|| warn(sentence)),
            None => warn(sentence),
        }
    }
}

/// What to tell at once; what a restore misses is listed in its result.
fn sentence(event: &Event) -> Option<String> {
    match event {
        Event::Unreadable {
            source,
            extent,
            error,
            ..
        } => Some(format!(
            "source {source} can't be read at {extent}; that is recorded, the rest is protected: {error}"
        )),
        Event::CheckNeeded { source, reason } => Some(format!(
            "everything of {source} is compared with its replica: {reason}"
        )),
        Event::Waiting {
            source,
            error,
            delay,
        } => Some(format!(
            "{source} stands still, and is tried again in {delay:.0?}: {error}"
        )),
        _ => None,
    }
}
