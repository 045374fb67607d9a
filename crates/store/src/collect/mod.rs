//! Collection: gives back the space of what nothing needs.
//!
//! 0. Expired points that can be brought back no longer are removed for good, and
//!    synchronizations that nobody went on with are given up.
//! 1. The tables of all packs tell what there is ([`inventory`]).
//! 2. From now on, what synchronizations rely on is recorded.
//! 3. From the roots down, everything that is needed is marked, each map node
//!    once ([`roots`], [`walk`]); maps that nobody misses last ([`dispensable`]).
//! 4. Packs in which nothing is needed are condemned; of those of which little
//!    is, that little moves to new packs, and then they are condemned
//!    ([`rewrite`], [`condemn`]). Nobody relies on a condemned pack any more.
//!    What crashes left is condemned too ([`orphans`]).
//! 5. All that is condemned comes into a page of the ledger.
//! 6. Condemned packs are deleted, when no reader is left that began before
//!    ([`delete`]).
//! 6. Where the store locks objects, the rest is locked anew in time
//!    ([`locks`]), however the steps before have ended.
//!
//! It may end anywhere. What was condemned stays so, and the next run goes on.

mod condemn;
mod copies;
mod delete;
mod dispensable;
mod entries;
mod holds;
pub(crate) mod inventory;
mod locks;
mod marks;
mod orphans;
mod rewrite;
pub(crate) mod roots;
mod unstored;
pub(crate) mod walk;

use std::sync::Arc;

use backstop_core::{
    ByteCount, CollectOptions, CollectReport, Error, LockReport, Monitor, Objects, Progress,
    Result, Timestamp,
};

use crate::keys;
use crate::ledger;
use crate::record::PackRecord;
use crate::removal;
use crate::vault::Vault;
use copies::Mended;
use inventory::Inventory;
use roots::{Gone, Roots};

/// A collection under way.
pub(super) struct Run<'a> {
    vault: &'a Arc<Vault>,
    options: CollectOptions,
    monitor: &'a dyn Monitor,
    began: Timestamp,
    report: CollectReport,
    done: u64,
    total: u64,
}

impl Run<'_> {
    /// Whether the time or the requests are used up.
    fn is_spent(&self) -> bool {
        let time = self.options.most_time;
        let requests = self.options.most_requests;
        time.is_some_and(|most| self.vault.clock.now().since(self.began) >= most)
            || requests.is_some_and(|most| self.report.requests >= most)
    }

    /// Tells that these packs are dealt with.
    fn tell(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        self.monitor.tell_progress(Progress {
            done: ByteCount(self.done.min(self.total)),
            total: ByteCount(self.total),
        })
    }
}

/// Ends the recording, however a collection ends.
struct Recording<'a>(&'a Vault);

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.0.index.record(None);
    }
}

/// See [`backstop_core::Maintenance::collect`].
pub(crate) async fn collect(
    vault: &Arc<Vault>,
    options: &CollectOptions,
    monitor: &dyn Monitor,
) -> Result<CollectReport> {
    vault.writer()?;
    let Ok(_one) = vault.collecting.try_lock() else {
        return Err(Error::conflict(
            "another collection of this vault is under way; let it end",
        ));
    };
    let collected = Box::pin(give_back(vault, options, monitor)).await;
    if options.dry_run {
        return collected;
    }
    let locks = Box::pin(locks::see_to(vault, options)).await;
    collected.map(|mut report| {
        report.locks = locks;
        report
    })
}

/// What is known of the locks of objects.
pub(crate) async fn locks(vault: &Vault) -> Result<LockReport> {
    locks::written_down(vault).await
}

/// Sees to the locks of objects alone.
pub(crate) async fn lock_objects(vault: &Arc<Vault>) -> Result<LockReport> {
    vault.writer()?;
    let _one = vault.collecting.lock().await;
    Ok(locks::see_to(vault, &CollectOptions::default()).await)
}

