//! How much of a line a client takes: by the time of the week, and held to it.

pub(crate) mod limiter;
mod local_time;
mod schedule;
mod text;

#[cfg(feature = "local-time")]
pub use local_time::SystemLocalTime;
pub use local_time::{FixedOffset, LocalTime};
pub use schedule::{BandwidthRule, BandwidthSchedule, Weekday};
