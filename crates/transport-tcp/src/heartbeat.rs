//! Finds a peer that is gone without a word: asked now and then, it has to
//! answer.

use std::time::Duration;

use backstop_core::{Error, Result};
use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use crate::failure;

/// How often a peer is asked.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

/// How long it may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Ends when the peer does not answer; says when it is asked, and when it has
/// answered.
pub(crate) async fn listen(
    mut pings: PingPong,
    peer: &str,
    asks: impl Fn(),
    answers: impl Fn(),
) -> Result<()> {
    loop {
        asks();
        let asked = timeout(PATIENCE, pings.ping(Ping::opaque())).await;
        let answered = asked
            .map_err(|_| Error::unavailable(format!("{peer} has not answered for {PATIENCE:?}")))?;
        answered.map_err(|error| failure::broken(peer, error))?;
        answers();
        sleep(INTERVAL).await;
    }
}
