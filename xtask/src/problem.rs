//! How a task fails: one sentence for the person who called it.

use std::fmt::Display;

/// What a task hands back: its result, or the sentence that says why there is none.
pub type Outcome<T> = Result<T, String>;

/// Says what was being done when something went wrong.
pub trait Context<T> {
    /// Puts `what` before the error's own words.
    fn context(self, what: impl Display) -> Outcome<T>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, what: impl Display) -> Outcome<T> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl Display) -> Outcome<T> {
        self.ok_or_else(|| what.to_string())
    }
}
