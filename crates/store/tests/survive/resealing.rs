//! After a rotation: collection seals old packs anew, within its budgets, and
//! then the old key goes.

use std::path::Path;

use backstop_core::{ByteCount, CollectOptions, CollectReport, Maintenance, NoMonitor};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, VaultSettings};

use crate::history::History;
use crate::images::{self, Machine};

fn at(place: &Path) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    DedupStore::at(place.to_str().unwrap())
        .with_credential(Credential::key([5; 32]))
        .with_settings(settings)
}

/// The keys that the packs in a folder say that they are sealed under.
fn keys_of_packs(folder: &Path) -> Vec<String> {
    let files = images::files(folder);
    let packs = files.iter().filter(|(path, _)| path.starts_with("packs/"));
    let mut keys: Vec<String> = packs
        .map(|(_, pack)| u32::from_le_bytes(pack[12..16].try_into().unwrap()))
        .map(|key| format!("{key:08x}"))
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

async fn collect(vault: &DedupStore, change: impl FnOnce(&mut CollectOptions)) -> CollectReport {
    let mut options = CollectOptions::default();
    options.reseal = true;
    change(&mut options);
    vault.collect(&options, &NoMonitor).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_packs_are_sealed_anew_step_by_step_and_the_old_key_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let history = History::default();
    let mut machine = Machine::new("a", 900_000);
    let vault = at(folder.path()).create().await.unwrap();
    for _ in 0..3 {
        machine.write(&mut random, 0, 600_000);
        history.protect_one(&vault, &mut random, &mut machine).await;
    }
    let old = vault.key_ring().await.unwrap().keys[0].clone();
    assert!(old.packs.count > 5, "{:?}", old.packs);
    let new = vault.rotate_key().await.unwrap();

    // Nothing is touched that was not asked for; a dry run tells what would be.
    let report = collect(&vault, |options| options.reseal = false).await;
    assert_eq!(report.resealed.count, 0);
    assert_eq!(
        report.old_keys.count,
        vault.key_ring().await.unwrap().keys[0].packs.count
    );
    let planned = collect(&vault, |options| options.dry_run = true).await;
    assert_eq!(planned.resealed, planned.old_keys);
    assert!(planned.written.0 > 800_000, "{planned:?}");
    let kept = vault.retire_keys().await.unwrap();
    assert!(kept.retired.is_empty(), "{kept:?}");
    assert_eq!(kept.kept, [(old.id, planned.old_keys)]);

    // A few at a time, each run going on where the last one ended; another
    // owner goes on too.
    let (mut left, mut runs, mut written) = (planned.old_keys, 0, 0);
    let mut vault = vault;
    while left.count > 0 {
        let report = collect(&vault, |options| {
            options.most_rewritten = ByteCount(100_000);
        })
        .await;
        assert!(report.old_keys.count < left.count, "{report:?}");
        assert_eq!(report.is_partial, report.old_keys.count > 0, "{report:?}");
        (left, runs) = (report.old_keys, runs + 1);
        written += report.written.0;
        if runs == 1 {
            vault.close().await.unwrap();
            vault = at(folder.path()).open().await.unwrap();
        }
    }
    assert!(runs >= 3, "{runs} runs");
    // Nothing was written twice, or compressed otherwise.
    assert!(
        written <= planned.written.0 * 21 / 20,
        "{written} of {planned:?}"
    );
    history.check(&vault).await;
    assert_eq!(keys_of_packs(folder.path()), [new.to_string()]);
    let report = collect(&vault, |_| ()).await;
    assert_eq!((report.resealed.count, report.old_keys.count), (0, 0));

    let retired = vault.retire_keys().await.unwrap();
    assert_eq!(retired.retired, [old.id]);
    let ring = vault.key_ring().await.unwrap().keys;
    assert_eq!(ring.len(), 1);
    assert_eq!(ring[0].id, new);
    history.check(&vault).await;
    machine.write(&mut random, 0, 100_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    vault.close().await.unwrap();
    // Nobody has the old key any more, and all of the catalog can be read.
    let vault = at(folder.path()).open().await.unwrap();
    history.check(&vault).await;
    let options = backstop_core::VerifyOptions::default();
    let verified = vault.verify(&options, &NoMonitor).await.unwrap();
    assert!(verified.damaged == 0, "{verified:?}");
    assert!(vault.retire_keys().await.unwrap().retired.is_empty());
    vault.close().await.unwrap();
}

/// A pack that a reader holds back, or that the catalog does not know, keeps
/// its key.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_stays_as_long_as_a_pack_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(12);
    let history = History::default();
    let mut machine = Machine::new("a", 300_000);
    let vault = at(folder.path()).create().await.unwrap();
    machine.write(&mut random, 0, 200_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let files = images::files(folder.path());
    let (name, pack) = files
        .into_iter()
        .find(|(path, _)| path.contains(".data"))
        .unwrap();
    let reader = at(folder.path()).open_read_only().await.unwrap();
    vault.rotate_key().await.unwrap();
    let report = collect(&vault, |_| ()).await;
    assert!(report.waiting.count > 0 && report.old_keys.count == report.waiting.count);
    let kept = vault.retire_keys().await.unwrap();
    assert_eq!(kept.kept[0].1, report.old_keys);
    // The reader reads on, what was sealed before and what is sealed anew.
    history.check(&reader).await;
    reader.close().await.unwrap();
    let report = collect(&vault, |_| ()).await;
    assert_eq!(report.old_keys.count, 0, "{report:?}");
    // As a crash would leave it.
    std::fs::write(folder.path().join(&name), &pack).unwrap();
    let kept = vault.retire_keys().await.unwrap();
    assert_eq!(kept.kept[0].1.count, 1, "{kept:?}");
    std::fs::remove_file(folder.path().join(&name)).unwrap();
    assert_eq!(vault.retire_keys().await.unwrap().retired.len(), 1);
    history.check(&vault).await;
    vault.close().await.unwrap();
}
