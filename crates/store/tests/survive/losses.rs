//! Synchronizations that lose something, or are given up: who has to begin
//! again, and who does not notice.

use std::sync::Arc;

use backstop_core::{
    ErrorKind, RecoveryStore, RegionAddress, RegionIndex, ReplicaState, ReplicaWriter, SourceName,
    StreamName, WHOLE_REGION,
};
use backstop_store::{Credential, DedupStore, VaultSettings};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::faults::{Action, Request, Script};
use crate::history::{History, holds};
use crate::images::{self, Machine};
use crate::reading::scripted;

/// No pack can be stored from now on.
fn refuse_packs(script: &Script) {
    script.rule(|request, path| {
        if request == Request::Put && path.contains("packs/") {
            Action::Fail
        } else {
            Action::Pass
        }
    });
}

#[tokio::test]
async fn a_lost_pack_is_lost_to_all_who_were_under_way_and_to_nobody_later() {
    let (script, at) = scripted();
    let mut random = fastrand::Rng::with_seed(51);
    let vault = at().create().await.unwrap();
    let history = History::default();
    let at_start = RegionAddress {
        stream: 0,
        region: RegionIndex(0),
    };
    let mut machines = ["a", "b"].map(|name| Machine::new(name, 300_000));
    let mut begins = Vec::new();
    for machine in &mut machines {
        machine.write(&mut random, 0, 200_000);
        let begin = machine.begin(&mut random);
        let writer = vault.begin(begin.clone()).await.unwrap();
        images::send(&*writer, machine).await.unwrap();
        // Into the pack that both share.
        writer.slices(&at_start, WHOLE_REGION).await.unwrap();
        begins.push(begin);
    }
    refuse_packs(&script);
    let first = images::new_point(&mut random, &begins[0]);
    let error = vault.commit(vec![first]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    script.pass();
    // The other one's chunks were lost with it.
    let second = images::new_point(&mut random, &begins[1]);
    let error = vault.commit(vec![second]).await.unwrap_err();
    assert!(error.to_string().contains("begin again"), "{error}");
    // It begins again, as it was or anew.
    let writer = vault.begin(begins[1].clone()).await.unwrap();
    images::send(&*writer, &machines[1]).await.unwrap();
    let [first, second] = &mut machines;
    let again = [begins[1].clone()];
    history
        .commit(&vault, &mut random, &mut [second], &again)
        .await
        .unwrap();
    history
        .protect(&vault, &mut random, &mut [first])
        .await
        .unwrap();
    history.check(&vault).await;
}

#[tokio::test]
async fn giving_up_what_is_over_takes_nothing_from_who_came_after() {
    let (_, at) = scripted();
    let mut random = fastrand::Rng::with_seed(52);
    let mut settings = VaultSettings::default();
    settings.checkpoint_bytes = 1;
    let vault = at().with_settings(settings).create().await.unwrap();
    let mut machine = Machine::new("a", 300_000);
    machine.write(&mut random, 0, 200_000);
    let mut writers: Vec<Arc<dyn ReplicaWriter>> = Vec::new();
    let mut begins = Vec::new();
    for _ in 0..2 {
        let begin = machine.begin(&mut random);
        let writer = vault.begin(begin.clone()).await.unwrap();
        // The second run finds all chunks, and adds its map.
        machine.write(&mut random, 0, 50_000);
        images::send(&*writer, &machine).await.unwrap();
        writers.push(writer);
        begins.push(begin);
    }
    writers[0].abort().await.unwrap();
    vault.close().await.unwrap();
    let vault = at().open().await.unwrap();
    let replica = vault.replica(&machine.name).await.unwrap().unwrap();
    assert_eq!(replica.unfinished.unwrap().synchronization, begins[1].id);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_not_damage() {
    let (script, at) = scripted();
    let mut random = fastrand::Rng::with_seed(53);
    let vault = at().create().await.unwrap();
    let history = History::default();
    let mut machine = Machine::new("a", 300_000);
    machine.write(&mut random, 0, 200_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let kept = &history.known().points[0];
    for part in [".data", ".map"] {
        let reader = at().open_read_only().await.unwrap();
        let image = reader.open(kept.id, &StreamName::disk()).await.unwrap();
        let range = RegionIndex(0).extent(image.geometry().length);
        script.rule(move |request, path| {
            if request == Request::Get && path.ends_with(part) {
                Action::Fail
            } else {
                Action::Pass
            }
        });
        if part == ".data" {
            // Missing ranges would be told as lost.
            let error = image.recover(range).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        } else {
            let fresh = at().open_read_only().await.unwrap();
            let opened = fresh.open(kept.id, &StreamName::disk()).await;
            let error = opened.map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        script.pass();
        holds(&reader, kept).await;
    }
}

/// A disk that was taken out, or a bucket that was deleted, loses no part.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_went_away_is_not_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let (there, away) = (folder.path().join("vault"), folder.path().join("away"));
    let memory = Arc::new(InMemory::new());
    for local in [true, false] {
        let at = || {
            let vault = if local {
                DedupStore::at(there.to_str().unwrap())
            } else {
                DedupStore::on(Arc::clone(&memory) as _, "vault")
            };
            vault.with_credential(Credential::key([3; 32]))
        };
        let mut random = fastrand::Rng::with_seed(55);
        let vault = at().create().await.unwrap();
        let history = History::default();
        let mut machine = Machine::new("a", 300_000);
        machine.write(&mut random, 0, 200_000);
        history.protect_one(&vault, &mut random, &mut machine).await;
        vault.close().await.unwrap();
        let kept = &history.known().points[0];
        let reader = at().open_read_only().await.unwrap();
        let image = reader.open(kept.id, &StreamName::disk()).await.unwrap();
        let mut taken = Vec::new();
        if local {
            std::fs::rename(&there, &away).unwrap();
        } else {
            for facts in objects(&memory).await {
                let object = memory.get(&facts).await.unwrap();
                taken.push((facts.clone(), object.bytes().await.unwrap()));
                memory.delete(&facts).await.unwrap();
            }
        }
        let range = RegionIndex(0).extent(image.geometry().length);
        let error = image.recover(range).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let name = if local {
            there.to_str().unwrap()
        } else {
            "/vault"
        };
        assert!(error.to_string().contains(name), "{error}");
        // It comes back.
        if local {
            std::fs::rename(&away, &there).unwrap();
        }
        for (path, bytes) in taken {
            memory.put(&path, bytes.into()).await.map(drop).unwrap();
        }
        holds(&reader, kept).await;
    }
}

/// Logs are stored, tables are not: who writes must not wait without end.
#[tokio::test(start_paused = true)]
async fn a_catalog_that_takes_no_more_is_told_in_bounded_time() {
    let (script, at) = scripted();
    let mut settings = VaultSettings::default();
    settings.memory.catalog_unflushed = 64 << 10;
    let vault = at().with_settings(settings).create().await.unwrap();
    script.rule(|request, path| {
        let stores = matches!(request, Request::Put | Request::Part);
        if stores && path.contains("db/compacted/") {
            Action::Vanish
        } else {
            Action::Pass
        }
    });
    let mut refused = Vec::new();
    for number in 0..5000 {
        let source = SourceName::new(format!("source {number}")).unwrap();
        let set = vault.set_state(&source, ReplicaState::Consistent).await;
        refused.extend(set.err());
        if refused.len() == 2 {
            break;
        }
    }
    let told: Vec<String> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(refused.len(), 2, "it never filled up");
    assert_eq!(refused[0].kind(), ErrorKind::Unavailable, "{told:?}");
    assert!(told[0].contains("catalog"), "{told:?}");
    // The second does not wait again.
    assert_eq!(refused[1].kind(), ErrorKind::Unavailable, "{told:?}");
    assert!(told[1].contains("open it again"), "{told:?}");
}

async fn objects(store: &InMemory) -> Vec<Path> {
    let found = store.list(None).map_ok(|facts| facts.location);
    found.try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_vault_is_free_even_while_parts_of_it_are_still_held() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let at = || DedupStore::at(place).with_credential(Credential::key([3; 32]));
    let vault = at().create().await.unwrap();
    let mut random = fastrand::Rng::with_seed(54);
    let mut machine = Machine::new("a", 300_000);
    machine.write(&mut random, 0, 200_000);
    let writer = vault.begin(machine.begin(&mut random)).await.unwrap();
    vault.close().await.unwrap();
    let again = at().open().await.unwrap();
    // The old one's end, whenever it comes, takes nothing from the new one.
    drop((writer, vault));
    let refused = at().open().await.map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");
    again.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_is_not_given_is_told_in_bounded_time() {
    let (script, at) = scripted();
    at().create().await.unwrap().close().await.unwrap();
    script.rule(|request, path| {
        if request == Request::Get && path.contains("db/manifest") {
            Action::Fail
        } else {
            Action::Pass
        }
    });
    for error in [
        at().open().await.map(drop).unwrap_err(),
        at().open_read_only().await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("catalog"), "{error}");
    }
}
