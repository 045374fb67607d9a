//! The lease of a vault that lies on no local files: it tells others that the
//! owner is alive. Nothing depends on it: the catalog's fence decides.

use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Clock, ErrorKind, Result, Timestamp};
use bytes::Bytes;
use object_store::{ObjectStoreExt, PutMode, UpdateVersion};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::failure;
use crate::place::Place;
use crate::record;
use crate::usage::Operation;
use crate::usage::meter::marked_as;

/// How long a lease speaks for its owner.
const LEASE: Duration = Duration::from_secs(30);

/// How far a lease may lie in the future, as clocks of hosts differ.
const AHEAD: Duration = Duration::from_mins(10);

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
        now.since(self.renewed) < LEASE && self.renewed.since(now) < AHEAD
    }
}

/// A lease as it was read.
struct Found {
    lease: Lease,
    bytes: Bytes,
    version: UpdateVersion,
}

/// The lease that is there; a damaged one informs of nothing.
async fn read(place: &Place) -> Result<Option<Found>> {
    let found = async {
        let object = place.store.get(&place.path(NAME)).await?;
        let version = UpdateVersion {
            e_tag: object.meta.e_tag.clone(),
            version: object.meta.version.clone(),
        };
        Ok((object.bytes().await?, version))
    };
    let (bytes, version) = match found.await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failure::of_store(NAME, error)),
    };
    match record::decode("the lease", &bytes) {
        Ok(lease) => Ok(Some(Found {
            lease,
            bytes,
            version,
        })),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}

/// Who owns a vault, as far as its lease tells.
pub(crate) struct Holder {
    pub(crate) process: u32,
    bytes: Bytes,
}

/// The owner of a vault, if its lease tells of one that lives.
pub(crate) async fn holder(place: &Place, now: Timestamp) -> Result<Option<Holder>> {
    let found = read(place).await?.filter(|found| found.lease.is_live(now));
    Ok(found.map(|found| Holder {
        process: found.lease.process,
        bytes: found.bytes,
    }))
}

/// A lease of ours, renewed until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldLease {
    name: String,
    /// The lease of the owner that was overridden.
    before: Option<Bytes>,
    renewing: JoinHandle<()>,
}

impl HeldLease {
    pub(crate) async fn take(
        place: &Place,
        clock: &Arc<dyn Clock>,
        before: Option<Holder>,
    ) -> Result<Self> {
        let name = u64::from_le_bytes(crate::seal::random()?);
        let name = format!("{name:016x}");
        let version = put(place, ours(&name, clock.now())?, PutMode::Overwrite).await;
        let version = version.map_err(|error| failure::of_store(NAME, error))?;
        let renewing = keep(place.clone(), name.clone(), version, Arc::clone(clock));
        Ok(Self {
            name,
            before: before.map(|holder| holder.bytes),
            renewing: tokio::spawn(marked_as(Operation::Idle, renewing)),
        })
    }

    /// Takes the lease back, unless it has become another owner's.
    pub(crate) async fn release(&self, place: &Place) -> Result<()> {
        self.end(place, None).await
    }

    /// Gives it back to the owner that was overridden: the vault could not be
    /// taken over.
    pub(crate) async fn give_back(&self, place: &Place) -> Result<()> {
        self.end(place, self.before.as_ref()).await
    }

    async fn end(&self, place: &Place, before: Option<&Bytes>) -> Result<()> {
        self.renewing.abort();
        match (read(place).await?, before) {
            (Some(found), _) if found.lease.holder != self.name => Ok(()),
            (_, Some(before)) => place.put(NAME, before.to_vec()).await,
            (Some(_), None) => place.delete(NAME).await,
            (None, None) => Ok(()),
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

fn ours(name: &str, now: Timestamp) -> Result<Vec<u8>> {
    record::encode(&Lease {
        process: std::process::id(),
        holder: name.to_owned(),
        renewed: now,
    })
}

/// Stores a lease; tells by what it is known from one that is put later.
async fn put(
    place: &Place,
    lease: Vec<u8>,
    mode: PutMode,
) -> object_store::Result<Option<UpdateVersion>> {
    let path = place.path(NAME);
    let stored = place
        .store
        .put_opts(&path, lease.into(), mode.into())
        .await?;
    let is_known = stored.e_tag.is_some() || stored.version.is_some();
    Ok(is_known.then(|| stored.into()))
}

/// Renews a lease if it is ours, and only if nobody else takes it meanwhile.
/// As long as its version is known, one request does both.
async fn renew(
    place: &Place,
    name: &str,
    version: &mut Option<UpdateVersion>,
    clock: &dyn Clock,
) -> Result<()> {
    let known = match version.take() {
        Some(known) => known,
        None => match read(place).await? {
            Some(found) if found.lease.holder == name => found.version,
            _ => return Ok(()),
        },
    };
    let lease = ours(name, clock.now())?;
    match put(place, lease, PutMode::Update(known)).await {
        Ok(stored) => {
            *version = stored;
            Ok(())
        }
        // Another's now, or ours: what failed before may have happened. The next
        // time it is read.
        Err(object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. }) => {
            Ok(())
        }
        Err(error) => Err(failure::of_store(NAME, error)),
    }
}

/// Renews a lease again and again. While it is another's it waits: who takes
/// over and fails gives it back.
async fn keep(
    place: Place,
    name: String,
    mut version: Option<UpdateVersion>,
    clock: Arc<dyn Clock>,
) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(error) = renew(&place, &name, &mut version, &*clock).await {
            tracing::warn!(vault = %place.name, %error, "the vault's lease could not be renewed");
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::owner::{Ownership, Takeover};
    use crate::timer_clock::TimerClock;

    fn fresh() -> (Place, Arc<dyn Clock>) {
        let place = Place::of_store(Arc::new(InMemory::new()), "v").unwrap();
        (place, Arc::new(TimerClock::begin()))
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
        // The first sees that it is another's, and leaves it alone.
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
        let lease = |ahead: i64| ours("someone", Timestamp(clock.now().0 + ahead)).unwrap();
        // The clock of a living owner's host is ahead of ours.
        place.put(NAME, lease(60_000)).await.unwrap();
        let refused = Ownership::take(&place, Takeover::Refuse, &clock).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Locked);
        place.put(NAME, lease(86_400_000)).await.unwrap();
        Ownership::take(&place, Takeover::Refuse, &clock)
            .await
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_takeover_that_fails_gives_the_lease_back() {
        let (place, clock) = fresh();
        let take = |takeover| Ownership::take(&place, takeover, &clock);
        let _first = take(Takeover::Refuse).await.unwrap();
        let second = take(Takeover::Force).await.unwrap();
        tokio::time::sleep(LEASE).await;
        second.give_back(&place).await.unwrap();
        drop(second);
        tokio::time::sleep(RENEWAL).await;
        tokio::time::sleep(LEASE).await;
        let refused = take(Takeover::Refuse).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked, "the first lives");
    }
}
