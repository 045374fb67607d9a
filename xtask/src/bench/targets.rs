//! What was promised, held beside what was measured.

use crate::bench::care_targets;
use crate::bench::growth::{CHANGES_PERMILLE, SIZES_GIB};
use crate::bench::machine::cores;
use crate::bench::samples::{Samples, bend, line};
use crate::bench::tool::Tool::{self, Borg, Ours, Restic};

/// One promise and its figure.
#[derive(Debug, Clone)]
pub struct Claim {
    /// What is measured
    pub what: String,
    /// The bound
    pub limit: f64,
    /// Whether the figure must not be below the bound (else: not above)
    pub at_least: bool,
    /// Our figure; none if it was not measured
    pub figure: Option<f64>,
    /// What both are in: `x` for a ratio, `ms`, `MiB`
    pub unit: &'static str,
    /// The figures behind a ratio
    pub detail: String,
}

impl Claim {
    /// Whether the bound was kept; none if it was not measured.
    pub fn reached(&self) -> Option<bool> {
        self.figure.map(|figure| {
            if self.at_least {
                figure >= self.limit
            } else {
                figure <= self.limit
            }
        })
    }
}

/// All promises, in the order of the table that they come from.
pub fn claims(samples: &Samples) -> Vec<Claim> {
    let s = samples;
    let mut claims = Vec::new();
    claims.extend(initial(s));
    claims.extend([
        total_of_three(s, Restic, 0.60),
        total_of_three(s, Borg, 0.52),
        walls(
            s,
            "express full of day1, wall beside restic",
            "express",
            Restic,
            1.0 / 60.0,
        ),
        per_changed(
            s,
            "express full of day1, added per changed byte",
            "express",
            "grown_bytes",
            0.60,
        ),
        cold_express(s),
    ]);
    claims.extend(scattered(s, "scattered", "4 KiB x 100", 1.5));
    claims.extend(scattered(s, "scattered-1tib", "4 KiB x 100 on 1 TiB", 2.5));
    claims.push(update(s));
    claims.extend([
        check(s),
        per_changed(
            s,
            "consistency check, sent per changed byte",
            "check",
            "sent_bytes",
            1.0,
        ),
    ]);
    for (row, how) in [
        ("restore", "with fsync"),
        ("restore-nosync", "without fsync"),
    ] {
        for peer in [Restic, Borg] {
            let what = format!("restore of day1 {how}, wall beside {}", peer.name());
            claims.push(walls(s, &what, row, peer, 0.40));
        }
    }
    claims.push(holes(s));
    claims.push(peak(s));
    claims.extend(large_index(s));
    claims.extend(growth(s));
    claims.extend(care_targets::claims(s));
    claims.push(busy(s));
    claims
}

fn claim(what: &str, limit: f64, unit: &'static str, figure: Option<f64>, detail: String) -> Claim {
    Claim {
        what: what.to_owned(),
        limit,
        at_least: false,
        figure,
        unit,
        detail,
    }
}

/// A ratio of two measured figures, told with both.
pub fn ratio(
    what: &str,
    limit: f64,
    ours: Option<f64>,
    other: Option<f64>,
    unit: &str,
    scale: f64,
) -> Claim {
    let (Some(ours), Some(other)) = (ours, other) else {
        return claim(what, limit, "x", None, String::new());
    };
    let digits = if scale < 1.0 { 1 } else { 3 };
    let detail = format!(
        "{:.digits$} {unit} beside {:.digits$} {unit}",
        ours * scale,
        other * scale
    );
    claim(what, limit, "x", Some(ours / other), detail)
}

fn walls(s: &Samples, what: &str, row: &str, peer: Tool, limit: f64) -> Claim {
    ratio(what, limit, s.wall(row, Ours), s.wall(row, peer), "s", 1.0)
}

fn initial(s: &Samples) -> [Claim; 3] {
    let stored = |tool| s.fact("initial", tool, "stored_bytes");
    let what = "initial protection of day0, vault beside restic's";
    [
        walls(
            s,
            "initial protection of day0, wall beside restic",
            "initial",
            Restic,
            0.30,
        ),
        walls(
            s,
            "initial protection of day0, wall beside borg",
            "initial",
            Borg,
            0.45,
        ),
        ratio(what, 1.05, stored(Ours), stored(Restic), "MB", 1e-6),
    ]
}

fn total_of_three(s: &Samples, peer: Tool, limit: f64) -> Claim {
    let stored = |tool| s.fact("host2", tool, "stored_bytes");
    let what = format!(
        "day0, day1 and host2 in one vault, beside {}'s",
        peer.name()
    );
    ratio(&what, limit, stored(Ours), stored(peer), "MB", 1e-6)
}