async fn give_back(
    vault: &Arc<Vault>,
    options: &CollectOptions,
    monitor: &dyn Monitor,
) -> Result<CollectReport> {
    let mut run = Run {
        vault,
        options: *options,
        monitor,
        began: vault.clock.now(),
        report: CollectReport::default(),
        done: 0,
        total: 0,
    };
    let gone = give_up(&mut run).await?;
    if !options.dry_run {
        // Before anything is given back of points that expired: what is left of
        // them must not be taken for damaged points.
        ledger::settle_whole(vault).await?;
    }
    let inventory = Arc::new(Inventory::take(vault, options).await?);
    if !options.dry_run {
        // What waited for readers, or was left by a run that ended early: it is
        // space that moving others may need.
        delete::condemned(&mut run, &inventory, Judged::NotYet).await?;
    }
    count(&mut run, &inventory);
    let _recording = Recording(vault);
    {
        // Whoever looked something up without its being recorded has stored
        // what names it, where the roots show it.
        let _all = vault.gate.write().await;
        vault.index.record(Some(Arc::clone(&inventory) as _));
    }
    mark(&mut run, &inventory, &gone).await?;
    if !options.dry_run {
        copies::mend(&mut run, &inventory, Mended::All).await?;
    }
    let dropped = condemn::dead(&mut run, &inventory).await?;
    rewrite::worthwhile(&mut run, &inventory, &dropped).await?;
    orphans::condemn(&mut run).await?;
    if !options.dry_run {
        // A rebuild must know of all that is condemned before any of it goes.
        ledger::settle(vault).await?;
        delete::condemned(&mut run, &inventory, Judged::All).await?;
    }
    run.report.old_keys = keys::under_old_keys(vault).await?;
    let rest = run.total.saturating_sub(run.done);
    run.tell(rest)?;
    Ok(run.report)
}

/// Whether the marks tell what is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    NotYet,
    All,
}

/// Removes for good what can be brought back no longer, and gives up what nobody
/// goes on with. Gives what a dry run would.
async fn give_up(run: &mut Run<'_>) -> Result<Gone> {
    let (vault, options) = (run.vault, run.options);
    let points = removal::purge(vault, options.dry_run).await?;
    let after = options.most_unfinished_age;
    let unfinished = dispensable::give_up_old(vault, after, options.dry_run).await?;
    run.report.purged = points.len() as u64;
    run.report.given_up = unfinished.len() as u64;
    Ok(Gone { points, unfinished })
}

/// Sees to it that the index names whole copies of maps; tells whether any was
/// mended. A dry run changes nothing.
async fn mend_maps(run: &mut Run<'_>, inventory: &Inventory) -> Result<bool> {
    if run.options.dry_run {
        return Ok(false);
    }
    let mended = copies::mend(run, inventory, Mended::Maps).await?;
    Ok(mended > 0)
}

/// So often maps that can't be read are mended or forgotten, and all is judged anew.
const ROUNDS: usize = 4;

/// Marks everything that is needed.
async fn mark(run: &mut Run<'_>, inventory: &Arc<Inventory>, gone: &Gone) -> Result<()> {
    let vault = run.vault;
    let dry_run = run.options.dry_run.then_some(gone);
    mend_maps(run, inventory).await?;
    let unmarked = inventory.walked();
    for _ in 0..ROUNDS {
        // Who came meanwhile may stand on what was forgotten: nothing that an
        // earlier round found counts.
        inventory.walk_back(&unmarked);
        let roots = Roots::find(vault, dry_run).await?;
        let walked = walk::walk(vault, inventory, &roots).await?;
        run.report.roots = roots.count;
        run.report.nodes = walked.nodes;
        run.report.requests += walked.requests;
        if let Err(lost) = walk::found_all(&walked, &roots) {
            // What was found to be bad only now may have another copy.
            if mend_maps(run, inventory).await? {
                continue;
            }
            return Err(lost);
        }
        let lost = dispensable::mark(run, inventory, &roots).await?;
        if lost.is_empty() {
            return Ok(());
        }
        if run.options.dry_run {
            let unfinished = lost.iter().filter(|maps| maps.is_unfinished);
            run.report.given_up += unfinished.count() as u64;
            return Ok(());
        }
        if !mend_maps(run, inventory).await? {
            run.report.given_up += dispensable::forget(vault, &lost).await?;
        }
    }
    Err(Error::unavailable(
        "maps of the vault that can't be read came and went while it was collected; nothing was \
         given back; repeat it",
    ))
}

fn count(run: &mut Run<'_>, inventory: &Inventory) {
    let report = &mut run.report;
    for held in &inventory.packs {
        report.packs.add(held.record.bytes);
    }
    for (_, record) in &inventory.unreadable {
        report.unreadable.add(record.bytes);
    }
    report.requests += report.packs.count + report.unreadable.count;
    report.is_partial |= !inventory.passed_over.is_empty();
    run.total = report.packs.bytes.0;
}

/// Counts packs.
fn count_packs<'a>(objects: &mut Objects, packs: impl IntoIterator<Item = &'a PackRecord>) {
    for record in packs {
        objects.add(record.bytes);
    }
}
