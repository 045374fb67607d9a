//! What opening a vault costs: by a raw key, and by a passphrase, whose derivation is slow on purpose.

use crate::bench::lab::Lab;
use crate::bench::samples::{Sample, Samples};
use crate::bench::tool::{Repository, Tool, Unlock};
use crate::problem::Outcome;
use std::collections::BTreeMap;

/// Lists the sources of an empty vault, once by key and once by passphrase in each round.
pub fn measure(lab: &Lab, samples: &mut Samples) -> Outcome<()> {
    let by_key = Repository::create(lab, Tool::Ours, "unlock-key", Unlock::KeyFile)?;
    let by_passphrase =
        Repository::create(lab, Tool::Ours, "unlock-passphrase", Unlock::Passphrase)?;
    for _ in 0..lab.options.rounds * 3 {
        for (row, vault) in [
            ("unlock-key", &by_key),
            ("unlock-passphrase", &by_passphrase),
        ] {
            let (cost, _) = lab.quiet_run(&mut vault.ours(&["sources"]))?;
            samples.add(Sample {
                row: row.to_owned(),
                tool: Tool::Ours,
                cost,
                facts: BTreeMap::new(),
            });
        }
    }
    by_key.remove()?;
    by_passphrase.remove()
}
