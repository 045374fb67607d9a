//! `cargo xtask bench-peers`: our sample command line beside restic and borg, on the same disk images.
//!
//! [`lab`] holds the folders and programs, [`measure`] runs one command, the row modules (named after what they
//! measure) collect [`samples`], [`targets`] holds them to what was promised, [`report`] and [`plot`] tell.

pub mod aging;
pub mod aging_plot;
pub mod care;
pub mod care_targets;
pub mod check;
pub mod churn;
pub mod growth;
pub mod lab;
pub mod large;
pub mod machine;
pub mod measure;
pub mod plot;
pub mod report;
pub mod samples;
pub mod scattered;
pub mod spine;
pub mod targets;
pub mod tool;
pub mod unlock;
pub mod update;

use crate::problem::{Context, Outcome};
use crate::stopwatch::{Stopwatch, spoken};
use clap::ValueEnum;
use lab::Lab;
use samples::Samples;
use std::path::PathBuf;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub struct Options {
    /// Size of the images in GiB, about 80 % of it data
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub gib: u64,
    /// Interleaved rounds, of which medians are told
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rounds: u32,
    /// Fill the images with files from here (repeat it for more folders); /usr if not given
    #[arg(long, value_name = "DIR")]
    pub from: Vec<PathBuf>,
    /// Measure with this program instead of building the sample command line
    #[arg(long, value_name = "PATH")]
    pub cli: Option<PathBuf>,
    /// Only these rows (all but growth, large-index, aging and care if not given)
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    pub only: Vec<Row>,
    /// Keep images and vaults
    #[arg(long)]
    pub keep: bool,
    /// Leave out the image changed by real programs and the update of two hosts, which need mounting
    #[arg(long)]
    pub skip_churn: bool,
    /// One more round with nothing in the page cache
    #[arg(long)]
    pub cold: bool,
    /// Also measure 1, 2, 4 and 8 GiB, and changes of 0.1 to 5 %
    #[arg(long)]
    pub growth: bool,
    /// Also measure beside a vault of many other chunks
    #[arg(long)]
    pub large_index: bool,
    /// Also let vaults grow old: `--days` of scattered change, expiry and collection
    #[arg(long)]
    pub aging: bool,
    /// Also measure how fast a vault is verified and rebuilt
    #[arg(long)]
    pub care: bool,
    /// For how many days
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub days: u32,
    /// How many other chunks that vault holds
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub large_chunks: u64,
}

/// A group of measurements that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// Initial protection of day0
    Initial,
    /// Express full of day1
    Express,
    /// The second host's disk in the same vault
    Host2,
    /// Restore of day1
    Restore,
    /// Consistency check of day1 without a tracker
    Check,
    /// 100 scattered pages on the image and on a 1 TiB sparse one
    Scattered,
    /// The same update on two hosts
    Update,
    /// Changes made by real programs
    Churn,
    /// What opening a vault costs by key and by passphrase
    Unlock,
    /// Image sizes and change sizes
    Growth,
    /// The same image beside many other chunks
    LargeIndex,
    /// Many days of change, expiry and collection
    Aging,
    /// Verifying and rebuilding
    Care,
}

impl Options {
    fn wants(&self, row: Row) -> bool {
        let by_switch = match row {
            Row::Growth => Some(self.growth),
            Row::LargeIndex => Some(self.large_index),
            Row::Aging => Some(self.aging),
            Row::Care => Some(self.care),
            _ => None,
        };
        let listed = self.only.contains(&row);
        match by_switch {
            Some(switched) => listed || switched,
            None => listed || self.only.is_empty(),
        }
    }
}

/// Measures, prints the table, and saves it with the raw numbers and a plot.
pub fn run(options: &Options) -> Outcome<()> {
    let lab = Lab::set_up(options)?;
    let mut samples = Samples::default();
    let outcome = measure_all(&lab, &mut samples);
    // What was measured before a failure is told all the same.
    if !samples.is_empty() {
        report::save(&lab, &samples)?;
    }
    lab.clean_up()?;
    outcome
}

/// Takes the samples of one group of rows.
type Group = fn(&Lab, &mut Samples) -> Outcome<()>;

fn measure_all(lab: &Lab, samples: &mut Samples) -> Outcome<()> {
    let spine = [Row::Initial, Row::Express, Row::Host2, Row::Restore];
    if spine.iter().any(|row| lab.options.wants(*row)) {
        timed("the main rows", || spine::measure(lab, samples))?;
    }
    let groups: [(Row, &str, Group); 9] = [
        (Row::Unlock, "unlocking", unlock::measure),
        (Row::Check, "consistency check", check::measure),
        (Row::Scattered, "scattered pages", scattered::measure),
        (Row::Update, "the same update on two hosts", update::measure),
        (Row::Churn, "real churn", churn::measure),
        (Row::Growth, "growth", growth::measure),
        (Row::LargeIndex, "a large index", large::measure),
        (Row::Aging, "growing old", aging::measure),
        (Row::Care, "care", care::measure),
    ];
    for (row, name, measure) in groups {
        let mounts = matches!(row, Row::Update | Row::Churn);
        if lab.options.wants(row) && !(mounts && lab.options.skip_churn) {
            timed(name, || measure(lab, samples)).context(name)?;
        }
    }
    Ok(())
}

fn timed(name: &str, task: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    println!("\n== {name}");
    let stopwatch = Stopwatch::start();
    let outcome = task();
    println!("== {name}: {}", spoken(stopwatch.read()));
    outcome
}
