//! Puts a client together.

use std::fmt;
use std::sync::Arc;

use backstop_core::{Backoff, Clock, CpuPool, Error, Result, SystemClock};
use rustls::ClientConfig;
use tokio::sync::Mutex;

use super::{Current, Shared, TcpClient};
use crate::bandwidth::limiter::Limiter;
use crate::bandwidth::{BandwidthSchedule, LocalTime};
use crate::tls::{self, TlsAuthority, TlsIdentity};

/// Puts a [`TcpClient`] together.
pub struct TcpClientBuilder {
    addresses: Vec<String>,
    tls: Result<Arc<ClientConfig>>,
    backoff: Option<Backoff>,
    bandwidth: Option<(BandwidthSchedule, Arc<dyn LocalTime>)>,
    clock: Arc<dyn Clock>,
}

impl TcpClientBuilder {
    pub(super) fn new(
        addresses: Vec<String>,
        identity: &TlsIdentity,
        authority: &TlsAuthority,
    ) -> Self {
        Self {
            addresses,
            tls: tls::client(identity, authority),
            backoff: None,
            bandwidth: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// Sends no more than this, by the time of the week at a place; of one
    /// client, whatever its clones ask.
    #[must_use]
    pub fn with_bandwidth(
        mut self,
        schedule: BandwidthSchedule,
        local: Arc<dyn LocalTime>,
    ) -> Self {
        self.bandwidth = Some((schedule, local));
        self
    }

    /// Tells the time of the week by this clock instead of the host's.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Waits so after connecting failed, instead of 500 ms to 60 s.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// The client; nothing is asked yet.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if there is no
    /// address, or a certificate can't be used;
    /// [`Unavailable`](backstop_core::ErrorKind::Unavailable) without random
    /// bytes of the operating system.
    pub fn build(self) -> Result<TcpClient> {
        if self.addresses.is_empty() {
            return Err(Error::invalid_input(
                "no address of a protection server was given",
            ));
        }
        let tls = self.tls?;
        let backoff = match self.backoff {
            Some(backoff) => backoff,
            None => Backoff::seeded(seed(&tls)?),
        };
        let clock = self.clock;
        let limiter = self
            .bandwidth
            .map(|(schedule, local)| Arc::new(Limiter::new(schedule, local, clock)));
        let shared = Shared {
            addresses: self.addresses,
            tls: std::sync::Mutex::new(tls),
            limiter,
            current: Mutex::new(Current {
                connection: None,
                at: 0,
                backoff,
                failure: None,
            }),
        };
        Ok(TcpClient {
            cpu: CpuPool::default(),
            codecs: Arc::default(),
            shared: Arc::new(shared),
        })
    }
}

/// Other clients have others, so that not all come back together.
fn seed(tls: &ClientConfig) -> Result<u64> {
    let mut seed = [0; 8];
    let random = tls.crypto_provider().secure_random;
    random
        .fill(&mut seed)
        .map_err(|_| Error::unavailable("the operating system gives no random bytes"))?;
    Ok(u64::from_le_bytes(seed))
}

impl fmt::Debug for TcpClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpClientBuilder")
            .field("addresses", &self.addresses)
            .field("backoff", &self.backoff)
            .field("bandwidth", &self.bandwidth)
            .finish_non_exhaustive()
    }
}