fn per_changed(s: &Samples, what: &str, row: &str, fact: &str, limit: f64) -> Claim {
    let changed = s.fact(row, Ours, "changed_bytes");
    ratio(what, limit, s.fact(row, Ours, fact), changed, "MB", 1e-6)
}

/// Promised for 20 MB of scattered pages; other amounts in proportion.
fn cold_express(s: &Samples) -> Claim {
    let changed = s
        .fact("express-cold", Ours, "changed_bytes")
        .unwrap_or(20e6);
    let wall = s.wall("express-cold", Ours);
    let detail = format!("for {:.0} MB of scattered pages", changed / 1e6);
    claim(
        "express full of day1, cold, wall",
        350.0 * changed / 20e6,
        "ms",
        wall.map(|s| s * 1e3),
        detail,
    )
}

fn scattered(s: &Samples, row: &str, name: &str, added: f64) -> [Claim; 3] {
    let wall = s.wall(row, Ours).map(|wall| wall * 1e3);
    let read = s.median(row, Ours, |sample| {
        let sampled = sample.facts.get("sampled_bytes").copied().unwrap_or(0.0);
        Some(sample.facts.get("read_bytes")? - sampled)
    });
    let changed = s.fact(row, Ours, "changed_bytes");
    let unlocking = s
        .wall("unlock-passphrase", Ours)
        .zip(s.wall("unlock-key", Ours))
        .map_or_else(String::new, |(passphrase, key)| {
            format!(
                "by key file; a passphrase takes {:.0} ms more",
                (passphrase - key) * 1e3
            )
        });
    [
        claim(
            &format!("{name}, start to exit"),
            60.0,
            "ms",
            wall,
            unlocking,
        ),
        ratio(
            &format!("{name}, read per changed byte"),
            1.1,
            read,
            changed,
            "KB",
            1e-3,
        ),
        ratio(
            &format!("{name}, added per changed byte"),
            added,
            s.fact(row, Ours, "grown_bytes"),
            changed,
            "KB",
            1e-3,
        ),
    ]
}

fn update(s: &Samples) -> Claim {
    let grown = |row| s.fact(row, Ours, "grown_bytes");
    let what = "the same update on two hosts, second beside first";
    ratio(
        what,
        0.4,
        grown("update-second"),
        grown("update-first"),
        "MB",
        1e-6,
    )
}

fn check(s: &Samples) -> Claim {
    let initial = s.wall("check-initial", Ours);
    let what = "consistency check of day1, wall beside initial protection";
    ratio(what, 0.5, s.wall("check", Ours), initial, "s", 1.0)
}

fn holes(s: &Samples) -> Claim {
    let share = s
        .fact("restore", Ours, "allocated_percent")
        .map(|percent| percent / 100.0);
    claim(
        "restore of day1, allocated beside the original",
        1.05,
        "x",
        share,
        "holes stay holes".to_owned(),
    )
}

fn peak(s: &Samples) -> Claim {
    let figure = s.peak(Ours, |row| !is_large(row));
    let peers: Vec<String> = [Restic, Borg]
        .into_iter()
        .filter_map(|tool| {
            s.peak(tool, |_| true)
                .map(|(peak, _)| format!("{} {peak:.0} MiB", tool.name()))
        })
        .collect();
    let row = figure.map_or("", |(_, row)| row);
    let detail = format!("in {row}; {}", peers.join(", "));
    claim(
        "peak memory in all of these",
        96.0,
        "MiB",
        figure.map(|(peak, _)| peak),
        detail,
    )
}

/// Whether a row is of a vault that was opened with the memory for many chunks.
fn is_large(row: &str) -> bool {
    row.starts_with("large-")
}

fn large_index(s: &Samples) -> [Claim; 3] {
    let beside = |what: &str, row: &str| {
        let wall = |vault| s.wall(&format!("{vault}-{row}"), Ours);
        ratio(what, 1.3, wall("large"), wall("small"), "s", 1.0)
    };
    let peak = s.peak(Ours, is_large);
    [
        claim(
            "peak memory with a large index",
            256.0,
            "MiB",
            peak.map(|(peak, _)| peak),
            peak.map_or_else(String::new, |(_, row)| format!("in {row}")),
        ),
        beside(
            "initial protection of known data, wall in a large vault beside a small one",
            "known",
        ),
        beside(
            "restore, wall in a large vault beside a small one",
            "restore",
        ),
    ]
}

