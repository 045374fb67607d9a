//! Images changed as real programs change them: under a mount, by unpacking packages, a database and growing logs.

use crate::command;
use crate::corpus::compare::changed;
use crate::corpus::images::copy;
use crate::corpus::mount::{Mounted, free_bytes};
use crate::corpus::packages;
use crate::corpus::pages::{total, write_extents};
use crate::install;
use crate::problem::{Context, Outcome};
use crate::random::Random;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const DATABASE: &str = include_str!("churn.py");

/// An image before and after, and where the two differ.
#[derive(Debug, Clone)]
pub struct Change {
    /// The image before
    pub before: PathBuf,
    /// The image after
    pub after: PathBuf,
    /// The list of what differs
    pub extents: PathBuf,
    /// How many bytes that is
    pub changed_bytes: u64,
}

/// Copies `base` twice in `folder`: one with a database and logs in it, the other after these and more were at work.
pub fn real_churn(base: &Path, folder: &Path, debs: &[PathBuf]) -> Outcome<Change> {
    let before = folder.join("churn0.img");
    copy(base, &before)?;
    let mounted = Mounted::mount(&before, &folder.join("mounted"))?;
    let place = folder.join("mounted");
    let room = free_bytes(&place)?;
    // A row with its index entry takes about 200 bytes: a quarter of the room, at most 200 MB.
    let rows = (room / 4).min(200_000_000) / 200;
    database("make", &place, rows)?;
    append_logs(&place, room / 50, 1)?;
    mounted.unmount()?;

    let after = folder.join("churn1.img");
    copy(&before, &after)?;
    let mounted = Mounted::mount(&after, &place)?;
    let fit = packages::fitting(debs, (free_bytes(&place)? / 4).min(60_000_000))?;
    packages::unpack(&fit, &place.join("opt/unpacked"))?;
    database("change", &place, rows / 100)?;
    append_logs(&place, room / 100, 2)?;
    mounted.unmount()?;
    compared(before, after, folder.join("churn.extents"))
}

/// The packages for one update that fits into all of the images; about 200 MB.
pub fn update_for(images: &[&Path], folder: &Path, debs: &[PathBuf]) -> Outcome<Vec<PathBuf>> {
    let place = folder.join("mounted");
    let mut limit = 200 << 20;
    for image in images {
        let mounted = Mounted::look(image, &place)?;
        limit = limit.min(free_bytes(&place)? / 10 * 7);
        mounted.unmount()?;
    }
    let fit = packages::fitting(debs, limit)?;
    if fit.is_empty() {
        return Err(format!(
            "no package is smaller than the {limit} bytes that are free"
        ));
    }
    println!("the update unpacks {} packages", fit.len());
    Ok(fit)
}

/// Copies `image` and unpacks packages in the copy, as an update of that host would.
pub fn updated(image: &Path, folder: &Path, debs: &[PathBuf]) -> Outcome<Change> {
    let name = image.file_stem().unwrap_or_default().to_string_lossy();
    let after = folder.join(format!("{name}-updated.img"));
    copy(image, &after)?;
    let place = folder.join("mounted");
    let mounted = Mounted::mount(&after, &place)?;
    packages::unpack(debs, &place.join("opt/update"))?;
    mounted.unmount()?;
    compared(
        image.to_path_buf(),
        after,
        folder.join(format!("{name}-updated.extents")),
    )
}

fn compared(before: PathBuf, after: PathBuf, list: PathBuf) -> Outcome<Change> {
    let extents = changed(&before, &after)?;
    write_extents(&extents, &list)?;
    Ok(Change {
        before,
        after,
        extents: list,
        changed_bytes: total(&extents),
    })
}

fn database(action: &str, place: &Path, count: u64) -> Outcome<()> {
    let python = install::debian("python3", &["python3"])?;
    let folder = place.join("srv");
    std::fs::create_dir_all(&folder).context(folder.display())?;
    command::run_quietly(
        Command::new(python)
            .args(["-c", DATABASE, action])
            .arg(folder.join("orders.sqlite"))
            .arg(count.to_string()),
    )
}

/// Appends lines to a few logs until `bytes` were written.
fn append_logs(place: &Path, bytes: u64, seed: u64) -> Outcome<()> {
    let folder = place.join("var/log/shop");
    std::fs::create_dir_all(&folder).context(folder.display())?;
    let mut random = Random::new(seed);
    for name in ["access.log", "orders.log", "errors.log"] {
        let path = folder.join(name);
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .context(path.display())?;
        let mut written = 0;
        while written < bytes / 3 {
            let line = format!(
                "host-{:02} request={:016x} status={} took={} ms\n",
                random.below(40),
                random.next_u64(),
                [200, 200, 200, 304, 404, 500][usize::try_from(random.below(6)).unwrap_or(0)],
                random.below(900),
            );
            file.write_all(line.as_bytes()).context(path.display())?;
            written += line.len() as u64;
        }
    }
    Ok(())
}
