//! What the system tells a program that runs for long.

use backstop::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Being told to stop, by a person or by whoever started the program.
pub struct Stops {
    interrupted: Signal,
    terminated: Signal,
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| {
        Error::unavailable("signals of the system can't be listened to").with_source(error)
    })
}

impl Stops {
    /// Listens from now on; the program no longer ends by itself.
    pub fn listen() -> Result<Self> {
        Ok(Self {
            interrupted: listen(SignalKind::interrupt())?,
            terminated: listen(SignalKind::terminate())?,
        })
    }

    /// Waits until the program is told to stop, once more.
    pub async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupted.recv() => {}
            _ = self.terminated.recv() => {}
        }
    }
}

/// Being told to read again what was read at the start.
pub fn reload() -> Result<Signal> {
    listen(SignalKind::hangup())
}

/// Being told to do now what is done now and then.
pub fn now() -> Result<Signal> {
    listen(SignalKind::user_defined1())
}
