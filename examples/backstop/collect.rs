//! `collect`: gives back the space of what has expired.

use backstop::{ByteCount, CollectOptions, CollectReport, Objects, ProtectionServer};
use serde::Serialize;

use crate::care_arguments::CollectArguments;
use crate::ending::{Ending, Verdict};
use crate::output::Output;
use crate::progress::Watch;
use crate::report::amount;
use crate::table::{Align, Table};

#[derive(Debug, Serialize)]
struct Collected {
    dry_run: bool,
    #[serde(flatten)]
    report: CollectReport,
}

/// Gives back space.
pub async fn collect(
    arguments: &CollectArguments,
    server: &ProtectionServer,
    output: Output,
) -> Ending {
    let mut options = CollectOptions::default();
    options.dry_run = arguments.dry_run;
    options.most_dead = arguments.most_dead;
    options.reseal = arguments.reseal;
    options.most_time = arguments.most_time;
    options.most_requests = arguments.most_requests;
    if let Some(mib) = arguments.most_written {
        options.most_rewritten = ByteCount(u64::from(mib) << 20);
    }
    let watch = Watch::new("collecting", output);
    let report = server.collect(&options, &watch).await;
    watch.finish();
    let collected = Collected {
        dry_run: options.dry_run,
        report: report?,
    };
    output.print(&collected, table(&collected))?;
    Ok(Verdict::Done)
}

fn table(collected: &Collected) -> Table {
    let Collected { dry_run, report } = collected;
    let mut table = Table::new(&[
        ("", Align::Left),
        ("packs", Align::Right),
        ("bytes", Align::Right),
    ]);
    let mut row = |what: &str, objects: Objects| {
        table.row(vec![
            what.to_owned(),
            objects.count.to_string(),
            amount(objects.bytes),
        ]);
    };
    row("looked at", report.packs);
    let would = if *dry_run { "would be " } else { "" };
    row(
        &format!("{would}given up, nothing in them is needed"),
        report.dropped,
    );
    row(
        &format!("{would}rewritten, little in them is needed"),
        report.rewritten,
    );
    if report.resealed.count > 0 {
        row(
            &format!("{would}sealed anew, they were under an old key"),
            report.resealed,
        );
    }
    if report.old_keys.count > 0 {
        row("under old keys of the vault", report.old_keys);
    }
    if report.orphans.count > 0 {
        row(
            &format!("{would}deleted, a crash left them"),
            report.orphans,
        );
    }
    if !dry_run {
        row("deleted", report.deleted);
    }
    if report.waiting.count > 0 {
        let readers = report.readers;
        row(
            &format!("given up, and waiting for {readers} readers"),
            report.waiting,
        );
    }
    if report.locked.count > 0 {
        row("given up, and locked by the store", report.locked);
    }
    let locks = &report.locks;
    for (what, packs) in [
        (
            "locked by the store for the minimum retention",
            locks.locked,
        ),
        ("locked anew for that", locks.extended),
        ("not locked, though they should be", locks.unlocked),
        ("under legal hold", locks.held),
        ("no longer under legal hold", locks.released),
        ("not under legal hold, though they should be", locks.unheld),
    ] {
        if packs.count > 0 {
            row(what, packs);
        }
    }
    if report.unreadable.count > 0 {
        row("kept, they can't be read", report.unreadable);
    }
    if report.lost_points.count > 0 {
        row(
            "kept, with recovery points that the catalog has lost",
            report.lost_points,
        );
    }
    for (what, bytes) in [
        (format!("{would}written anew"), report.written),
        (
            "not needed, and not worth rewriting".to_owned(),
            report.left,
        ),
    ] {
        table.row(vec![what, String::new(), amount(bytes)]);
    }
    if report.purged > 0 {
        let what = format!("expired recovery points {would}removed for good");
        table.row(vec![what, report.purged.to_string(), String::new()]);
    }
    if report.given_up > 0 {
        let what = format!("unfinished synchronizations {would}given up");
        table.row(vec![what, report.given_up.to_string(), String::new()]);
    }
    if let Some(problem) = &report.locks.problem {
        let what = format!("locks of the store: {problem}");
        table.row(vec![what, String::new(), String::new()]);
    }
    if report.is_partial {
        let rest = "a budget ended it; run it again for the rest".to_owned();
        table.row(vec![rest, String::new(), String::new()]);
    }
    table
}
