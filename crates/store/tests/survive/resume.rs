//! A synchronization that is interrupted: it goes on where it was last made
//! durable, and repeats nothing of that.

use std::collections::BTreeMap;
use std::path::Path;

use backstop_core::{
    ErrorKind, PointKind, RecoveryStore, RegionIndex, ReplicaState, SnapshotId, StoreBegin,
    SynchronizationId, WHOLE_REGION,
};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};

use crate::history::History;
use crate::images::{self, Machine};
use crate::second_self::{SecondSelf, say};
use crate::seeds;

fn at(place: &str) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 128 << 10;
    settings.checkpoint_bytes = 256 << 10;
    DedupStore::at(place)
        .with_credential(Credential::key([3; 32]))
        .with_settings(settings)
}

const REGIONS: u64 = 12;

fn machine(seed: u64) -> Machine {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut machine = Machine::new("big", (REGIONS as usize) << 22);
    for region in 0..REGIONS as usize {
        machine.write(&mut random, (region << 22) + 1_000_000, 200_000);
    }
    machine
}

fn begin(seed: u64) -> StoreBegin {
    let mut begin = machine(seed).begin(&mut fastrand::Rng::with_seed(0));
    begin.id = SynchronizationId::from_bytes([1; 16]);
    begin.snapshot = SnapshotId::from_bytes([2; 16]);
    begin
}

/// The child: sends an initial synchronization, says each region, and never
/// commits.
pub(crate) async fn endless_initial(place: &str, seed: u64) {
    let vault = at(place).create().await.unwrap();
    let machine = machine(seed);
    let writer = vault.begin(begin(seed)).await.unwrap();
    for region in 0..REGIONS {
        images::send_region(&*writer, &machine, &machine.changes(), region)
            .await
            .unwrap();
        writer.progress(0, RegionIndex(region + 1)).await.unwrap();
        say(&format!("region {region}"));
    }
    std::future::pending::<()>().await;
}

/// The finished packs of a vault, with their sizes.
fn packs(place: &Path) -> BTreeMap<String, u64> {
    let files = std::fs::read_dir(place.join("packs")).unwrap();
    let facts = files.map(|file| {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        (name, file.metadata().unwrap().len())
    });
    facts
        .filter(|(name, _)| !name.ends_with(".unfinished"))
        .collect()
}

/// Goes on after an interruption at `reached` regions, and checks all of it.
async fn go_on(folder: &Path, seed: u64, reached: u64) {
    let vault = at(folder.to_str().unwrap()).open().await.unwrap();
    let machine = machine(seed);
    let replica = vault.replica(&machine.name).await.unwrap().unwrap();
    assert_eq!(replica.head, None);
    assert_eq!(replica.state, ReplicaState::Pending);
    assert_eq!(replica.unfinished.unwrap().synchronization, begin(seed).id);
    assert!(vault.points(&machine.name).await.unwrap().is_empty());

    let mut other = begin(seed);
    other.snapshot = SnapshotId::from_bytes([9; 16]);
    let refused = vault.begin(other).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");

    let writer = vault.begin(begin(seed)).await.unwrap();
    let resume = writer.resume_at(0).0;
    // A checkpoint is due after every three regions: of about 100 KiB each,
    // when 256 KiB have come together.
    assert!(resume > 0 && resume + 4 > reached, "{resume} of {reached}");
    let kept = packs(folder);
    images::send(&*writer, &machine).await.unwrap();
    let history = History::default();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut group = [&mut machine.clone()];
    let begun = [begin(seed)];
    history
        .commit(&vault, &mut random, &mut group, &begun)
        .await
        .unwrap();
    history.check(&vault).await;

    let after = packs(folder);
    for (name, bytes) in &kept {
        assert_eq!(after.get(name), Some(bytes), "pack {name} is as it was");
    }
    let added: u64 = after.values().sum::<u64>() - kept.values().sum::<u64>();
    let rest = REGIONS - resume;
    assert!(
        added < (rest + 1) * 110_000,
        "{added} bytes were added for {rest} of {REGIONS} regions of 100 kB"
    );
    vault.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_initial_goes_on_soak() {
    for seed in seeds::seeds(seeds::rounds(2, 40)) {
        let _seed = seeds::watch(seed);
        let folder = tempfile::tempdir().unwrap();
        let mut child = SecondSelf::start("initial", folder.path(), seed);
        let stop = fastrand::Rng::with_seed(seed).u64(4..REGIONS);
        let mut reached = 0;
        while reached < stop {
            assert_eq!(child.hear().unwrap(), format!("region {reached}"));
            reached += 1;
        }
        reached += child.kill().len() as u64;
        go_on(folder.path(), seed, reached).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_initial_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let machine = machine(1);
    {
        let vault = at(place).create().await.unwrap();
        let writer = vault.begin(begin(1)).await.unwrap();
        for region in 0..7 {
            images::send_region(&*writer, &machine, &machine.changes(), region)
                .await
                .unwrap();
            writer.progress(0, RegionIndex(region + 1)).await.unwrap();
        }
        // An open vault is dropped, not closed; its background tasks may hold
        // the lock a little longer.
        drop((writer, vault));
    }
    let vault = at(place).with_takeover(Takeover::Force).open().await;
    drop(vault.unwrap());
    let vault = at(place)
        .with_takeover(Takeover::Force)
        .open()
        .await
        .unwrap();
    vault.close().await.unwrap();
    drop(vault);
    go_on(folder.path(), 1, 7).await;
}

/// A check finds nothing to send, but it was work: it goes on where it was,
/// too. As what else it is continued, it starts over.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_check_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let mut settings = VaultSettings::default();
    settings.checkpoint_regions = 2;
    let at = || at(place).with_settings(settings);
    let mut machine = machine(1);
    let vault = at().create().await.unwrap();
    let writer = vault.begin(begin(1)).await.unwrap();
    images::send(&*writer, &machine).await.unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let begun = [begin(1)];
    History::default()
        .commit(&vault, &mut random, &mut [&mut machine], &begun)
        .await
        .unwrap();

    let mut check = machine.begin(&mut random);
    check.kind = PointKind::ConsistencyCheck;
    let writer = vault.begin(check.clone()).await.unwrap();
    for region in 0..7 {
        let at = images::address(region);
        assert!(!writer.slices(&at, WHOLE_REGION).await.unwrap().is_empty());
        writer.progress(0, RegionIndex(region + 1)).await.unwrap();
        assert_eq!(writer.resume_at(0), RegionIndex(region + 1), "it is live");
    }
    let again = vault.begin(check.clone()).await.unwrap();
    assert_eq!(
        again.resume_at(0),
        RegionIndex(7),
        "nothing was interrupted"
    );
    drop((again, writer, vault));

    let open = async || at().with_takeover(Takeover::Force).open().await.unwrap();
    let vault = open().await;
    let writer = vault.begin(check.clone()).await.unwrap();
    assert_eq!(writer.resume_at(0), RegionIndex(6), "the last checkpoint");
    writer.progress(0, RegionIndex(8)).await.unwrap();
    drop((writer, vault));

    let vault = open().await;
    check.kind = PointKind::ExpressFull;
    let writer = vault.begin(check).await.unwrap();
    assert_eq!(writer.resume_at(0), RegionIndex(0));
    vault.close().await.unwrap();
}
