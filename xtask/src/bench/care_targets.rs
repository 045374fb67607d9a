//! What was promised of vaults that grow old and are looked after.

use crate::bench::aging;
use crate::bench::samples::{Samples, median};
use crate::bench::targets::{Claim, ratio};
use crate::bench::tool::Tool::Ours;

/// What a vault costs that grows old.
pub fn claims(s: &Samples) -> Vec<Claim> {
    let mut claims = vec![
        written(s),
        restored(s),
        express(s),
        ratio(
            "all but one point expired, vault beside a fresh one",
            1.1,
            s.fact(aging::SPACE, Ours, "stored_bytes"),
            s.fact(aging::SPACE, Ours, "fresh_bytes"),
            "MB",
            1e-6,
        ),
    ];
    let verified = s.median("verify", Ours, |sample| {
        Some(sample.facts.get("plain_bytes")? / sample.cost.wall_s)
    });
    let mut verify = ratio(
        "verification, bytes a second beside bare decompressing and hashing",
        0.8,
        verified,
        s.fact("decode", Ours, "bytes_per_second"),
        "MB/s",
        1e-6,
    );
    verify.at_least = true;
    claims.push(verify);
    for (rebuild, read, how) in [
        ("rebuild", "read-packs", "warm"),
        ("rebuild-cold", "read-packs-cold", "cold"),
    ] {
        let what = format!("rebuild ({how}), wall beside reading maps and frame headers");
        let (rebuild, read) = (s.wall(rebuild, Ours), s.wall(read, Ours));
        claims.push(ratio(&what, 1.5, rebuild, read, "s", 1.0));
    }
    claims
}

/// The days' samples, of all or of those that are meant.
fn on_days(s: &Samples, row: &str, fact: &str, meant: impl Fn(f64) -> bool) -> Vec<f64> {
    let days = s
        .of(row, Ours)
        .filter(|sample| sample.facts.get("day").is_some_and(|day| meant(*day)));
    days.filter_map(|sample| match fact {
        "wall" => Some(sample.cost.wall_s),
        fact => sample.facts.get(fact).copied(),
    })
    .collect()
}

fn last_day(s: &Samples) -> f64 {
    let days = on_days(s, aging::DAY, "day", |_| true);
    days.into_iter().fold(0.0, f64::max)
}

fn written(s: &Samples) -> Claim {
    let total = |fact| {
        on_days(s, aging::DAY, fact, |day| day > 0.0)
            .into_iter()
            .reduce(|a, b| a + b)
    };
    ratio(
        "growing old, written per changed byte",
        3.0,
        total("written_bytes"),
        total("changed_bytes"),
        "MB",
        1e-6,
    )
}

fn restored(s: &Samples) -> Claim {
    let on = |meant: &dyn Fn(f64) -> bool| median(on_days(s, aging::RESTORE, "wall", meant));
    let last = last_day(s);
    let newest = on(&|day| last > 0.0 && day >= last);
    let mut claim = ratio(
        "growing old, restore of day 0 beside the newest",
        0.7,
        on(&|day| day < 1.0),
        newest,
        "s",
        1.0,
    );
    if let (Some(newest), Some(fresh)) = (newest, s.wall(aging::FRESH, Ours)) {
        let beside = format!("; {:.2} x of the newest from a fresh vault", fresh / newest);
        claim.detail.push_str(&beside);
    }
    claim.at_least = true;
    claim
}

/// Several days, since every eighth run does more than the others.
fn express(s: &Samples) -> Claim {
    let last = last_day(s);
    ratio(
        "growing old, express full of the last eight days beside days 2 to 9",
        1.0,
        median(on_days(s, aging::DAY, "wall", |day| {
            last > 16.0 && day > last - 8.0
        })),
        median(on_days(s, aging::DAY, "wall", |day| {
            (2.0..=9.0).contains(&day)
        })),
        "s",
        1.0,
    )
}
