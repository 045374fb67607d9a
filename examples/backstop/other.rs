//! `replicate`, `compare` and `heal`: what is done with a second vault.

use std::path::PathBuf;

use backstop::{
    Agreement, CpuPool, DedupStore, DedupStoreBuilder, HealReport, ProtectionServer,
    ReplicateOptions, ReplicateReport, Result, SourceName, VerifyOptions, VerifyReport,
};
use clap::Args;
use serde::Serialize;

use crate::credential::credential_of;
use crate::ending::{Ending, Verdict};
use crate::interrupt::{close, patience};
use crate::output::{Output, warn};
use crate::progress::Watch;
use crate::report::{amount, short};
use crate::table::{Align, Table};

/// The second vault and what opens it.
#[derive(Debug, Args)]
pub struct OtherVault {
    /// The other vault: a URL or a local folder
    #[arg(long = "other", value_name = "URL")]
    pub other_place: String,
    /// A file that holds the other vault's passphrase in its first line; without it, BACKSTOP_OTHER_PASSPHRASE
    #[arg(long, value_name = "FILE", conflicts_with = "other_key_file")]
    pub other_passphrase_file: Option<PathBuf>,
    /// A file that holds the other vault's raw key: 32 bytes, or 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    pub other_key_file: Option<PathBuf>,
}

/// What to copy to another vault.
#[derive(Debug, Args)]
pub struct ReplicateArguments {
    /// The sources; all if none is named
    pub names: Vec<String>,
    /// Where to.
    #[command(flatten)]
    pub other: OtherVault,
    /// Copy nothing; tell which points would be
    #[arg(long)]
    pub dry_run: bool,
    /// Begin no point when so many were copied
    #[arg(long, value_name = "N")]
    pub most_points: Option<u64>,
}

impl OtherVault {
    fn builder(&self, cpu: &CpuPool) -> Result<DedupStoreBuilder> {
        let credential = credential_of(
            self.other_key_file.as_deref(),
            self.other_passphrase_file.as_deref(),
            "BACKSTOP_OTHER_PASSPHRASE",
        )?;
        Ok(DedupStore::at(&self.other_place)
            .with_credential(credential)
            .with_cpu_pool(cpu.clone()))
    }
}

async fn closed(vault: &DedupStore) {
    if let Err(error) = close(vault.close(), patience(false)).await {
        warn(error.within("the other vault was not closed properly"));
    }
}

/// Copies points to the other vault.
pub async fn replicate(
    arguments: &ReplicateArguments,
    vault: &DedupStore,
    cpu: &CpuPool,
    output: Output,
) -> Ending {
    let mut options = ReplicateOptions::default();
    options.dry_run = arguments.dry_run;
    options.most_points = arguments.most_points;
    for name in &arguments.names {
        options.sources.push(SourceName::new(name)?);
    }
    let other = Box::pin(arguments.other.builder(cpu)?.open()).await?;
    let watch = Watch::new("replicating", output);
    let report = vault.replicate(&other, &options, &watch).await;
    watch.finish();
    closed(&other).await;
    let report = report?;
    output.print(&report, replicated(&report, arguments.dry_run))?;
    Ok(if report.damaged.is_empty() {
        Verdict::Done
    } else {
        Verdict::Damaged
    })
}

fn replicated(report: &ReplicateReport, dry_run: bool) -> Table {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    let mut row = |what: &str, value: String| table.row(vec![what.to_owned(), value]);
    let points = if dry_run {
        "points to be copied"
    } else {
        "points copied"
    };
    row(points, report.points.len().to_string());
    row("held before", report.held.to_string());
    if report.passed_over > 0 {
        let older = "older than its newest, not copied";
        row(older, report.passed_over.to_string());
    }
    if !dry_run {
        row("sent", amount(report.bytes_sent));
        row("added there", amount(report.bytes_added));
    }
    for (source, id) in &report.damaged {
        let what = format!("not copied, damaged: {source}");
        row(&what, short(*id));
    }
    for source in &report.in_doubt {
        row(
            &format!("in doubt there, until a new point is copied: {source}"),
            String::new(),
        );
    }
    if report.is_partial {
        row("the rest is for the next run", String::new());
    }
    table
}

/// Tells whether both vaults hold the same.
pub async fn compare(
    other: &OtherVault,
    vault: &DedupStore,
    cpu: &CpuPool,
    output: Output,
) -> Ending {
    let other = Box::pin(other.builder(cpu)?.open_read_only()).await?;
    let agreement = vault.agrees_with(&other).await;
    closed(&other).await;
    let agreement: Agreement = agreement?;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    let mut row = |what: String, value: String| table.row(vec![what, value]);
    row("the same in both".to_owned(), agreement.same.to_string());
    row("only here".to_owned(), agreement.only_here.to_string());
    row("only there".to_owned(), agreement.only_there.to_string());
    for (source, id) in &agreement.different {
        row(format!("different: {source}"), short(*id));
    }
    output.print(&agreement, table)?;
    Ok(if agreement.different.is_empty() {
        Verdict::Done
    } else {
        Verdict::Damaged
    })
}

#[derive(Debug, Serialize)]
struct Healed {
    verified: VerifyReport,
    healed: HealReport,
}

/// Verifies this vault, and takes from the other one what is damaged.
pub async fn heal(
    other: &OtherVault,
    vault: &DedupStore,
    server: &ProtectionServer,
    cpu: &CpuPool,
    output: Output,
) -> Ending {
    let other = Box::pin(other.builder(cpu)?.open_read_only()).await?;
    let watch = Watch::new("verifying", output);
    let verified = server.verify(&VerifyOptions::default(), &watch).await;
    watch.finish();
    let healed = match &verified {
        Ok(_) => vault.heal_from(&other).await,
        Err(_) => Ok(HealReport::default()),
    };
    closed(&other).await;
    let report = Healed {
        verified: verified?,
        healed: healed?,
    };
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    let mut row = |what: &str, value: String| table.row(vec![what.to_owned(), value]);
    row("damaged", report.verified.damaged.to_string());
    row("healed", report.healed.healed.to_string());
    row("added", amount(report.healed.bytes_added));
    row("the other vault lacks", report.healed.left.to_string());
    output.print(&report, table)?;
    Ok(if report.healed.left == 0 {
        Verdict::Done
    } else {
        Verdict::Damaged
    })
}
