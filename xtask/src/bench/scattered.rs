//! A hundred scattered pages: on the image, and on a sparse image of 1 TiB that holds the same data.

use crate::bench::lab::Lab;
use crate::bench::samples::Samples;
use crate::bench::tool::{Repository, Tool, Unlock};
use crate::corpus::images::copy;
use crate::corpus::pages::{scatter, total, write_extents};
use crate::problem::{Context, Outcome};
use std::fs::OpenOptions;

/// How many pages change each time.
const PAGES: u64 = 100;

/// Express fulls a round: they are short, so take more of them.
const REPEATS: u32 = 5;

/// Both images in turn; the vault is opened by a key file, so that deriving a key is not counted.
pub fn measure(lab: &Lab, samples: &mut Samples) -> Outcome<()> {
    for (row, length) in [("scattered", None), ("scattered-1tib", Some(1_u64 << 40))] {
        let scratch = lab.folder("scratch")?;
        let image = scratch.join("disk.img");
        copy(&lab.images.day0, &image)?;
        if let Some(length) = length {
            let file = OpenOptions::new()
                .write(true)
                .open(&image)
                .context(image.display())?;
            file.set_len(length)
                .context("can't make an image of 1 TiB")?;
        }
        let vault = Repository::create(lab, Tool::Ours, row, Unlock::KeyFile)?;
        let (sample, _) = lab.protect(&vault, &format!("{row}-initial"), "vm", &image, None)?;
        samples.add(sample);
        let list = scratch.join("extents");
        for repeat in 0..lab.options.rounds * REPEATS {
            let extents = scatter(&image, PAGES, 1000 + u64::from(repeat))?;
            write_extents(&extents, &list)?;
            let (mut sample, _) = lab.protect(&vault, row, "vm", &image, Some(&list))?;
            sample.facts.insert("changed_bytes", total(&extents) as f64);
            samples.add(sample);
        }
        vault.remove()?;
        std::fs::remove_dir_all(&scratch).context(scratch.display())?;
    }
    Ok(())
}
