//! Looking after a vault: how fast it is verified beside what its processors can decompress and hash, and how fast it is
//! rebuilt beside reading what a rebuild needs.

use crate::bench::lab::{Lab, chill, json_object, warm};
use crate::bench::measure::Cost;
use crate::bench::samples::{Sample, Samples};
use crate::bench::tool::{Repository, Tool, Unlock};
use crate::command;
use crate::problem::{Context, Outcome};
use crate::project;
use crate::stopwatch::Stopwatch;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// A pack's header, in bytes; see docs/format.md.
const PACK_HEADER: u64 = 48;

/// A frame's header, and the tag behind its payload.
const FRAME_HEADER: u64 = 12;
const FRAME_TAG: u64 = 16;

/// The footer of a pack: the length of its sealed table first.
const FOOTER: u64 = 16;

/// Verifies and rebuilds a vault of day0 and day1, and does by hand what bounds them.
pub fn measure(lab: &Lab, samples: &mut Samples) -> Outcome<()> {
    let decode = build_decode_speed()?;
    let vault = Repository::create(lab, Tool::Ours, "care", Unlock::KeyFile)?;
    for (image, extents) in [
        (&lab.images.day0, None),
        (&lab.images.day1, Some(&*lab.images.extents)),
    ] {
        lab.protect(&vault, "care-protect", "vm", image, extents)?;
    }
    let (_, said) = lab.quiet_run(&mut vault.ours(&["stats"]))?;
    let stats = json_object(&said)?;
    let plain = stats["plain_bytes"]
        .as_f64()
        .context("plain_bytes of stats")?;
    for _ in 0..lab.options.rounds {
        warm(&vault.folder)?;
        let (cost, _) = lab.quiet_run(&mut vault.ours(&["verify"]))?;
        samples.add(ours("verify", cost, [("plain_bytes", plain)]));
        let mib = (lab.options.gib << 10).to_string();
        let mut bare = Command::new(&decode);
        let (cost, said) = lab.quiet_run(bare.arg(&lab.images.day0).arg(mib))?;
        let speed = said.lines().last().and_then(|line| line.split(' ').nth(2));
        let speed: f64 = speed.and_then(|it| it.parse().ok()).context(said.clone())?;
        samples.add(ours("decode", cost, [("bytes_per_second", speed * 1e6)]));
        for cold in [false, true] {
            if cold && !lab.options.cold {
                continue;
            }
            let (reading, rebuild) = if cold {
                ("read-packs-cold", "rebuild-cold")
            } else {
                ("read-packs", "rebuild")
            };
            let ready = || if cold { chill() } else { warm(&vault.folder) };
            ready()?;
            let stopwatch = Stopwatch::start();
            let bytes = read_packs(&vault.folder.join("packs"))?;
            let cost = Cost {
                wall_s: stopwatch.read().as_secs_f64(),
                ..Cost::default()
            };
            samples.add(ours(reading, cost, [("read_bytes", bytes as f64)]));
            for entry in fs::read_dir(&vault.folder).context(vault.folder.display())? {
                let path = entry.context(vault.folder.display())?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name == "db" || name.starts_with("db-") {
                    fs::remove_dir_all(&path).context(path.display())?;
                }
            }
            ready()?;
            let (cost, _) = lab.quiet_run(&mut vault.ours(&["rebuild"]))?;
            samples.add(ours(rebuild, cost, []));
        }
    }
    vault.remove()
}

fn ours<const N: usize>(row: &str, cost: Cost, facts: [(&'static str, f64); N]) -> Sample {
    Sample {
        row: row.to_owned(),
        tool: Tool::Ours,
        cost,
        facts: BTreeMap::from(facts),
    }
}

fn build_decode_speed() -> Outcome<std::path::PathBuf> {
    let mut build = Command::new(project::cargo());
    build.current_dir(project::root()?);
    let words = [
        "build",
        "--release",
        "--package",
        "backstop-store",
        "--example",
        "decode_speed",
    ];
    command::run(build.args(words))?;
    Ok(project::target()?.join("release/examples/decode_speed"))
}

/// Reads packs of maps whole, and of the others the header of each frame. How many bytes that were.
fn read_packs(packs: &Path) -> Outcome<u64> {
    let mut read = 0;
    for entry in fs::read_dir(packs).context(packs.display())? {
        let path = entry.context(packs.display())?.path();
        if path.extension().is_some_and(|kind| kind == "map") {
            read += fs::read(&path).context(path.display())?.len() as u64;
            continue;
        }
        let file = File::open(&path).context(path.display())?;
        let length = file.metadata().context(path.display())?.len();
        let number = |at: u64| {
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, at).context(path.display())?;
            Outcome::Ok(u64::from(u32::from_le_bytes(bytes)))
        };
        let table = number(length.saturating_sub(FOOTER))?;
        let end = length.saturating_sub(FOOTER + table);
        let mut at = PACK_HEADER;
        while at < end {
            at += FRAME_HEADER + number(at)? + FRAME_TAG;
            read += FRAME_HEADER;
        }
    }
    Ok(read)
}