/// Flat means here: the dearest size costs at most a quarter more for each GiB than the cheapest.
fn growth(s: &Samples) -> [Claim; 4] {
    let rows: Vec<String> = SIZES_GIB
        .iter()
        .map(|gib| format!("growth-{gib}gib"))
        .collect();
    let rates: Vec<f64> = rows
        .iter()
        .filter_map(|row| {
            let gib = s.fact(row, Ours, "data_bytes")? / f64::from(1 << 30);
            Some(s.wall(row, Ours)? / gib)
        })
        .collect();
    let peaks: Vec<f64> = rows
        .iter()
        .filter_map(|row| s.median(row, Ours, |sample| Some(sample.cost.peak_mib)))
        .collect();
    let points: Vec<(f64, f64)> = CHANGES_PERMILLE
        .iter()
        .filter_map(|permille| {
            let row = format!("change-{permille}permille");
            Some((
                s.fact(&row, Ours, "changed_bytes")? / 1e6,
                s.wall(&row, Ours)? * 1e3,
            ))
        })
        .collect();
    let fit = line(&points);
    let slope = fit.map_or_else(String::new, |(_, slope)| {
        format!("{slope:.2} ms for each MB changed")
    });
    [
        spread(
            "time per GiB of data, 1 to 8 GiB, dearest beside cheapest",
            &rates,
            "s",
        ),
        spread("memory, 1 to 8 GiB, largest beside smallest", &peaks, "MiB"),
        claim(
            "express full of no change, by a straight line",
            100.0,
            "ms",
            fit.map(|(zero, _)| zero),
            slope,
        ),
        claim(
            "express full by size of change, furthest from that line",
            0.1,
            "x",
            bend(&points),
            "beside the largest time".to_owned(),
        ),
    ]
}

fn spread(what: &str, values: &[f64], unit: &str) -> Claim {
    let largest = values.iter().copied().reduce(f64::max);
    let smallest = values.iter().copied().reduce(f64::min);
    ratio(what, 1.25, largest, smallest, unit, 1.0)
}

fn busy(s: &Samples) -> Claim {
    let share = s.median("initial", Ours, |sample| {
        Some(sample.cost.cpu_s() / sample.cost.wall_s / cores() as f64)
    });
    let mut claim = claim(
        "processors busy during initial protection",
        0.85,
        "x",
        share,
        String::new(),
    );
    claim.at_least = true;
    claim
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Cost;
    use crate::bench::samples::Sample;

    fn sample(row: &str, tool: Tool, wall_s: f64, facts: &[(&'static str, f64)]) -> Sample {
        Sample {
            row: row.to_owned(),
            tool,
            cost: Cost {
                wall_s,
                user_s: wall_s,
                system_s: 0.0,
                peak_mib: 50.0,
            },
            facts: facts.iter().copied().collect(),
        }
    }

    #[test]
    fn claims_are_reached_missed_or_not_measured() {
        let mut samples = Samples::default();
        samples.add(sample("initial", Ours, 3.0, &[("stored_bytes", 110.0)]));
        samples.add(sample("initial", Restic, 12.0, &[("stored_bytes", 100.0)]));
        let claims = claims(&samples);
        let reached: Vec<Option<bool>> = claims.iter().take(3).map(Claim::reached).collect();
        assert_eq!(reached, [Some(true), None, Some(false)]);
        assert!(claims.last().unwrap().at_least);
        let peak = claims
            .iter()
            .find(|claim| claim.what.starts_with("peak"))
            .unwrap();
        assert_eq!(peak.reached(), Some(true));
    }

    #[test]
    fn an_express_full_that_curves_misses_its_promise() {
        let reached = |wall_s: fn(f64) -> f64| {
            let mut samples = Samples::default();
            for permille in CHANGES_PERMILLE {
                let row = format!("change-{permille}permille");
                let changed = permille as f64 * 4e6;
                samples.add(sample(
                    &row,
                    Ours,
                    wall_s(changed),
                    &[("changed_bytes", changed)],
                ));
            }
            let claims = claims(&samples);
            let by_line = claims
                .iter()
                .filter(|claim| claim.what.starts_with("express full"));
            by_line.filter_map(Claim::reached).collect::<Vec<_>>()
        };
        assert_eq!(reached(|bytes| 0.05 + bytes * 8e-9), [true, true]);
        assert_eq!(reached(|bytes| 0.05 + bytes * bytes * 8e-17), [true, false]);
    }

    #[test]
    fn a_large_index_has_bounds_of_its_own() {
        let mut samples = Samples::default();
        let mut large = sample("large-known", Ours, 1.2, &[]);
        large.cost.peak_mib = 200.0;
        samples.add(large);
        samples.add(sample("small-known", Ours, 1.0, &[]));
        let claims = claims(&samples);
        let reached = |what: &str| {
            let claim = claims.iter().find(|claim| claim.what.starts_with(what));
            claim.unwrap().reached()
        };
        assert_eq!(reached("peak memory in all"), Some(true));
        assert_eq!(reached("peak memory with a large index"), Some(true));
        assert_eq!(reached("initial protection of known"), Some(true));
        assert_eq!(reached("restore, wall in a large"), None);
    }
}
