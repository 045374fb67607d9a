//! Collection: gives back the space of what nothing needs.
//!
//! 0. Expired points that can be brought back no longer are removed for good.
//! 1. The tables of all packs tell what there is ([`inventory`]).
//! 2. From now on, what synchronizations rely on is recorded.
//! 3. From the roots down, everything that is needed is marked, each map node
//!    once ([`roots`], [`walk`]).
//! 4. Packs in which nothing is needed are condemned; of those of which little
//!    is, that little moves to new packs, and then they are condemned
//!    ([`rewrite`], [`condemn`]). Nobody relies on a condemned pack any more.
//! 5. Condemned packs are deleted, when no reader is left that began before
//!    ([`delete`]).
//!
//! It may end anywhere. What was condemned stays so, and the next run goes on.

mod condemn;
mod delete;
pub(crate) mod inventory;
mod marks;
mod orphans;
mod rewrite;
pub(crate) mod roots;
pub(crate) mod walk;

use std::collections::HashSet;
use std::sync::Arc;

use backstop_core::{
    ByteCount, CollectOptions, CollectReport, Error, Monitor, Objects, Progress, Result, Timestamp,
};

use crate::failure;
use crate::folding;
use crate::keys;
use crate::ledger;
use crate::record::PackRecord;
use crate::removal;
use crate::vault::Vault;
use inventory::Inventory;
use roots::Roots;

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
    let mut run = Run {
        vault,
        options: *options,
        monitor,
        began: vault.clock.now(),
        report: CollectReport::default(),
        done: 0,
        total: 0,
    };
    let purged = removal::purge(vault, options.dry_run).await?;
    run.report.purged = purged.len() as u64;
    let gone = if options.dry_run {
        purged
    } else {
        HashSet::new()
    };
    if !options.dry_run {
        // Before anything is given back of points that expired: what is left of
        // them must not be taken for damaged points.
        ledger::settle(vault).await?;
    }
    let inventory = Arc::new(Inventory::take(vault, options).await?);
    if !options.dry_run {
        // What waited for readers, or was left by a run that ended early.
        delete::condemned(&mut run, &inventory).await?;
    }
    count(&mut run, &inventory);
    let _recording = Recording(vault);
    {
        // Whoever looked something up without its being recorded has stored
        // what names it, where the roots show it.
        let _all = vault.gate.write().await;
        vault.index.record(Some(Arc::clone(&inventory) as _));
    }
    let mut roots = Roots::find(vault, &gone).await?;
    let walked = match walk::mark(vault, &inventory, &roots).await {
        // Folded maps are worth nothing if they can't be read.
        Err(error) if failure::is_damage(&error) && roots.has_folded && !options.dry_run => {
            folding::forget_all(vault).await?;
            roots = Roots::find(vault, &gone).await?;
            // What was walked before is needed all the same.
            walk::mark(vault, &inventory, &roots).await?
        }
        walked => walked?,
    };
    run.report.roots = roots.count;
    run.report.nodes = walked.nodes;
    run.report.requests += walked.requests;

    let dropped = condemn::dead(&mut run, &inventory).await?;
    rewrite::worthwhile(&mut run, &inventory, &dropped).await?;
    orphans::sweep(&mut run).await?;
    if !options.dry_run {
        delete::condemned(&mut run, &inventory).await?;
        ledger::settle(vault).await?;
    }
    run.report.old_keys = keys::under_old_keys(vault).await?;
    let rest = run.total.saturating_sub(run.done);
    run.tell(rest)?;
    Ok(run.report)
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
