//! `expire`: removes the recovery points that a policy no longer keeps.

use backstop::{
    KeepReason, PointId, ProtectionServer, RetentionPolicy, RetentionReport, SourceName,
    Verdict as PointVerdict,
};
use serde::Serialize;

use crate::care_arguments::{ExpireArguments, KeepArguments};
use crate::ending::{Ending, Verdict};
use crate::output::Output;
use crate::report::short;
use crate::table::{Align, Table};

#[derive(Debug, Serialize)]
struct SourceReport {
    source: SourceName,
    dry_run: bool,
    expired: Vec<PointId>,
    kept: Vec<KeptReport>,
}

#[derive(Debug, Serialize)]
struct KeptReport {
    id: PointId,
    reasons: Vec<KeepReason>,
    /// Until when the vault keeps it against the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// Expires the points of one source or of all.
pub async fn expire(
    arguments: &ExpireArguments,
    server: &ProtectionServer,
    output: Output,
) -> Ending {
    let policy = policy(&arguments.keep);
    let mut reports = Vec::new();
    for source in arguments.chosen.sources(server).await? {
        let report = if arguments.dry_run {
            server.preview_expiry(&source, &policy).await?
        } else {
            server.expire(&source, &policy).await?
        };
        reports.push(source_report(report, arguments.dry_run));
    }
    let can_undo = !server.protection().await?.undo_window.is_zero();
    output.print(&reports, table(&reports, can_undo))?;
    Ok(Verdict::Done)
}

/// The default policy, or exactly the numbers that are given.
fn policy(keep: &KeepArguments) -> RetentionPolicy {
    let numbers = [
        keep.last,
        keep.hourly,
        keep.daily,
        keep.weekly,
        keep.monthly,
        keep.yearly,
    ];
    if numbers.iter().all(Option::is_none) {
        return RetentionPolicy {
            minimum_age: keep.min_age,
            ..RetentionPolicy::default()
        };
    }
    let [last, hourly, daily, weekly, monthly, yearly] = numbers.map(|number| number.unwrap_or(0));
    RetentionPolicy {
        last,
        hourly,
        daily,
        weekly,
        monthly,
        yearly,
        minimum_count: 0,
        minimum_age: keep.min_age,
    }
}

fn source_report(report: RetentionReport, dry_run: bool) -> SourceReport {
    let expired = report.expired().collect();
    let kept_until = report.kept_until;
    let kept = report
        .decisions
        .into_iter()
        .filter_map(|decision| match decision.verdict {
            PointVerdict::Keep(reasons) => Some(KeptReport {
                id: decision.point,
                reasons,
                until: kept_until.get(&decision.point).map(ToString::to_string),
            }),
            PointVerdict::Expire => None,
        });
    SourceReport {
        source: report.source,
        dry_run,
        expired,
        kept: kept.collect(),
    }
}

fn table(reports: &[SourceReport], can_undo: bool) -> Table {
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("point", Align::Left),
        ("what", Align::Left),
    ]);
    for report in reports {
        let what = match (report.dry_run, can_undo) {
            (true, _) => "would be removed",
            (false, false) => "removed",
            (false, true) => "expired; `undo` brings it back",
        };
        for id in &report.expired {
            table.row(vec![report.source.to_string(), short(*id), what.to_owned()]);
        }
        for kept in &report.kept {
            let reasons: Vec<&str> = kept.reasons.iter().map(|reason| word(*reason)).collect();
            let until = kept.until.as_ref().map(|until| format!(" until {until}"));
            let what = format!("kept: {}{}", reasons.join(", "), until.unwrap_or_default());
            table.row(vec![report.source.to_string(), short(kept.id), what]);
        }
    }
    table
}

fn word(reason: KeepReason) -> &'static str {
    match reason {
        KeepReason::Inconsistent => "the replica is in doubt",
        KeepReason::Head => "newest",
        KeepReason::Pinned => "pinned",
        KeepReason::Held => "held",
        KeepReason::MinimumRetention => "the vault keeps it",
        KeepReason::Young => "young",
        KeepReason::MinimumCount => "among the fewest",
        KeepReason::Last => "last",
        KeepReason::Hourly => "hourly",
        KeepReason::Daily => "daily",
        KeepReason::Weekly => "weekly",
        KeepReason::Monthly => "monthly",
        KeepReason::Yearly => "yearly",
        _ => "policy",
    }
}
