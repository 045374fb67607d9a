//! A vault that grows old: every day 1 % of the image changes in scattered pages, is protected, what is older than two
//! weeks expires, and space is given back. What it costs over the days, and what the newest point costs to restore.

use crate::bench::aging_plot;
use crate::bench::lab::{Lab, from, point_id, warm};
use crate::bench::measure::Cost;
use crate::bench::samples::{Sample, Samples};
use crate::bench::tool::{Repository, Tool, Unlock};
use crate::corpus::images::make_one;
use crate::corpus::pages::{PAGE_BYTES, scatter, total, write_extents};
use crate::problem::{Context, Outcome};
use std::collections::BTreeMap;
use std::path::Path;

/// The image, in GiB.
const GIB: u64 = 1;

/// Days from one restore to the next.
const RESTORE_EVERY: u32 = 10;

/// How many daily points stay.
pub const KEPT: u32 = 14;

/// The row of the days.
pub const DAY: &str = "aging-day";

/// The row of restores of the newest point from a fresh vault of it.
pub const FRESH: &str = "aging-fresh-restore";

/// The row of what is left of all days.
pub const SPACE: &str = "aging-space";

/// The row of restores.
pub const RESTORE: &str = "aging-restore";

/// All days for each tool: what they share is the image and the seeds.
pub fn measure(lab: &Lab, samples: &mut Samples) -> Outcome<()> {
    let scratch = lab.folder("scratch")?;
    let day0 = scratch.join("day0.img");
    make_one(&day0, GIB, &from(&lab.options))?;
    for tool in Tool::ALL {
        let image = scratch.join("disk.img");
        crate::corpus::images::copy(&day0, &image)?;
        live(lab, samples, tool, &image)?;
        std::fs::remove_file(&image).context(image.display())?;
    }
    std::fs::remove_dir_all(&scratch).context(scratch.display())?;
    let plot = lab.root.join("aging.svg");
    std::fs::write(&plot, aging_plot::draw(samples)).context(plot.display())?;
    println!("saved {}", plot.display());
    Ok(())
}

fn live(lab: &Lab, samples: &mut Samples, tool: Tool, image: &Path) -> Outcome<()> {
    let vault = Repository::create(lab, tool, "aging", Unlock::KeyFile)?;
    let list = image.with_extension("extents");
    for day in 0..=lab.options.days {
        let mut extents = Vec::new();
        if day > 0 {
            let pages = (GIB << 30) / PAGE_BYTES / 100;
            extents = scatter(image, pages, 7000 + u64::from(day))?;
            write_extents(&extents, &list)?;
        }
        warm(image)?;
        let name = if tool == Tool::Ours {
            "vm".to_owned()
        } else {
            format!("day{day}")
        };
        let told = (day > 0).then_some(list.as_path());
        let (mut sample, said) = lab.protect(&vault, DAY, &name, image, told)?;
        let changed = total(&extents) as f64;
        let care = if day > 0 {
            care(lab, &vault, changed)?
        } else {
            Care::default()
        };
        let added = sample.facts.get("added_bytes").copied();
        let grown = sample.facts.get("grown_bytes").copied();
        let written = added.or(grown).unwrap_or_default() + care.written;
        sample.facts = BTreeMap::from([
            ("day", f64::from(day)),
            ("changed_bytes", changed),
            ("written_bytes", written),
            ("stored_bytes", vault.stored_bytes()?),
            ("objects", vault.objects()?),
            ("care_ms", care.cost.wall_s * 1000.0),
            ("care_mib", care.cost.peak_mib),
        ]);
        samples.add(sample);
        if day % RESTORE_EVERY == 0 || day == lab.options.days {
            let point = match tool {
                Tool::Ours => point_id(&said)?,
                _ => String::new(),
            };
            restore(lab, samples, (&vault, RESTORE), (&point, &name), image, day)?;
        }
    }
    if tool == Tool::Ours {
        space(lab, samples, &vault, image, &list)?;
    }
    vault.remove()
}

/// How much is left when everything but the newest point has expired, beside a fresh vault of it.
fn space(
    lab: &Lab,
    samples: &mut Samples,
    vault: &Repository,
    image: &Path,
    list: &Path,
) -> Outcome<()> {
    let mut cost = Cost::default();
    let mut run = |mut command: std::process::Command| -> Outcome<()> {
        cost.wall_s += lab.quiet_run(&mut command)?.0.wall_s;
        Ok(())
    };
    run(vault.ours(&["fold", "--all", "--worth", "101"]))?;
    // What was folded comes into a point with the next synchronization.
    write_extents(&[], list)?;
    run(vault.protect("vm", image, Some(list)))?;
    run(vault.ours(&["expire", "--all", "--keep-last", "1", "--min-age", "0s"]))?;
    run(vault.ours(&["collect", "--most-dead", "3"]))?;
    // What was moved leaves packs behind, which wait for the next run at most.
    run(vault.ours(&["collect", "--most-dead", "3"]))?;
    let fresh = Repository::create(lab, Tool::Ours, "aging-fresh", Unlock::KeyFile)?;
    let (_, said) = lab.protect(&fresh, "aging-fresh", "vm", image, None)?;
    // What the image itself takes that has changed for so long.
    let place = (&*point_id(&said)?, "vm");
    restore(
        lab,
        samples,
        (&fresh, FRESH),
        place,
        image,
        lab.options.days,
    )?;
    samples.add(Sample {
        row: SPACE.to_owned(),
        tool: Tool::Ours,
        cost,
        facts: BTreeMap::from([
            ("stored_bytes", vault.stored_bytes()?),
            ("fresh_bytes", fresh.stored_bytes()?),
        ]),
    });
    fresh.remove()
}

/// What looking after a repository cost.
#[derive(Default)]
struct Care {
    cost: Cost,
    written: f64,
}

fn care(lab: &Lab, vault: &Repository, changed: f64) -> Outcome<Care> {
    let mut care = Care::default();
    for mut command in vault.care(KEPT, changed) {
        let (cost, said) = lab.quiet_run(&mut command)?;
        care.cost.wall_s += cost.wall_s;
        care.cost.peak_mib = care.cost.peak_mib.max(cost.peak_mib);
        if vault.tool == Tool::Ours {
            let said: serde_json::Value = serde_json::from_str(&said).context("what was said")?;
            let reports = said.as_array().cloned().unwrap_or_else(|| vec![said]);
            let written = reports
                .iter()
                .filter_map(|report| report["written"].as_f64());
            care.written += written.sum::<f64>();
        }
    }
    Ok(care)
}

fn restore(
    lab: &Lab,
    samples: &mut Samples,
    (vault, row): (&Repository, &str),
    (point, name): (&str, &str),
    image: &Path,
    day: u32,
) -> Outcome<()> {
    for _ in 0..lab.options.rounds {
        let out = lab.folder("restored")?;
        let (mut command, file) = vault.restore(point, name, image, &out, false)?;
        let (cost, _) = lab.quiet_run(&mut command)?;
        let same = std::process::Command::new("cmp")
            .arg(&file)
            .arg(image)
            .status();
        if !same.context("cmp")?.success() {
            return Err(format!(
                "day {day} came back different from {}",
                vault.tool.name()
            ));
        }
        samples.add(Sample {
            row: row.to_owned(),
            tool: vault.tool,
            cost,
            facts: BTreeMap::from([("day", f64::from(day))]),
        });
        std::fs::remove_dir_all(&out).context(out.display())?;
    }
    Ok(())
}
