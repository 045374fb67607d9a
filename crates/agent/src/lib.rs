//! The production server's side of Backstop: brings replicas up to date.
//!
//! An [`Agent`] reads data sources through
//! [`BlockSource`](backstop_core::BlockSource), finds what changed, and sends
//! what is needed of it to a
//! [`ProtectionService`](backstop_core::ProtectionService), which is a server
//! in the same process or a transport's client: the agent can't tell them
//! apart. It knows nothing of vaults, trackers or platforms.
//!
//! ```
//! # use std::sync::Arc;
//! use backstop_agent::{Agent, Changes};
//! use backstop_core::{BlockSource, ExtentSet, PointId, ProtectionService, Result};
//!
//! # async fn example(service: Arc<dyn ProtectionService>, snapshot: &dyn BlockSource,
//! #     next: &dyn BlockSource, dirty: ExtentSet) -> Result<()> {
//! let agent = Agent::new(service);
//! let first = agent.protect("vm", snapshot, Changes::Unknown).await?;
//! let changes = Changes::Since { base: first.id, extents: dirty };
//! let second = agent.protect("vm", next, changes).await?;
//! # Ok(()) }
//! ```
//!
//! # How a synchronization goes
//!
//! The server says how changes are to be found. *Initial*: everything is
//! read. *Express full*: only the changed extents are, and a stated sample of
//! what should not have changed is compared, so that a tracker that lies is
//! found. *Consistency check*: everything is read and compared with the
//! replica by digests along the replica's own slices, and only what differs is
//! sent. A sample that differs turns an express full into a check.
//!
//! Images are dealt with by regions of 4 MiB, a few at once: while one is
//! read, others are cut and hashed, compressed, or written. CPU work runs on
//! a bounded [`CpuPool`](backstop_core::CpuPool), everything else in the
//! caller's task: sources are borrowed, nothing is spawned, and dropping the
//! future stops it all.
//!
//! # When the service is away
//!
//! By default an error of the service ends the synchronization, which can be
//! continued if its [snapshot is named](Request::with_snapshot). With
//! [`AgentSettings::patience`] it is continued by itself when a service is
//! there again, whose vault was full, or to which the way was broken, also if it
//! was started anew meanwhile. A [`Monitor`](backstop_core::Monitor) is told of
//! each delay.
//!
//! # Metrics
//!
//! Counters of the `metrics` facade, for whatever recorder the process has:
//! `backstop_agent_read_bytes` (from sources, samples included),
//! `backstop_agent_sent_bytes` (compressed chunks).
//!
//! # Memory
//!
//! At most [`AgentSettings::regions_in_flight`] regions are held, each with
//! its plain bytes and its compressed chunks: 8 MiB at most for each, so
//! 32 MiB with two cores and the default settings, whatever the size of the
//! images. Changed extents are held as ranges.

mod agent;
mod check;
mod compare;
mod content;
mod cut;
mod express;
mod identity;
mod initial;
mod ledger;
mod patch;
mod patience;
mod pipeline;
mod randomness;
mod read;
mod request;
mod sample;
mod send;
mod settings;
mod synchronize;
mod watched;

pub use agent::Agent;
pub use request::{Changes, Request};
pub use settings::{AgentSettings, MOST_SAMPLE_SLICES};
