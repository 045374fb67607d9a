//! `kill -9` of the real process at random instants of every command that
//! changes a vault: every point that was reported restores bit for bit, in the
//! vault and in a second one, nothing half-made is visible, and the next run
//! needs no help.
//!
//! `BACKSTOP_SEED` replays a run's choices (not the scheduler's),
//! `BACKSTOP_CRASH_ROUNDS` sets their number.

#![cfg(all(
    feature = "agent",
    feature = "server",
    feature = "source-file",
    feature = "store"
))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test: it stops at the first surprise, tells its seed, and times a real process"
)]

mod done;
mod keeping;
mod lab;
mod rounds;
mod vaults;

use done::{ALL, Command, Done};
use rounds::Rounds;

fn count(default: u32) -> u32 {
    std::env::var("BACKSTOP_CRASH_ROUNDS").map_or(default, |rounds| rounds.parse().unwrap())
}

/// So many of each command in a row of rounds, shuffled anew each time.
fn deck(random: &mut fastrand::Rng) -> Vec<Command> {
    let more = [Command::Protect; 3].into_iter();
    let more = more.chain([Command::Expire, Command::Collect, Command::Replicate]);
    let mut deck: Vec<Command> = ALL.into_iter().chain(more).collect();
    random.shuffle(&mut deck);
    deck
}

/// After so many rounds it begins anew with fresh vaults.
const LIFE: u32 = 63;

async fn survive(count: u32) {
    let seed =
        std::env::var("BACKSTOP_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    println!("BACKSTOP_SEED={seed}, {count} rounds");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut done = Done::default();
    let mut left = Vec::new();
    let mut rounds: Option<Rounds> = None;
    for round in 0..count {
        if round % LIFE == 0 {
            if let Some(rounds) = &mut rounds {
                rounds.end().await;
            }
            done.end_life(rounds.take());
            let kills_readers = (round / LIFE) % 2 == 1;
            rounds = Some(Rounds::new(random.fork(), kills_readers));
        }
        if left.is_empty() {
            left = deck(&mut random);
        }
        if let (Some(command), Some(rounds)) = (left.pop(), &mut rounds) {
            println!("round {round}: {command:?}");
            rounds.go(command).await;
        }
    }
    if let Some(rounds) = &mut rounds {
        rounds.end().await;
    }
    done.end_life(rounds);
    println!("{done}");
    // Then each command has come ten times.
    if count >= 210 {
        done.has_everything();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_instant_nothing_reported_is_lost() {
    survive(count(300)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_killed_at_any_instant() {
    if std::env::var_os("BACKSTOP_SOAK").is_some() {
        survive(count(3000)).await;
    }
}
