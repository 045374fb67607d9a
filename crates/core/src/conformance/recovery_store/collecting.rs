//! Collection: what is not needed goes, what is needed stays, whoever needs it.

use super::rig::{Rig, Source};
use crate::conformance::claim;
use crate::conformance::model::{self, Edit};
use crate::{
    ByteOffset, CollectOptions, CollectReport, Deduplication, Extent, NoMonitor, PointId,
    VaultStatistics,
};

pub(super) async fn collect(rig: &Rig) -> CollectReport {
    let report = rig
        .store
        .collect(&CollectOptions::default(), &NoMonitor)
        .await;
    claim::succeeds(report, "a vault is collected")
}

pub(super) async fn what_is_whole_verifies(rig: &mut Rig) {
    let options = crate::VerifyOptions::default();
    let empty = rig.store.verify(&options, &NoMonitor).await;
    let empty = claim::succeeds(empty, "an empty vault is verified");
    claim::equal(&empty.damaged, &0, "an empty vault has no damage");
    let history = replaced(rig, "vm", 2).await;
    let whole = rig.store.verify(&options, &NoMonitor).await;
    let whole = claim::succeeds(whole, "a vault is verified");
    claim::holds(whole.frames > 0, "what is stored is read");
    claim::equal(
        &(whole.damaged, whole.ranges.len(), whole.is_partial),
        &(0, 0, false),
        "what is whole is not damaged",
    );
    rig.head_holds(&history[1].1).await;
}

async fn statistics(rig: &Rig) -> VaultStatistics {
    claim::succeeds(rig.store.statistics().await, "a vault is counted")
}

/// A source whose every point replaces all of its data; the last is its head.
async fn replaced(rig: &mut Rig, name: &str, points: u32) -> Vec<(PointId, Source, Edit)> {
    let mut source = Source::new(name, 3_000_000);
    let mut history = Vec::new();
    for _ in 0..points {
        let edit = Edit::data(0, model::noise(&mut rig.random, 2_000_000));
        let point = rig.protect(&mut source, &[(0, edit.clone())]).await;
        history.push((point.id, source.clone(), edit));
    }
    history
}

pub(super) async fn what_nobody_needs_goes(rig: &mut Rig) {
    let history = replaced(rig, "vm", 4).await;
    collect(rig).await;
    let before = statistics(rig).await;
    let expired = [history[0].0, history[2].0];
    claim::succeeds(rig.store.expire(&expired).await, "points expire");
    let dry = CollectOptions {
        dry_run: true,
        ..CollectOptions::default()
    };
    let told = rig.store.collect(&dry, &NoMonitor).await;
    let told = claim::succeeds(told, "a dry run tells");
    claim::holds(
        told.dead > 0 && told.dropped.bytes.0 + told.rewritten.bytes.0 > 0,
        "a dry run tells what would be given back",
    );
    claim::equal(
        &statistics(rig).await.chunks,
        &before.chunks,
        "a dry run gives nothing back",
    );
    let report = collect(rig).await;
    claim::equal(&report.roots, &2, "the points that are there are needed");
    claim::holds(report.deleted.count > 0, "what nobody needs is deleted");
    let after = statistics(rig).await;
    claim::holds(
        after.plain_bytes.0 * 10 <= before.plain_bytes.0 * 6,
        "the space of half of the data comes back",
    );
    for at in [1, 3] {
        rig.holds(history[at].0, &history[at].1).await;
    }
    let again = collect(rig).await;
    claim::equal(
        &(again.dead, again.deleted.count),
        &(0, 0),
        "a second collection has nothing to do",
    );
    rig.head_holds(&history[3].1).await;
}

pub(super) async fn what_went_can_be_stored_again(rig: &mut Rig) {
    let history = replaced(rig, "vm", 2).await;
    let (first, _, edit) = &history[0];
    let mut source = history[1].1.clone();
    claim::succeeds(rig.store.expire(&[*first]).await, "a point expires");
    collect(rig).await;
    rig.protect(&mut source, &[(0, edit.clone())]).await;
    rig.head_holds(&source).await;
    collect(rig).await;
    rig.head_holds(&source).await;
}

pub(super) async fn who_reads_can_read_on(rig: &mut Rig) {
    let history = replaced(rig, "vm", 3).await;
    let (old, source, _) = &history[0];
    let (stream, image) = &source.images[0];
    let opened = rig.store.open(*old, stream).await;
    let opened = claim::succeeds(opened, "a point opens");
    claim::succeeds(
        rig.store.expire(&[*old]).await,
        "a point that is read expires",
    );
    collect(rig).await;
    let whole = Extent::between(ByteOffset(0), ByteOffset(image.length().0));
    let read = opened.read(whole.offset(), whole.length()).await;
    let read = claim::succeeds(read, "who began to read before a collection reads on");
    claim::holds(
        read[..] == *image.slice(whole),
        "what is read on is what the point holds",
    );
    drop(opened);
    let report = collect(rig).await;
    claim::holds(
        report.deleted.count > 0 && report.waiting.count == 0,
        "when nobody reads any more, the space comes back",
    );
    rig.head_holds(&history[2].1).await;
}

/// In a shared domain a synchronization may rely on what only an expired point
/// held; in its own, on what it has sent before.
pub(super) async fn what_is_being_written_stays(rig: &mut Rig) {
    for deduplication in [Deduplication::OwnReplica, Deduplication::Vault] {
        let history = replaced(rig, &format!("old {deduplication:?}"), 2).await;
        let (old, _, edit) = &history[0];
        claim::succeeds(rig.store.expire(&[*old]).await, "a point expires");
        let mut source = Source::new(&format!("new {deduplication:?}"), 3_000_000);
        source.deduplication = deduplication;
        let run = rig.begin(&source).await;
        run.write(0, edit).await;
        source.model(0).apply(edit);
        collect(rig).await;
        let more = Edit::data(2_500_000, model::noise(&mut rig.random, 100_000));
        run.write(0, &more).await;
        source.model(0).apply(&more);
        rig.commit(&mut source, &run).await;
        rig.head_holds(&source).await;
        collect(rig).await;
        rig.head_holds(&source).await;
    }
}

pub(super) async fn what_was_suspended_stays(rig: &mut Rig) {
    let mut source = Source::new("vm", 3_000_000);
    rig.initial(&mut source).await;
    let run = rig.begin(&source).await;
    let edit = Edit::data(0, model::noise(&mut rig.random, 1_000_000));
    run.write(0, &edit).await;
    source.model(0).apply(&edit);
    claim::succeeds(
        run.writer.progress(0, crate::RegionIndex(1)).await,
        "progress is told",
    );
    claim::succeeds(run.writer.suspend().await, "a synchronization is suspended");
    collect(rig).await;
    let run = rig.resume(run.begin).await;
    let resumed = run.writer.resume_at(0);
    claim::equal(&resumed.0, &1, "a suspended synchronization continues");
    rig.commit(&mut source, &run).await;
    rig.head_holds(&source).await;
}
