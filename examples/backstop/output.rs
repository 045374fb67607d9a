//! What goes to standard output and standard error: JSON for programs, text
//! for people.

use std::fmt::Display;
use std::io::{self, Write};

use backstop::Error;
use serde::Serialize;
use serde_json::{Value, json};

use crate::ending::{Stop, exit_code, kind_word};

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub enum Output {
    /// Text.
    People,
    /// JSON.
    Programs,
}

impl Output {
    /// Whether JSON is wanted.
    pub fn is_json(self) -> bool {
        matches!(self, Self::Programs)
    }

    /// Prints a result: the value as JSON, or its text.
    pub fn print(self, value: &impl Serialize, text: impl Display) -> Result<(), Stop> {
        match self {
            Self::People => write_out(&text.to_string()),
            Self::Programs => {
                let mut text = serde_json::to_string(value).map_err(io::Error::from)?;
                text.push('\n');
                write_out(&text)
            }
        }
    }

    /// Tells why the run failed; gives the exit code.
    pub fn fail(self, error: &Error) -> u8 {
        let code = exit_code(error.kind());
        warn(error);
        if self.is_json() {
            // The sentence was told already.
            let _ = write_out(&format!("{}\n", error_object(error)));
        }
        code
    }
}

/// An error for programs.
pub fn error_object(error: &Error) -> Value {
    json!({"error": {
        "kind": kind_word(error.kind()),
        "exit_code": exit_code(error.kind()),
        "message": error.to_string(),
    }})
}

/// Writes to standard output.
pub fn write_out(text: &str) -> Result<(), Stop> {
    let mut to = io::stdout().lock();
    to.write_all(text.as_bytes())?;
    Ok(to.flush()?)
}

/// Tells of something on standard error.
pub fn warn(sentence: impl Display) {
    // Who closed standard error wants no warnings.
    let _ = writeln!(io::stderr(), "backstop: {sentence}");
}
