//! Tells what was measured: a Markdown page with the promises and all medians, the raw numbers as JSON, a plot.

use crate::bench::lab::Lab;
use crate::bench::samples::Samples;
use crate::bench::targets::{Claim, claims};
use crate::bench::tool::Tool;
use crate::bench::{machine, plot};
use crate::problem::{Context, Outcome};
use serde_json::json;
use std::fmt::Write as _;
use std::fs;

/// Prints the tables and saves report.md, report.json and report.svg.
pub fn save(lab: &Lab, samples: &Samples) -> Outcome<()> {
    let claims = claims(samples);
    let facts = machine::facts(lab);
    let mut page = String::from("# Backstop beside its peers\n\n");
    for fact in &facts {
        writeln!(page, "- {fact}").context("report")?;
    }
    let rounds = lab.options.rounds;
    let gib = fs::metadata(&lab.images.day0).map_or(lab.options.gib, |facts| facts.len() >> 30);
    writeln!(
        page,
        "- images of {gib} GiB, medians of {rounds} interleaved rounds, encrypted vaults on the local disk\n\n\
         ## What was promised\n\n{}\n## All medians\n\n{}\n\
         Wall time is from process start to exit; memory is the largest resident size. A `-cold` row began with an \
         empty page cache and was run once. \"Added\" is what the vault or repository grew by on the disk.\n",
        promises(&claims),
        medians(samples),
    )
    .context("report")?;
    println!("\n{page}");
    let raw = json!({
        "machine": facts,
        "gib": gib,
        "rounds": rounds,
        "claims": claims.iter().map(as_json).collect::<Vec<_>>(),
        "samples": samples.to_json(),
    });
    let raw = serde_json::to_string_pretty(&raw).context("report.json")?;
    for (name, text) in [
        ("report.md", page),
        ("report.json", raw),
        ("report.svg", plot::draw(samples)),
    ] {
        let path = lab.root.join(name);
        fs::write(&path, text).context(path.display())?;
    }
    println!(
        "saved report.md, report.json and report.svg in {}",
        lab.root.display()
    );
    Ok(())
}

fn promises(claims: &[Claim]) -> String {
    let mut rows = vec![["what", "target", "ours", "", "measured"].map(str::to_owned)];
    for claim in claims {
        let bound = if claim.at_least {
            "at least"
        } else {
            "at most"
        };
        let word = match claim.reached() {
            Some(true) => "reached",
            Some(false) => "**missed**",
            None => "not measured",
        };
        rows.push([
            claim.what.clone(),
            format!("{bound} {}", figure(claim.limit, claim.unit)),
            claim
                .figure
                .map_or_else(String::new, |value| figure(value, claim.unit)),
            word.to_owned(),
            claim.detail.clone(),
        ]);
    }
    table(&rows)
}

fn medians(samples: &Samples) -> String {
    let heads = [
        "row",
        "tool",
        "wall, s",
        "CPU, s",
        "peak, MiB",
        "stored, MB",
        "added, MB",
        "changed, MB",
    ];
    let mut rows = vec![heads.map(str::to_owned)];
    for row in samples.rows() {
        for tool in Tool::ALL {
            let Some(wall) = samples.wall(row, tool) else {
                continue;
            };
            let number = |value: Option<f64>, digits: usize| {
                value.map_or_else(String::new, |value| format!("{value:.digits$}"))
            };
            let megabytes =
                |name| number(samples.fact(row, tool, name).map(|bytes| bytes / 1e6), 2);
            rows.push([
                row.to_owned(),
                tool.name().to_owned(),
                format!("{wall:.3}"),
                number(
                    samples.median(row, tool, |sample| Some(sample.cost.cpu_s())),
                    2,
                ),
                number(
                    samples.median(row, tool, |sample| Some(sample.cost.peak_mib)),
                    0,
                ),
                megabytes("stored_bytes"),
                megabytes("grown_bytes"),
                megabytes("changed_bytes"),
            ]);
        }
    }
    table(&rows)
}

/// A Markdown table whose columns line up in plain text too.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!(" {cell:width$} |"));
        let _ = writeln!(text, "|{}", cells.collect::<String>());
        if number == 0 {
            let rules = widths
                .iter()
                .map(|width| format!("{}|", "-".repeat(width + 2)));
            let _ = writeln!(text, "|{}", rules.collect::<String>());
        }
    }
    text
}

fn figure(value: f64, unit: &str) -> String {
    match unit {
        "x" if value < 0.1 => format!("{value:.4} x"),
        "x" => format!("{value:.2} x"),
        _ => format!("{value:.0} {unit}"),
    }
}

fn as_json(claim: &Claim) -> serde_json::Value {
    json!({
        "what": claim.what,
        "limit": claim.limit,
        "at_least": claim.at_least,
        "figure": claim.figure,
        "unit": claim.unit,
        "reached": claim.reached(),
        "detail": claim.detail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [["what", "ours"], ["wall", "3"]].map(|row| row.map(str::to_owned));
        assert_eq!(
            table(&rows),
            "| what | ours |\n|------|------|\n| wall | 3    |\n"
        );
    }

    #[test]
    fn figures_have_units() {
        assert_eq!(figure(0.0167, "x"), "0.0167 x");
        assert_eq!(figure(0.301, "x"), "0.30 x");
        assert_eq!(figure(59.6, "ms"), "60 ms");
    }
}
