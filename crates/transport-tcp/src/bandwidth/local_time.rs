//! What time it is where the agent is.

use std::fmt;

use backstop_core::Timestamp;

/// Tells how far a place's clocks are ahead of UTC.
pub trait LocalTime: Send + Sync + fmt::Debug {
    /// Seconds east of UTC at an instant; changes where and when clocks do.
    /// Must not block.
    fn seconds_east(&self, at: Timestamp) -> i32;
}

/// The same number of seconds east of UTC at all times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixedOffset(pub i32);

impl FixedOffset {
    /// UTC itself.
    pub const UTC: Self = Self(0);
}

impl LocalTime for FixedOffset {
    fn seconds_east(&self, _at: Timestamp) -> i32 {
        self.0
    }
}

/// The zone that this host is set to when it is asked for.
#[cfg(feature = "local-time")]
#[derive(Clone, Debug)]
pub struct SystemLocalTime(jiff::tz::TimeZone);

#[cfg(feature = "local-time")]
impl SystemLocalTime {
    /// Finds the host's zone; one that is set later is not followed.
    ///
    /// # Errors
    /// [`Unavailable`](backstop_core::ErrorKind::Unavailable) if the host does
    /// not tell its zone, or knows nothing of it.
    pub fn new() -> backstop_core::Result<Self> {
        let zone = jiff::tz::TimeZone::try_system().map_err(|error| {
            backstop_core::Error::unavailable("the host's time zone is not known; set it, or TZ")
                .with_source(error)
        })?;
        Ok(Self(zone))
    }
}

#[cfg(feature = "local-time")]
impl LocalTime for SystemLocalTime {
    /// UTC for instants that no calendar has.
    fn seconds_east(&self, at: Timestamp) -> i32 {
        let at = jiff::Timestamp::from_millisecond(at.0);
        at.map_or(0, |at| self.0.to_offset(at).seconds())
    }
}

#[cfg(all(test, feature = "local-time"))]
mod tests {
    use super::*;

    #[test]
    fn a_zone_tells_its_summer() {
        // RFC 9636 text, so that no database is needed.
        let zone = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let zone = SystemLocalTime(zone);
        // 2026-03-29T01:00:00Z, when clocks went from 2 to 3.
        let change = 1_774_746_000_000;
        assert_eq!(zone.seconds_east(Timestamp(change - 1)), 3600);
        assert_eq!(zone.seconds_east(Timestamp(change)), 7200);
        assert_eq!(zone.seconds_east(Timestamp(i64::MAX)), 0);
    }

    #[test]
    fn the_hosts_zone_is_found() {
        let zone = SystemLocalTime::new().unwrap();
        assert!(zone.seconds_east(Timestamp(0)).abs() <= 26 * 3600);
    }
}
