//! What a vault must survive: crashes and power loss at every step, stores
//! that fail, full disks, a second owner, damage.
//!
//! Every random choice follows a seed, which a failing test prints; the
//! environment variable `BACKSTOP_SEED` replays it. `BACKSTOP_SOAK=1` makes
//! the tests whose names contain `soak` go on for longer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test fails by panicking and says why; how long real failures take is real time"
)]

mod collecting;
mod crowd;
mod damage;
mod every_object;
mod faults;
mod fencing;
mod fixtures;
mod folding;
mod full;
mod growth;
mod healing;
mod history;
mod idle;
mod images;
mod keys;
mod locking;
mod losses;
mod model;
mod needed;
mod overridden;
#[cfg(any(feature = "aws", feature = "azure"))]
mod peers;
mod play;
mod power;
mod power_care;
mod power_files;
mod protection;
mod providers;
mod randomness;
mod readers;
mod reading;
mod rebuilding;
mod reopening;
mod replay;
mod replicating;
mod resealing;
mod resume;
#[path = "../../../../tests/rights/mod.rs"]
mod rights;
mod rotation;
mod second_self;
mod seeds;
mod simulation;
mod trace;
mod unruly;
mod usage;
