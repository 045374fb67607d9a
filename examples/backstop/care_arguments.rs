//! What the commands take that look after a vault.

use std::time::Duration;

use backstop::{CollectOptions, FoldOptions};
use clap::Args;

use crate::chosen::Chosen;

/// What to keep.
#[derive(Debug, Args)]
pub struct ExpireArguments {
    /// For which sources.
    #[command(flatten)]
    pub chosen: Chosen,
    /// Remove nothing; tell what would be
    #[arg(long)]
    pub dry_run: bool,
    /// Which points stay.
    #[command(flatten)]
    pub keep: KeepArguments,
}

/// How much to give back at what cost.
#[derive(Debug, Args)]
pub struct CollectArguments {
    /// Change nothing; tell what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Rewrite packs until no more is left that is not needed, in percent of what is
    #[arg(long, value_name = "PERCENT", default_value_t = CollectOptions::default().most_dead, value_parser = clap::value_parser!(u8).range(..=100))]
    pub most_dead: u8,
    /// After `key rotate`: seal what is under older keys anew
    #[arg(long)]
    pub reseal: bool,
    /// Write no more than this anew
    #[arg(long, value_name = "MIB")]
    pub most_written: Option<u32>,
    /// Begin nothing more after this time (30s, 15m, 12h)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub most_time: Option<Duration>,
    /// Begin nothing more after so many requests to the store
    #[arg(long, value_name = "N")]
    pub most_requests: Option<u64>,
}

/// What to verify.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// Only one part of so many; the next run goes on where this one ended
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub parts: u32,
    /// Begin nothing more after this time (30s, 15m, 12h)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub most_time: Option<Duration>,
    /// Read beside the vault's owner, from the start: nothing is kept of what is found
    #[arg(long)]
    pub beside: bool,
}

/// What to rebuild.
#[derive(Debug, Args)]
pub struct RebuildArguments {
    /// Bring back points too that had expired, if they are still whole
    #[arg(long)]
    pub with_expired: bool,
    /// Bring back points too that were never committed, if they are whole
    #[arg(long)]
    pub with_uncommitted: bool,
}

/// What to fold.
#[derive(Debug, Args)]
pub struct FoldArguments {
    /// For which sources.
    #[command(flatten)]
    pub chosen: Chosen,
    /// Change nothing; tell what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Fold what costs so many percent of what it would if it were new
    #[arg(long, value_name = "PERCENT", default_value_t = FoldOptions::default().worth, value_parser = clap::value_parser!(u32).range(101..))]
    pub worth: u32,
    /// Write no more than about this for each source
    #[arg(long, value_name = "MIB")]
    pub most_written: Option<u32>,
}

/// Which points stay. If no number is given: 3 last, 24 hourly, 14 daily, 8 weekly, 12 monthly, 3 yearly.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "What to keep (without any: 3 last, 24 hourly, 14 daily, 8 weekly, 12 monthly, 3 yearly)"
)]
pub struct KeepArguments {
    /// The newest points
    #[arg(long = "keep-last", value_name = "N")]
    pub last: Option<u32>,
    /// The newest point of each of the last N hours that have one
    #[arg(long = "keep-hourly", value_name = "N")]
    pub hourly: Option<u32>,
    /// The same for days
    #[arg(long = "keep-daily", value_name = "N")]
    pub daily: Option<u32>,
    /// The same for weeks
    #[arg(long = "keep-weekly", value_name = "N")]
    pub weekly: Option<u32>,
    /// The same for months
    #[arg(long = "keep-monthly", value_name = "N")]
    pub monthly: Option<u32>,
    /// The same for years
    #[arg(long = "keep-yearly", value_name = "N")]
    pub yearly: Option<u32>,
    /// Nothing younger goes, whatever the numbers say (30s, 15m, 12h, 7d)
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration)]
    pub min_age: Duration,
}
