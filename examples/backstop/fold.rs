//! `fold`: makes the newest recovery points cheaper to read.

use backstop::{ByteCount, ErrorKind, FoldOptions, FoldReport, ProtectionServer, SourceName};
use serde::Serialize;

use crate::care_arguments::FoldArguments;
use crate::ending::{Ending, Verdict};
use crate::output::{Output, warn};
use crate::progress::Watch;
use crate::report::amount;
use crate::table::{Align, Table};

#[derive(Debug, Serialize)]
struct Folded {
    source: SourceName,
    dry_run: bool,
    #[serde(flatten)]
    report: FoldReport,
}

/// Folds one source or all.
pub async fn fold(arguments: &FoldArguments, server: &ProtectionServer, output: Output) -> Ending {
    let mut options = FoldOptions::default();
    options.dry_run = arguments.dry_run;
    options.worth = arguments.worth;
    if let Some(mib) = arguments.most_written {
        options.most_written = ByteCount(u64::from(mib) << 20);
    }
    let mut done = Vec::new();
    for source in arguments.chosen.sources(server).await? {
        let watch = Watch::new("folding", output);
        let report = server.fold(&source, &options, &watch).await;
        watch.finish();
        let report = match report {
            Ok(report) => report,
            // One that is being synchronized stops none of the others.
            Err(error)
                if arguments.chosen.all
                    && matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) =>
            {
                warn(error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        done.push(Folded {
            source,
            dry_run: options.dry_run,
            report,
        });
    }
    output.print(&done, table(&done))?;
    Ok(Verdict::Done)
}

fn table(done: &[Folded]) -> Table {
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("regions", Align::Right),
        ("folded", Align::Right),
        ("cost before", Align::Right),
        ("after", Align::Right),
        ("written", Align::Right),
        ("", Align::Left),
    ]);
    for Folded {
        source,
        dry_run,
        report,
    } in done
    {
        let mut notes = Vec::new();
        if *dry_run {
            notes.push("only told".to_owned());
        }
        if report.left > 0 {
            notes.push(format!("{} left to another run", report.left));
        }
        if report.damaged > 0 {
            notes.push(format!("{} damaged: check the source", report.damaged));
        }
        table.row(vec![
            source.to_string(),
            report.regions.to_string(),
            report.folded.to_string(),
            amount(report.cost_before),
            amount(report.cost_after),
            amount(report.written),
            notes.join(", "),
        ]);
    }
    table
}
