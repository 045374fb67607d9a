//! `verify`: reads what is stored and tells what is damaged.

use backstop::{ProtectionServer, VerifyOptions, VerifyReport};

use crate::care_arguments::VerifyArguments;
use crate::ending::{Ending, Verdict};
use crate::output::Output;
use crate::progress::Watch;
use crate::report::{amount, short};
use crate::table::{Align, Table};

/// Verifies the vault or a part of it.
pub async fn verify(
    arguments: &VerifyArguments,
    server: &ProtectionServer,
    output: Output,
) -> Ending {
    let mut options = VerifyOptions::default();
    options.parts = arguments.parts;
    options.most_time = arguments.most_time;
    let watch = Watch::new("verifying", output);
    let report = server.verify(&options, &watch).await;
    watch.finish();
    let report = report?;
    output.print(&report, table(&report))?;
    Ok(if report.damaged + report.damaged_tables > 0 {
        Verdict::Damaged
    } else if report.unavailable.count > 0 {
        Verdict::NotAllSeen
    } else {
        Verdict::Done
    })
}

fn table(report: &VerifyReport) -> Table {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right), ("", Align::Right)]);
    let mut row = |what: &str, count: u64, bytes: String| {
        table.row(vec![what.to_owned(), count.to_string(), bytes]);
    };
    row("packs read", report.packs.count, amount(report.packs.bytes));
    row("of all", report.all.count, amount(report.all.bytes));
    row("chunks, maps and records", report.frames, String::new());
    row("damaged", report.damaged, String::new());
    if report.damaged_tables > 0 {
        row("damaged tables", report.damaged_tables, String::new());
    }
    if report.unavailable.count > 0 {
        let unavailable = report.unavailable;
        row(
            "packs that could not be read now",
            unavailable.count,
            amount(unavailable.bytes),
        );
    }
    for range in &report.ranges {
        let what = match (&range.stream, range.extent) {
            (Some(stream), Some(extent)) => format!("{stream} at {extent}"),
            _ => "its manifest or a document".to_owned(),
        };
        let point = short(range.point);
        table.row(vec![
            format!("damaged: {} {point}", range.source),
            String::new(),
            what,
        ]);
    }
    if report.has_more_ranges {
        table.row(vec!["and more".to_owned(), String::new(), String::new()]);
    }
    table
}
