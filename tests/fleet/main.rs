//! Agents and a protection server as processes of their own, that are killed, and a
//! line between them that is cut or goes silent, at random instants: work goes on
//! where it stood, and every point is right.
//!
//! `BACKSTOP_SEED` replays a run's choices (not the scheduler's),
//! `BACKSTOP_FLEET_ROUNDS` sets their number.

#![cfg(all(
    unix,
    feature = "agent",
    feature = "enroll",
    feature = "local-time",
    feature = "server",
    feature = "source-file",
    feature = "source-nbd",
    feature = "store",
    feature = "tcp"
))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test: it stops at the first surprise, tells its seed, and times real processes"
)]

mod certificates;
mod guide;
mod lab;
mod relay;

use std::time::Duration;

use lab::Lab;

/// What goes wrong in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    AgentKilled,
    ServerKilled,
    /// Both ends are told.
    LineCut,
    /// Neither end is told, as when a cable is pulled.
    LineSilent,
    /// A line that loses some: what is sent arrives late, again and again.
    LineSlow,
    ServerStopped,
}

const FAULTS: [Fault; 6] = [
    Fault::AgentKilled,
    Fault::ServerKilled,
    Fault::LineCut,
    Fault::LineSilent,
    Fault::LineSlow,
    Fault::ServerStopped,
];

/// The longest that a synchronization may take, whatever happens.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is under way when a line breaks may be sent again: the regions in flight, of
/// which there are two more than processors, and what fills a pipe.
fn in_flight() -> u64 {
    let processors = std::thread::available_parallelism().unwrap().get() as u64;
    (processors + 2) * (4 << 20) + (2 << 20)
}

async fn round(lab: &mut Lab, fault: Fault, random: &mut fastrand::Rng) {
    let changed = lab.change(random);
    lab.relay.reset();
    let mut agent = lab.agent();
    // At an instant of what is sent: the line is what takes the time.
    let instant = random.u64(..changed + changed / 4);
    let early = lab.relay.passed(instant);
    let ended = tokio::select! {
        () = early => None,
        ended = agent.ended() => Some(ended),
    };
    if ended.is_none() {
        match fault {
            Fault::AgentKilled => {
                agent.kill().await;
                agent = lab.agent();
            }
            Fault::ServerKilled => {
                lab.server.kill().await;
                lab.serve().await;
            }
            Fault::ServerStopped => {
                lab.server.stop().await;
                lab.serve().await;
            }
            Fault::LineCut => lab.relay.cut(),
            Fault::LineSilent => lab.relay.silence(),
            Fault::LineSlow => lab.relay.stutter(random.u64(..)),
        }
    }
    let ended = match ended {
        Some(ended) => ended,
        None => tokio::time::timeout(PATIENCE, agent.ended()).await.unwrap(),
    };
    assert_eq!(ended, Ok(()), "{fault:?}");
    let sent = lab.relay.sent();
    // What the server had taken in is asked for no more, unless it died with it.
    if fault != Fault::ServerKilled {
        let most = changed + changed / 20 + in_flight();
        assert!(
            sent <= most,
            "{fault:?}: {sent} bytes were sent, {changed} had changed"
        );
    }
    lab.restores().await;
}

async fn survive(rounds: u32) {
    let seed =
        std::env::var("BACKSTOP_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    let rounds = std::env::var("BACKSTOP_FLEET_ROUNDS").map_or(rounds, |n| n.parse().unwrap());
    println!("BACKSTOP_SEED={seed}, {rounds} rounds");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut lab = Lab::new(&mut random).await;
    for round_number in 0..rounds {
        let fault = FAULTS[round_number as usize % FAULTS.len()];
        println!("round {round_number}: {fault:?}");
        round(&mut lab, fault, &mut random).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_goes_on_where_it_stood() {
    survive(12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_what_breaks_goes_on() {
    if std::env::var_os("BACKSTOP_SOAK").is_some() {
        survive(200).await;
    }
}
