//! `rebuild`: makes the index and the catalog anew from the packs.

use backstop::{CpuPool, PointId, RebuildOptions, RebuildReport, SourceName};

use crate::arguments::VaultArguments;
use crate::care_arguments::RebuildArguments;
use crate::ending::{Ending, Stop, Verdict};
use crate::interrupt::{close, patience, unless_interrupted};
use crate::output::{Output, warn};
use crate::progress::Watch;
use crate::report::{amount, short};
use crate::table::{Align, Table};
use crate::vault::builder;

/// Rebuilds the vault. An interrupt leaves it as it was.
pub async fn rebuild(
    arguments: &RebuildArguments,
    vault: &VaultArguments,
    cpu: CpuPool,
    output: Output,
) -> Ending {
    let mut options = RebuildOptions::default();
    options.with_expired = arguments.with_expired;
    options.with_uncommitted = arguments.with_uncommitted;
    let watch = Watch::new("rebuilding", output);
    let rebuilding = builder(vault, cpu)?.rebuild(&options, &watch);
    let rebuilt = unless_interrupted(Box::pin(rebuilding)).await;
    watch.finish();
    let (vault, report) = rebuilt.map_err(Stop::from)??;
    if let Err(error) = close(vault.close(), patience(false)).await {
        warn(error.within("the vault was not closed properly"));
    }
    output.print(&report, table(&report))?;
    Ok(
        if report.damaged.is_empty()
            && report.lost.is_empty()
            && report.unreadable.count == 0
            && report.damaged_records == 0
        {
            Verdict::Done
        } else {
            Verdict::Damaged
        },
    )
}

fn table(report: &RebuildReport) -> Table {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right), ("", Align::Right)]);
    let mut row = |what: &str, count: u64, more: String| {
        table.row(vec![what.to_owned(), count.to_string(), more]);
    };
    row(
        "packs found",
        report.packs.count,
        amount(report.packs.bytes),
    );
    row("chunks, maps and records", report.frames, String::new());
    if report.damaged_tables > 0 {
        row("damaged tables", report.damaged_tables, String::new());
    }
    if report.unreadable.count > 0 {
        let bytes = amount(report.unreadable.bytes);
        row("packs that can't be read", report.unreadable.count, bytes);
    }
    if report.damaged_records > 0 {
        let records = report.damaged_records;
        row("records that can't be read", records, String::new());
    }
    row(
        "points that are back",
        report.points.len() as u64,
        String::new(),
    );
    let mut list = |what: &str, points: &[(SourceName, PointId)]| {
        for (source, id) in points {
            let point = format!("{source} {}", short(*id));
            table.row(vec![what.to_owned(), String::new(), point]);
        }
    };
    list("back, but damaged", &report.damaged);
    list("back, unknown to the last rebuild", &report.unseen);
    list("lost: it can't be opened", &report.lost);
    list("had expired", &report.expired);
    list("was never committed", &report.uncommitted);
    list("of these, judged by its time alone", &report.late);
    list("back without others of its group", &report.parted);
    table
}
