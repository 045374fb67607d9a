//! A large index: the same image in a vault of many other chunks and in a vault of its own.

use crate::bench::lab::{Lab, point_id, warm};
use crate::bench::samples::{Sample, Samples};
use crate::bench::tool::{Repository, Tool, Unlock};
use crate::command;
use crate::corpus::compare::identical;
use crate::corpus::images::copy;
use crate::corpus::mount::free_bytes;
use crate::corpus::pages::{scatter, total, write_extents};
use crate::problem::{Context, Outcome};
use crate::project;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How many pages change for an express full.
const PAGES: u64 = 100;

/// What a chunk takes at most: in packs, in maps, and in the index while it is compacted.
const BYTES_PER_CHUNK: u64 = 700;

/// The vaults by the beginnings of their rows' names.
const VAULTS: [&str; 2] = ["large", "small"];

/// Fills one vault, protects the image in both, and then measures both in turn.
pub fn measure(lab: &Lab, samples: &mut Samples) -> Outcome<()> {
    let needed = lab.options.large_chunks * BYTES_PER_CHUNK;
    let free = free_bytes(&lab.root)?;
    if free < needed {
        return Err(format!(
            "about {} GB more must be free, {} are",
            needed / 1_000_000_000,
            free / 1_000_000_000
        ));
    }
    let mut vaults = Vec::new();
    for name in VAULTS {
        let mut vault =
            Repository::create(lab, Tool::Ours, &format!("{name}-index"), Unlock::KeyFile)?;
        if name == "large" {
            samples.add(fill(lab, &vault)?);
            vault = vault.with_large_budget();
        }
        vaults.push((name, vault));
    }
    let scratch = lab.folder("scratch")?;
    let changing = scratch.join("disk.img");
    copy(&lab.images.day0, &changing)?;
    for (name, vault) in &vaults {
        warm(&changing)?;
        let row = format!("{name}-initial");
        samples.add(lab.protect(vault, &row, "vm", &changing, None)?.0);
    }
    for round in 0..lab.options.rounds {
        // Each begins in turn, so that neither always runs in the other's wake.
        vaults.rotate_left(1);
        for (name, vault) in &vaults {
            known(lab, samples, (name, vault), round)?;
            listing(lab, samples, (name, vault))?;
        }
        let extents = scatter(&changing, PAGES, 2000 + u64::from(round))?;
        let list = scratch.join("extents");
        write_extents(&extents, &list)?;
        for (name, vault) in &vaults {
            warm(&changing)?;
            let row = format!("{name}-scattered");
            let (mut sample, _) = lab.protect(vault, &row, "vm", &changing, Some(&list))?;
            sample.facts.insert("changed_bytes", total(&extents) as f64);
            samples.add(sample);
        }
    }
    for (_, vault) in vaults {
        vault.remove()?;
    }
    std::fs::remove_dir_all(&scratch).context(scratch.display())
}

/// Writes the other chunks, by the example program that does it as a server does.
fn fill(lab: &Lab, vault: &Repository) -> Outcome<Sample> {
    let chunks = lab.options.large_chunks;
    let mut command = Command::new(generator(lab)?);
    command
        .arg("--vault")
        .arg(&vault.folder)
        .arg("--key-file")
        .arg(&lab.key)
        .args(["--chunks", &chunks.to_string()]);
    let (cost, _) = lab.quiet_run(&mut command)?;
    Ok(Sample {
        row: "large-fill".to_owned(),
        tool: Tool::Ours,
        cost,
        facts: BTreeMap::from([
            ("chunks", chunks as f64),
            ("stored_bytes", vault.stored_bytes()?),
        ]),
    })
}

/// The program that fills vaults: beside the command line that is measured, or built.
fn generator(lab: &Lab) -> Outcome<PathBuf> {
    let beside = lab.cli.with_file_name("large_vault");
    if lab.options.cli.is_some() && beside.is_file() {
        return Ok(beside);
    }
    let mut build = Command::new(project::cargo());
    build.current_dir(project::root()?);
    command::run(build.args(["build", "--release", "--example", "large_vault"]))?;
    Ok(project::target()?.join("release/examples/large_vault"))
}

/// Protects what is there already as another source, and brings that back.
fn known(
    lab: &Lab,
    samples: &mut Samples,
    (name, vault): (&str, &Repository),
    round: u32,
) -> Outcome<()> {
    let image: &Path = &lab.images.day0;
    warm(image)?;
    let source = format!("again-{round}");
    let (sample, object) = lab.protect(vault, &format!("{name}-known"), &source, image, None)?;
    samples.add(sample);
    let out = lab.folder("out")?;
    warm(&vault.folder)?;
    let (mut command, file) = vault.restore(&point_id(&object)?, &source, image, &out, true)?;
    let (cost, _) = lab.quiet_run(&mut command)?;
    if !identical(image, &file)? {
        return Err(format!(
            "the {name} vault did not give the image back as it was"
        ));
    }
    samples.add(bare(format!("{name}-restore"), cost));
    std::fs::remove_dir_all(&out).context(out.display())
}

/// Lists a source's points: what opening the vault takes.
fn listing(lab: &Lab, samples: &mut Samples, (name, vault): (&str, &Repository)) -> Outcome<()> {
    let (cost, _) = lab.quiet_run(&mut vault.ours(&["points", "vm"]))?;
    samples.add(bare(format!("{name}-points"), cost));
    Ok(())
}

fn bare(row: String, cost: crate::bench::measure::Cost) -> Sample {
    Sample {
        row,
        tool: Tool::Ours,
        cost,
        facts: BTreeMap::new(),
    }
}
