//! Many short runs: nothing small piles up.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use backstop_store::{Credential, DedupStore};

use crate::history::History;
use crate::images::{self, Machine};

/// How many objects there are, by folder.
fn counts(folder: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for path in images::files(folder).keys() {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        *counts.entry(folder.to_owned()).or_default() += 1;
    }
    counts
}

fn small(counts: &BTreeMap<String, usize>) -> usize {
    let of_catalog = counts.iter().filter(|(folder, _)| *folder != "packs");
    of_catalog.map(|(_, count)| count).sum()
}

fn an_hour_passes(folder: &Path) {
    for path in images::files(folder).keys() {
        let file = std::fs::File::options().write(true).open(folder.join(path));
        let file = file.unwrap();
        let written = file.metadata().unwrap().modified().unwrap();
        file.set_modified(written - Duration::from_hours(1))
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_short_runs_leave_no_pile_of_small_objects() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let at = || DedupStore::at(place).with_credential(Credential::key([3; 32]));
    let mut random = fastrand::Rng::with_seed(21);
    let history = History::default();
    let mut machine = Machine::new("a", 200_000);
    machine.write(&mut random, 0, 100_000);
    at().create().await.unwrap().close().await.unwrap();
    let mut measured = Vec::new();
    for run in 1..=100 {
        // A run an hour: what is deleted by age goes by the files' times.
        an_hour_passes(folder.path());
        let vault = at().open().await.unwrap();
        machine.scribble(&mut random, 2, 5_000);
        let mut group = [&mut machine];
        history
            .protect(&vault, &mut random, &mut group)
            .await
            .unwrap();
        vault.close().await.unwrap();
        if [20, 50, 100].contains(&run) {
            let counts = counts(folder.path());
            eprintln!("after {run} runs: {counts:?}");
            measured.push(counts);
        }
    }
    // Two packs a run, until collection comes.
    assert!(measured[2]["packs"] <= 2 * 100 + 2);
    // Eight runs' logs wait to be folded, and each compaction's checkpoint
    // holds some longer: for 15 minutes of real time, which this test does not
    // let pass, so that what stands at one instant depends on when compactions
    // ran (48 to 72 after 50 runs). Without folding there are more than three a
    // run: 337 after 100.
    let late = small(&measured[2]);
    assert!(late < 150, "{late} small objects after 100 runs");
    let vault = at().open_read_only().await.unwrap();
    history.check(&vault).await;
}
