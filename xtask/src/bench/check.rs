//! The consistency check of a changed image that nobody tracked.

use crate::bench::lab::{Lab, warm};
use crate::bench::samples::{Sample, Samples};
use crate::bench::tool::{Repository, Tool, Unlock};
use crate::corpus::pages::{read_extents, total};
use crate::problem::Outcome;
use std::collections::BTreeMap;

/// Each round protects day0 in a vault of its own and then checks it against day1.
pub fn measure(lab: &Lab, samples: &mut Samples) -> Outcome<()> {
    let changed = total(&read_extents(&lab.images.extents)?) as f64;
    for _ in 0..lab.options.rounds {
        let vault = Repository::create(lab, Tool::Ours, "check", Unlock::Passphrase)?;
        warm(&lab.images.day0)?;
        let (sample, _) = lab.protect(&vault, "check-initial", "vm", &lab.images.day0, None)?;
        samples.add(sample);
        warm(&lab.images.day1)?;
        let before = vault.stored_bytes()?;
        let mut command = vault.ours(&["check", "vm", "--image"]);
        let (cost, said) = lab.quiet_run(command.arg(&lab.images.day1))?;
        let mut facts = BTreeMap::from([
            ("changed_bytes", changed),
            ("grown_bytes", vault.stored_bytes()? - before),
        ]);
        let object = crate::bench::lab::json_object(&said)?;
        if let Some(sent) = object["bytes_sent"].as_f64() {
            facts.insert("sent_bytes", sent);
        }
        samples.add(Sample {
            row: "check".to_owned(),
            tool: Tool::Ours,
            cost,
            facts,
        });
        vault.remove()?;
    }
    Ok(())
}
