//! How our costs grow: with the size of the image, and with the size of the change.

use crate::bench::lab::{Lab, allocated_bytes, from, warm};
use crate::bench::samples::Samples;
use crate::bench::tool::{Repository, Tool, Unlock};
use crate::corpus::images::make_one;
use crate::corpus::mount::free_bytes;
use crate::corpus::pages::{PAGE_BYTES, scatter, total, write_extents};
use crate::problem::{Context, Outcome};
use std::path::Path;

/// The images, in GiB.
pub const SIZES_GIB: [u64; 4] = [1, 2, 4, 8];

/// The image that is changed, in GiB.
const CHANGED_GIB: u64 = 4;

/// The changes, in thousandths of the image.
pub const CHANGES_PERMILLE: [u64; 5] = [1, 5, 10, 20, 50];

/// All sizes, then all changes.
pub fn measure(lab: &Lab, samples: &mut Samples) -> Outcome<()> {
    let scratch = lab.folder("scratch")?;
    let image = scratch.join("disk.img");
    for gib in SIZES_GIB {
        if free_bytes(&scratch)? < (gib << 30) * 3 {
            println!("note: no room for an image of {gib} GiB");
            continue;
        }
        make_one(&image, gib, &from(&lab.options))?;
        sizes(lab, samples, &image, gib)?;
        if gib == CHANGED_GIB {
            changes(lab, samples, &image)?;
        }
        std::fs::remove_file(&image).context(image.display())?;
    }
    std::fs::remove_dir_all(&scratch).context(scratch.display())
}

fn sizes(lab: &Lab, samples: &mut Samples, image: &Path, gib: u64) -> Outcome<()> {
    for _ in 0..lab.options.rounds {
        let vault = Repository::create(lab, Tool::Ours, "growth", Unlock::KeyFile)?;
        warm(image)?;
        let (mut sample, _) =
            lab.protect(&vault, &format!("growth-{gib}gib"), "vm", image, None)?;
        sample.facts.insert("data_bytes", allocated_bytes(image)?);
        samples.add(sample);
        vault.remove()?;
    }
    Ok(())
}

fn changes(lab: &Lab, samples: &mut Samples, image: &Path) -> Outcome<()> {
    let vault = Repository::create(lab, Tool::Ours, "growth", Unlock::KeyFile)?;
    lab.protect(&vault, "", "vm", image, None)?;
    let list = image.with_extension("extents");
    for round in 0..lab.options.rounds {
        for permille in CHANGES_PERMILLE {
            let count = (CHANGED_GIB << 30) / PAGE_BYTES * permille / 1000;
            let extents = scatter(image, count, u64::from(round) * 100 + permille)?;
            write_extents(&extents, &list)?;
            let row = format!("change-{permille}permille");
            let (mut sample, _) = lab.protect(&vault, &row, "vm", image, Some(&list))?;
            sample.facts.insert("changed_bytes", total(&extents) as f64);
            samples.add(sample);
        }
    }
    vault.remove()
}
