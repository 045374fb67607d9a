//! Opening a vault beside a rebuild of it, and after one that failed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstop_core::{
    ErrorKind, Event, ManualClock, Monitor, NoMonitor, Progress, RebuildOptions, Timestamp,
};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::faults::{FaultyStore, Request, Script};
use crate::history::History;
use crate::images::Machine;
use crate::rotation::{Gate, gate};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn tuned(builder: DedupStoreBuilder) -> DedupStoreBuilder {
    builder
        .with_credential(Credential::key([5; 32]))
        .with_takeover(Takeover::Force)
        .with_clock(Arc::new(ManualClock::at(NOW)))
}

/// Who read `vault.json` before a rebuild must not go on in the catalog that it
/// has replaced: what is committed there is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_was_opening_during_a_rebuild_opens_again() {
    // Where the owner stops: at its key slot, and at the old catalog.
    for (stop, request) in [("/keys/", Request::Get), ("/db/manifest/", Request::Put)] {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let on = |store: &Arc<dyn ObjectStore>| tuned(DedupStore::on(Arc::clone(store), "vault"));
        let mut random = fastrand::Rng::with_seed(1);
        let history = History::default();
        let mut machine = Machine::new("a", 300_000);
        machine.write(&mut random, 0, 200_000);
        let vault = on(&store).create().await.unwrap();
        history.protect_one(&vault, &mut random, &mut machine).await;
        vault.close().await.unwrap();

        let script = Arc::new(Script::default());
        let slow: Arc<dyn ObjectStore> = FaultyStore::new(Arc::clone(&store), Arc::clone(&script));
        let Gate { reached, go_on } = gate(&script, move |asked, path| {
            asked == request && path.contains(stop)
        });
        let opening = tokio::spawn(on(&slow).open());
        reached.await.unwrap();
        let options = RebuildOptions::default();
        let (rebuilt, _) = on(&store).rebuild(&options, &NoMonitor).await.unwrap();
        machine.write(&mut random, 9_000, 70_000);
        history
            .protect_one(&rebuilt, &mut random, &mut machine)
            .await;
        rebuilt.close().await.unwrap();
        go_on.send(()).unwrap();
        let error = opening.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "at {stop}: {error}");
        assert!(error.to_string().contains("open it again"), "{error}");

        let vault = on(&store).open().await.unwrap();
        history.check(&vault).await;
        vault.close().await.unwrap();
    }
}

/// Begins another rebuild as soon as this one tells how far it is.
#[derive(Debug)]
struct Rival(PathBuf);

impl Monitor for Rival {
    fn progress(&self, _: Progress) {
        std::fs::create_dir_all(&self.0).unwrap();
        std::fs::write(self.0.join("rebuild"), b"").unwrap();
    }

    fn event(&self, _: &Event) {}
}

/// When an owner was overridden, as the lock file tells.
fn overridden(place: &Path) -> Option<i64> {
    let line = std::fs::read_to_string(place.join("lock")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().ok()
}

/// The catalog in which it was noted never counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_failed_leaves_the_mark_of_the_owner_that_it_overrode() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let at = || tuned(DedupStore::at(place.to_str().unwrap()));
    let mut random = fastrand::Rng::with_seed(2);
    let history = History::default();
    let mut machine = Machine::new("a", 300_000);
    machine.write(&mut random, 0, 200_000);
    let old = at().create().await.unwrap();
    history.protect_one(&old, &mut random, &mut machine).await;
    let options = RebuildOptions::default();
    let rival = Rival(place.join("db-9"));
    let failed = at().rebuild(&options, &rival).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Conflict, "{failed}");
    assert_eq!(overridden(place), Some(NOW.0));
    std::fs::remove_dir_all(place.join("db-9")).unwrap();
    // One that counts has noted it.
    let (vault, _) = at().rebuild(&options, &NoMonitor).await.unwrap();
    assert_eq!(overridden(place), None);
    history.check(&vault).await;
    vault.close().await.unwrap();
    drop(old);
}
