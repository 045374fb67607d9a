//! The lease of a vault that lies on no local files: it tells others that the
//! owner is alive. Nothing depends on it: the catalog's fence decides.

use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Clock, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::place::Place;
use crate::record;

/// How long a lease speaks for its owner.
const LEASE: Duration = Duration::from_secs(30);

/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(10);

const NAME: &str = "lease.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    process: u32,
    /// Random: tells one owner from another.
    holder: String,
    renewed: Timestamp,
}

impl Lease {
    /// Whether it speaks for a living owner. One that was written far in the
    /// future, by a clock that was wrong, is no better than an old one.
    fn is_live(&self, now: Timestamp) -> bool {
        now.since(self.renewed).max(self.renewed.since(now)) < LEASE
    }
}

/// The lease that is there; a damaged one informs of nothing.
async fn read(place: &Place) -> Result<Option<Lease>> {
    match place.get(NAME).await {
        Ok(bytes) => Ok(record::decode("the lease", &bytes).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The process that owns a vault, as far as its lease tells.
pub(crate) async fn holder(place: &Place, now: Timestamp) -> Result<Option<u32>> {
    let lease = read(place).await?;
    Ok(lease
        .filter(|lease| lease.is_live(now))
        .map(|lease| lease.process))
}

/// A lease of ours, renewed until it is dropped or becomes another's.
#[derive(Debug)]
pub(crate) struct HeldLease {
    holder: String,
    renewing: JoinHandle<()>,
}

impl HeldLease {
    pub(crate) async fn take(place: &Place, clock: &Arc<dyn Clock>) -> Result<Self> {
        let holder = u64::from_le_bytes(crate::seal::random()?);
        let holder = format!("{holder:016x}");
        put(place, &holder, clock.now()).await?;
        let renewing = keep(place.clone(), holder.clone(), Arc::clone(clock));
        Ok(Self {
            holder,
            renewing: tokio::spawn(renewing),
        })
    }

    /// Takes the lease back, unless it has become another owner's.
    pub(crate) async fn release(&self, place: &Place) -> Result<()> {
        self.renewing.abort();
        match read(place).await? {
            Some(lease) if lease.holder == self.holder => place.delete(NAME).await,
            _ => Ok(()),
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn put(place: &Place, holder: &str, now: Timestamp) -> Result<()> {
    let lease = Lease {
        process: std::process::id(),
        holder: holder.to_owned(),
        renewed: now,
    };
    place.put(NAME, record::encode(&lease)?).await
}

/// Renews a lease; false if it is no longer ours.
async fn renew(place: &Place, holder: &str, clock: &dyn Clock) -> Result<bool> {
    let lease = read(place).await?;
    let ours = lease.is_some_and(|lease| lease.holder == holder);
    if ours {
        put(place, holder, clock.now()).await?;
    }
    Ok(ours)
}

/// Renews a lease until it is no longer ours.
async fn keep(place: Place, holder: String, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        match renew(&place, &holder, &*clock).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(vault = %place.name, %error, "the vault's lease could not be renewed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::owner::{Ownership, Takeover};

    /// Goes on as the runtime's timers do.
    #[derive(Debug)]
    struct TimerClock(tokio::time::Instant);

    impl Clock for TimerClock {
        fn now(&self) -> Timestamp {
            let passed = self.0.elapsed().as_millis();
            Timestamp(1_000_000 + i64::try_from(passed).unwrap())
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the runtime's time is stopped in these tests"
    )]
    fn fresh() -> (Place, Arc<dyn Clock>) {
        let place = Place::of_store(Arc::new(InMemory::new()), "v").unwrap();
        (place, Arc::new(TimerClock(tokio::time::Instant::now())))
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_lives_keeps_its_lease_and_a_dead_one_not_for_long() {
        let (place, clock) = fresh();
        let take = |takeover| Ownership::take(&place, takeover, &clock);
        let first = take(Takeover::Refuse).await.unwrap();
        tokio::time::sleep(Duration::from_hours(1)).await;
        let refused = take(Takeover::Refuse).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked);

        let second = take(Takeover::Force).await.unwrap();
        assert_eq!(second.overridden, Some(clock.now()));
        // The first sees that it is another's now, and leaves it alone.
        tokio::time::sleep(LEASE).await;
        first.release(&place).await.unwrap();
        assert_eq!(
            take(Takeover::Refuse).await.unwrap_err().kind(),
            ErrorKind::Locked
        );

        drop(second);
        assert_eq!(
            take(Takeover::Refuse).await.unwrap_err().kind(),
            ErrorKind::Locked
        );
        tokio::time::sleep(LEASE).await;
        let third = take(Takeover::Refuse).await.unwrap();
        assert_eq!(third.overridden, None);
        third.release(&place).await.unwrap();
        take(Takeover::Refuse).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_of_the_far_future_locks_nobody_out() {
        let (place, clock) = fresh();
        let ahead = Timestamp(clock.now().0 + 86_400_000);
        put(&place, "someone", ahead).await.unwrap();
        Ownership::take(&place, Takeover::Refuse, &clock)
            .await
            .unwrap();
    }
}
