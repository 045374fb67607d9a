//! The same update on two hosts: what the second one adds to the vault after the first.

use crate::bench::lab::{Lab, warm};
use crate::bench::samples::Samples;
use crate::bench::tool::{Repository, Tool, Unlock};
use crate::corpus::churn::{update_for, updated};
use crate::problem::{Context, Outcome};

/// Protects two hosts with the same files laid out differently, then both after the same packages were unpacked.
pub fn measure(lab: &Lab, samples: &mut Samples) -> Outcome<()> {
    let scratch = lab.folder("scratch")?;
    let hosts = [&lab.images.day0, &lab.images.host2];
    let update = update_for(
        &hosts.map(std::path::PathBuf::as_path),
        &scratch,
        &lab.packages()?,
    )?;
    let changes = [
        updated(hosts[0], &scratch, &update)?,
        updated(hosts[1], &scratch, &update)?,
    ];
    for round in 0..lab.options.rounds {
        for tool in Tool::rotated(round) {
            let repository = Repository::create(lab, tool, "update", Unlock::Passphrase)?;
            for (name, image) in ["one", "two"].iter().zip(hosts) {
                warm(image)?;
                lab.protect(&repository, "", name, image, None)?;
            }
            for (number, change) in changes.iter().enumerate() {
                warm(&change.after)?;
                let (row, name) = [("update-first", "one"), ("update-second", "two")][number];
                let (mut sample, _) =
                    lab.protect(&repository, row, name, &change.after, Some(&change.extents))?;
                sample
                    .facts
                    .insert("changed_bytes", change.changed_bytes as f64);
                samples.add(sample);
            }
            repository.remove()?;
        }
    }
    std::fs::remove_dir_all(&scratch).context(scratch.display())
}
