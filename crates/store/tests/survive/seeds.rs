//! Seeds: where random choices come from, and how a failing one is replayed.

/// Prints its seed if the test panics while it lives.
pub(crate) struct Seeded {
    seed: u64,
}

impl Drop for Seeded {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this failed with BACKSTOP_SEED={}", self.seed);
        }
    }
}

/// Keeps a seed until the end of the scope, to be printed if that panics.
pub(crate) fn watch(seed: u64) -> Seeded {
    Seeded { seed }
}

/// The seeds to run: the one that `BACKSTOP_SEED` names, or `count` of them from
/// `BACKSTOP_FIRST_SEED` on, so that a soak can go on where another ended.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is a number")),
        )
    };
    match number("BACKSTOP_SEED") {
        Some(seed) => vec![seed],
        None => (number("BACKSTOP_FIRST_SEED").unwrap_or(1)..)
            .take(usize::try_from(count).unwrap())
            .collect(),
    }
}

/// Whether a longer run was asked for.
pub(crate) fn soaking() -> bool {
    std::env::var_os("BACKSTOP_SOAK").is_some_and(|value| value == "1")
}

/// How many rounds a soak test makes: `short` unless a longer run was asked
/// for.
pub(crate) fn rounds(short: u64, long: u64) -> u64 {
    if soaking() { long } else { short }
}
