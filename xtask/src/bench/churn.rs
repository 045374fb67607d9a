//! The day after on an image that real programs changed: packages, a database, logs.

use crate::bench::lab::{Lab, warm};
use crate::bench::samples::Samples;
use crate::bench::tool::{Repository, Tool, Unlock};
use crate::corpus::churn::real_churn;
use crate::problem::{Context, Outcome};

/// Protects the image before and after, by all three tools.
pub fn measure(lab: &Lab, samples: &mut Samples) -> Outcome<()> {
    let scratch = lab.folder("scratch")?;
    let change = real_churn(&lab.images.day0, &scratch, &lab.packages()?)?;
    for round in 0..lab.options.rounds {
        for tool in Tool::rotated(round) {
            let repository = Repository::create(lab, tool, "churn", Unlock::Passphrase)?;
            warm(&change.before)?;
            let (sample, _) =
                lab.protect(&repository, "churn-initial", "vm", &change.before, None)?;
            samples.add(sample);
            warm(&change.after)?;
            let (mut sample, _) = lab.protect(
                &repository,
                "churn",
                "vm",
                &change.after,
                Some(&change.extents),
            )?;
            sample
                .facts
                .insert("changed_bytes", change.changed_bytes as f64);
            samples.add(sample);
            repository.remove()?;
        }
    }
    std::fs::remove_dir_all(&scratch).context(scratch.display())
}
