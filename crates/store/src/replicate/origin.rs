//! Where a copied point came from: in its provenance, the vaults that it was
//! copied from, the first one first, each with the sequence that it had there.
//!
//! A vault may have let a point go that another one still has as its newest. What
//! comes after that point is found by the sequence that it had.

use backstop_core::Provenance;

/// The key in a point's provenance; its value is `VAULT:SEQUENCE` for each,
/// divided by commas.
const ORIGIN: &str = "backstop.replicated-from";

/// How many are kept: the latest.
const KEPT: usize = 16;

/// Notes that a point is copied from a vault.
pub(super) fn add(provenance: &mut Provenance, vault: &str, sequence: u64) {
    let before = provenance.get(ORIGIN).map_or("", String::as_str);
    let here = format!("{vault}:{sequence}");
    let all = before.split(',').filter(|one| !one.is_empty());
    let mut all: Vec<&str> = all.chain([&*here]).collect();
    all.drain(..all.len().saturating_sub(KEPT));
    let all = all.join(",");
    provenance.insert(ORIGIN.to_owned(), all);
}

/// The sequence that a point had in a vault, if it was copied from there.
pub(super) fn sequence_in(provenance: &Provenance, vault: &str) -> Option<u64> {
    let all = provenance.get(ORIGIN)?.rsplit(',');
    let mut known = all.filter_map(|one| one.split_once(':'));
    let (_, sequence) = known.find(|(id, _)| *id == vault)?;
    sequence.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vault_on_the_way_is_known() {
        let mut provenance = Provenance::new();
        assert_eq!(sequence_in(&provenance, "a"), None);
        add(&mut provenance, "a", 7);
        add(&mut provenance, "b", 3);
        assert_eq!(sequence_in(&provenance, "a"), Some(7));
        assert_eq!(sequence_in(&provenance, "b"), Some(3));
        assert_eq!(sequence_in(&provenance, "c"), None);
        // Back and forth: what it had last.
        add(&mut provenance, "a", 12);
        assert_eq!(sequence_in(&provenance, "a"), Some(12));
        for sequence in 0..40 {
            add(&mut provenance, "d", sequence);
        }
        assert_eq!(sequence_in(&provenance, "d"), Some(39));
        assert_eq!(sequence_in(&provenance, "a"), None);
    }

    #[test]
    fn what_is_no_list_tells_nothing() {
        for text in ["", ",", "a", "a:", "a:x", ":", "a:-1"] {
            let provenance = Provenance::from([(ORIGIN.to_owned(), text.to_owned())]);
            assert_eq!(sequence_in(&provenance, "a"), None, "{text:?}");
        }
    }
}
