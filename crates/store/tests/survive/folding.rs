//! Folding makes a head cheaper to read and changes nothing else.

use backstop_core::{
    ByteCount, ErrorKind, FoldOptions, FoldReport, Maintenance, NoMonitor, RecoveryStore, Result,
    SourceName,
};
use backstop_store::DedupStore;

use crate::history::History;
use crate::images::{self, Machine};

const PAGE: usize = 4096;

async fn fold(vault: &DedupStore, source: &SourceName, dry_run: bool) -> Result<FoldReport> {
    let mut options = FoldOptions::default();
    options.dry_run = dry_run;
    vault.fold(source, &options, &NoMonitor).await
}

/// A vault in memory with a machine of which scattered pages changed often.
async fn aged(random: &mut fastrand::Rng, days: usize) -> (DedupStore, History, Machine) {
    let vault = DedupStore::create("memory://").await.unwrap();
    let history = History::default();
    let mut machine = Machine::new("a", 6 << 20);
    machine.write(random, 0, 5 << 20);
    history.protect_one(&vault, random, &mut machine).await;
    for _ in 0..days {
        for _ in 0..12 {
            let page = random.usize(..(4 << 20) / PAGE);
            machine.write(random, page * PAGE, PAGE);
        }
        history.protect_one(&vault, random, &mut machine).await;
    }
    (vault, history, machine)
}

#[tokio::test]
async fn a_folded_head_is_cheaper_and_every_point_stays() {
    let mut random = fastrand::Rng::with_seed(31);
    let (vault, history, mut machine) = aged(&mut random, 40).await;
    let told = fold(&vault, &machine.name, true).await.unwrap();
    assert_eq!((told.regions, told.folded), (1, 1), "{told:?}");
    let done = fold(&vault, &machine.name, false).await.unwrap();
    assert_eq!((done.folded, done.damaged, done.left), (1, 0, 0));
    assert!(done.cost_after.0 * 2 <= done.cost_before.0, "{done:?}");
    assert!(done.written > ByteCount(1 << 20), "{done:?}");
    history.check(&vault).await;

    // Nobody names what was folded but the record of it.
    history.collect(&vault).await.unwrap();
    machine.write(&mut random, 5 << 20, PAGE);
    history.protect_one(&vault, &mut random, &mut machine).await;
    history.check(&vault).await;
    let again = fold(&vault, &machine.name, true).await.unwrap();
    assert_eq!(
        again.folded, 0,
        "the new head has the folded maps: {again:?}"
    );

    let all: Vec<_> = history.known().points.iter().map(|kept| kept.id).collect();
    let (_, old) = all.split_last().unwrap();
    history.expire(&vault, old).await.unwrap();
    history.collect(&vault).await.unwrap();
    history.check(&vault).await;
}

#[tokio::test]
async fn a_fold_that_no_synchronization_follows_is_given_up_by_the_next_one() {
    let mut random = fastrand::Rng::with_seed(32);
    let (vault, history, mut machine) = aged(&mut random, 40).await;
    let mut options = FoldOptions::default();
    options.most_written = ByteCount(0);
    let none = vault
        .fold(&machine.name, &options, &NoMonitor)
        .await
        .unwrap();
    assert_eq!((none.folded, none.left), (0, 1), "a budget leaves the rest");

    // From an older point the folded maps are not begun from.
    fold(&vault, &machine.name, false).await.unwrap();
    let known = history.known().points;
    machine.head = Some(known[3].id);
    machine.changed = std::iter::once(0..machine.bytes.len()).collect();
    history.protect_one(&vault, &mut random, &mut machine).await;
    history.check(&vault).await;
    let record = fold(&vault, &machine.name, true).await.unwrap();
    assert_eq!(record.damaged, 0, "{record:?}");
}

#[tokio::test]
async fn what_is_being_synchronized_is_not_folded() {
    let mut random = fastrand::Rng::with_seed(33);
    let (vault, history, mut machine) = aged(&mut random, 1).await;
    let kind = |folded: Result<FoldReport>| folded.map_err(|error| error.kind());
    let unknown = SourceName::new("nobody").unwrap();
    let folded = fold(&vault, &unknown, false).await;
    assert_eq!(kind(folded), Err(ErrorKind::NotFound));
    machine.write(&mut random, 0, PAGE);
    let writer = vault.begin(machine.begin(&mut random)).await.unwrap();
    let folded = fold(&vault, &machine.name, false).await;
    assert_eq!(kind(folded), Err(ErrorKind::Conflict));
    images::send(&*writer, &machine).await.unwrap();
    writer.abort().await.unwrap();
    fold(&vault, &machine.name, false).await.unwrap();
    history.check(&vault).await;
}
