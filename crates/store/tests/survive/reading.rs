//! Reading beside what goes wrong: a bad answer is asked for again, and what
//! one synchronization can't store is no matter to the points that are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backstop_core::{ErrorKind, RecoveryStore, RegionAddress, RegionIndex, WHOLE_REGION};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::faults::{Action, FaultyStore, Request, Script};
use crate::history::{History, holds};
use crate::images::{self, Machine};

/// A vault on a store that follows a script.
pub(crate) fn scripted() -> (Arc<Script>, impl Fn() -> DedupStoreBuilder) {
    let script = Arc::new(Script::default());
    let store = FaultyStore::new(Arc::new(InMemory::new()), Arc::clone(&script));
    let at = move || {
        let store = Arc::clone(&store) as Arc<dyn ObjectStore>;
        DedupStore::on(store, "vault").with_credential(Credential::key([7; 32]))
    };
    (script, at)
}

#[tokio::test]
async fn a_bad_answer_is_asked_for_once_more() {
    let (script, at) = scripted();
    let mut random = fastrand::Rng::with_seed(41);
    let vault = at().create().await.unwrap();
    let history = History::default();
    let mut machine = Machine::new("a", 5_000_000);
    machine.write(&mut random, 0, 400_000);
    machine.write(&mut random, 4_500_000, 100_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    vault.close().await.unwrap();
    let kept = &history.known().points[0];
    for bad in [Action::Flip(5), Action::Tear(5), Action::Missing] {
        for turn in 0.. {
            // Nothing is remembered from the turn before.
            let vault = at().open_read_only().await.unwrap();
            let asked = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&asked);
            script.rule(move |request, path| {
                let pack = request == Request::Get && path.contains("packs/");
                if pack && counted.fetch_add(1, Ordering::SeqCst) == turn {
                    bad
                } else {
                    Action::Pass
                }
            });
            holds(&vault, kept).await;
            script.pass();
            vault.close().await.unwrap();
            if asked.load(Ordering::SeqCst) <= turn {
                assert!(turn > 3, "too few requests to mean something");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_pack_that_cannot_be_stored_fails_no_read_of_what_is_durable() {
    let (script, at) = scripted();
    let mut random = fastrand::Rng::with_seed(42);
    let vault = at().create().await.unwrap();
    let history = History::default();
    let mut first = Machine::new("a", 300_000);
    first.write(&mut random, 0, 200_000);
    let mut second = first.clone();
    second.name = Machine::new("b", 0).name;
    // Both send the same chunks before either stands in a pack.
    let begins = [first.begin(&mut random), second.begin(&mut random)];
    let mut writers = Vec::new();
    for (begin, machine) in begins.iter().zip([&first, &second]) {
        let writer = vault.begin(begin.clone()).await.unwrap();
        images::send(&*writer, machine).await.unwrap();
        writers.push(writer);
    }
    let begin = [begins[0].clone()];
    history
        .commit(&vault, &mut random, &mut [&mut first], &begin)
        .await
        .unwrap();
    // Now they stand in a durable pack, and in one under way.
    let at_start = RegionAddress {
        stream: 0,
        region: RegionIndex(0),
    };
    writers[1].slices(&at_start, WHOLE_REGION).await.unwrap();
    script.rule(|request, path| {
        if request == Request::Put && path.contains("packs/") {
            Action::Fail
        } else {
            Action::Pass
        }
    });
    holds(&vault, &history.known().points[0]).await;
    let lost = images::new_point(&mut random, &begins[1]);
    let error = vault.commit(vec![lost]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    holds(&vault, &history.known().points[0]).await;
}
