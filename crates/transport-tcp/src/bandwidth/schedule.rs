//! Which rate holds when, by the time of the week.

use backstop_core::{ByteCount, Error, Result, Timestamp};

use super::LocalTime;

/// Minutes of a day.
pub(super) const DAY: u16 = 24 * 60;

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weekday {
    /// The first day.
    Monday,
    /// The second day.
    Tuesday,
    /// The third day.
    Wednesday,
    /// The fourth day.
    Thursday,
    /// The fifth day.
    Friday,
    /// The sixth day.
    Saturday,
    /// The seventh day.
    Sunday,
}

impl Weekday {
    /// All, from Monday on.
    pub const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A rate for some hours of some days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BandwidthRule {
    days: u8,
    from: u16,
    to: u16,
    rate: Option<ByteCount>,
}

impl BandwidthRule {
    /// A rate in bytes per second, none for no limit and zero for nothing at
    /// all, on these days from a minute of the local day up to, not including,
    /// another. Hours that end no later than they begin last until the next
    /// day: those of Friday from 22:00 to 6:00 end on Saturday.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) without a day,
    /// for minutes that no day has, and for hours that end when they begin,
    /// unless that is midnight, which is a whole day.
    pub fn new(
        days: impl IntoIterator<Item = Weekday>,
        from_minute: u16,
        to_minute: u16,
        rate: Option<ByteCount>,
    ) -> Result<Self> {
        let days = days.into_iter().fold(0, |days, day| days | day.bit());
        if days == 0 {
            return Err(Error::invalid_input("a bandwidth rule is for no day"));
        }
        if from_minute >= DAY || to_minute > DAY {
            return Err(Error::invalid_input(format!(
                "a bandwidth rule is from minute {from_minute} to {to_minute}; a day has {DAY}"
            )));
        }
        let to = if to_minute == 0 { DAY } else { to_minute };
        if from_minute == to {
            return Err(Error::invalid_input(format!(
                "a bandwidth rule is from minute {from_minute} to the same; a whole day is from 0 to {DAY}"
            )));
        }
        Ok(Self {
            days,
            from: from_minute,
            to,
            rate,
        })
    }

    /// The days on which its hours begin, from Monday on.
    pub fn days(&self) -> impl Iterator<Item = Weekday> + use<> {
        let days = self.days;
        let all = Weekday::ALL.into_iter();
        all.filter(move |day| days & day.bit() != 0)
    }

    /// The minute of the day with which its hours begin.
    pub fn from_minute(&self) -> u16 {
        self.from
    }

    /// The minute of the day, or of the next one, with which they end; it is
    /// not one of them. 1440 for midnight.
    pub fn to_minute(&self) -> u16 {
        self.to
    }

    /// Bytes per second; none for no limit.
    pub fn rate(&self) -> Option<ByteCount> {
        self.rate
    }

    /// Whether it is for a minute of a day of the week, counted from Monday.
    fn is_for(&self, day: u8, minute: u16) -> bool {
        let is_of = |day: u8| self.days & (1 << day) != 0;
        if self.from < self.to {
            return is_of(day) && (self.from..self.to).contains(&minute);
        }
        is_of(day) && minute >= self.from || is_of((day + 6) % 7) && minute < self.to
    }
}

/// How much may be sent at which time of the week, in bytes per second.
///
/// The first rule that fits holds, and a default where none does. As text:
///
/// ```
/// use backstop_transport_tcp::BandwidthSchedule;
///
/// let text = "default 20M; mon-fri 08:00-18:00 2M; fri 22:00-06:00 none";
/// let schedule: BandwidthSchedule = text.parse()?;
/// assert_eq!(schedule.to_string(), text);
/// # Ok::<(), backstop_core::Error>(())
/// ```
///
/// Parts are divided by semicolons. `default RATE` is no limit if it is not
/// there; each other part is a rule: days (`mon-fri`, `sat,sun`, `daily`),
/// hours (`08:00-18:00`), or both, and a rate. A rate is `none`, or a number
/// with `K`, `M` or `G` for powers of 1000, `Ki`, `Mi` or `Gi` for powers of
/// 1024; `0` lets nothing pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BandwidthSchedule {
    default: Option<ByteCount>,
    rules: Vec<BandwidthRule>,
}

impl BandwidthSchedule {
    /// A rate for all times, in bytes per second; none for no limit.
    pub fn new(default: Option<ByteCount>) -> Self {
        Self {
            default,
            rules: Vec::new(),
        }
    }

    /// The same with one rule more, after those that it has.
    pub fn with_rule(mut self, rule: BandwidthRule) -> Self {
        self.rules.push(rule);
        self
    }

    /// The rate where no rule fits; none for no limit.
    pub fn default_rate(&self) -> Option<ByteCount> {
        self.default
    }

    /// The rules, in the order in which they are tried.
    pub fn rules(&self) -> &[BandwidthRule] {
        &self.rules
    }

    /// The rate at an instant, in bytes per second; none for no limit.
    pub fn rate_at(&self, at: Timestamp, local: &dyn LocalTime) -> Option<ByteCount> {
        let east = i64::from(local.seconds_east(at)) * 1000;
        let here = Timestamp(at.0.saturating_add(east));
        // 1970-01-01 was a Thursday.
        let day = u8::try_from((here.day() + 3).rem_euclid(7)).unwrap_or_default();
        let minute = here.0.rem_euclid(86_400_000) / 60_000;
        let minute = u16::try_from(minute).unwrap_or_default();
        let rule = self.rules.iter().find(|rule| rule.is_for(day, minute));
        rule.map_or(self.default, |rule| rule.rate)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::FixedOffset;
    use super::*;

    /// 2026-12-07T00:00:00Z, a Monday.
    const MONDAY: i64 = 1_796_601_600_000;

    const HOUR: i64 = 3_600_000;

    fn rate(text: &str, at: i64, local: &dyn LocalTime) -> Option<u64> {
        let schedule: BandwidthSchedule = text.parse().unwrap();
        schedule.rate_at(Timestamp(at), local).map(|rate| rate.0)
    }

    #[test]
    fn the_first_rule_that_fits_holds() {
        assert_eq!(Timestamp(MONDAY).to_string(), "2026-12-07T00:00:00.000Z");
        let text = "default 9; tue 08:00-09:00 1; mon-fri 08:00-18:00 2; fri 22:00-06:00 3; sun 4";
        let at =
            |day: i64, hour: i64| rate(text, MONDAY + (day * 24 + hour) * HOUR, &FixedOffset::UTC);
        for (day, hour, expected) in [
            (0, 7, 9),
            (0, 8, 2),
            (0, 17, 2),
            (0, 18, 9),
            (1, 8, 1),
            (1, 9, 2),
            (4, 21, 9),
            (4, 22, 3),
            (5, 5, 3),
            (5, 6, 9),
            (5, 22, 9),
            (6, 0, 4),
            (6, 23, 4),
            (7, 0, 9),
            (-1, 12, 4),
        ] {
            assert_eq!(at(day, hour), Some(expected), "day {day}, {hour}:00");
        }
        assert_eq!(
            rate("mon 00:00-24:00 5", MONDAY - 1, &FixedOffset::UTC),
            None
        );
        assert_eq!(rate("mon 5", MONDAY - HOUR, &FixedOffset(3600)), Some(5));
        let sunday_night = "sun 23:00-01:00 6";
        assert_eq!(rate(sunday_night, MONDAY, &FixedOffset::UTC), Some(6));
    }

    /// Clocks go from 2 to 3 on a first Monday at 1:00 UTC, and back from 3 to
    /// 2 a week later.
    #[derive(Debug)]
    struct MadeUp;

    impl LocalTime for MadeUp {
        fn seconds_east(&self, at: Timestamp) -> i32 {
            let summer = MONDAY + HOUR..MONDAY + (7 * 24 + 1) * HOUR;
            if summer.contains(&at.0) { 7200 } else { 3600 }
        }
    }

    #[test]
    fn hours_follow_clocks_that_are_changed() {
        let minute = HOUR / 60;
        // An hour that there is not, and one that comes twice.
        let text = "default 9; 02:00-03:00 1; 03:00-04:00 2";
        let at = |minutes: i64| rate(text, MONDAY + minutes * minute, &MadeUp);
        assert_eq!(at(59), Some(9), "1:59");
        assert_eq!(at(60), Some(2), "3:00");
        assert_eq!(at(119), Some(2), "3:59");
        assert_eq!(at(120), Some(9), "4:00");
        let week = 7 * 24 * 60;
        for (minutes, expected) in [(-1, 9), (0, 1), (59, 1), (60, 1), (119, 1), (120, 2)] {
            assert_eq!(at(week + minutes), Some(expected), "{minutes} minutes");
        }
        // Hours over the change end by the clock.
        let text = "default 9; sun 22:00-06:00 1";
        let at = |hours: i64| rate(text, MONDAY + hours * HOUR, &MadeUp);
        assert_eq!((at(-4), at(-3)), (Some(9), Some(1)));
        assert_eq!((at(3), at(4)), (Some(1), Some(9)), "5:00 and 6:00");
        assert_eq!((at(7 * 24 + 4), at(7 * 24 + 5)), (Some(1), Some(9)));
    }

    proptest! {
        /// As by writing down every minute of the week.
        #[test]
        fn a_rule_is_for_its_minutes(
            days in 1..128_u8,
            from in 0..DAY,
            to in 0..=DAY,
            at in 0..7 * i64::from(DAY),
            week in -3000..3000_i64,
        ) {
            let chosen = Weekday::ALL.into_iter().filter(|day| days & day.bit() != 0);
            let Ok(rule) = BandwidthRule::new(chosen, from, to, Some(ByteCount(1))) else {
                prop_assert_eq!(from, if to == 0 { DAY } else { to });
                return Ok(());
            };
            let length = (i64::from(to) - i64::from(from)).rem_euclid(i64::from(DAY));
            let length = if length == 0 { i64::from(DAY) } else { length };
            let mut week_minutes = vec![false; 7 * usize::from(DAY)];
            for day in 0..7 {
                if days & (1 << day) != 0 {
                    for minute in 0..length {
                        let minute = i64::from(day) * i64::from(DAY) + i64::from(from) + minute;
                        week_minutes[usize::try_from(minute).unwrap() % (7 * usize::from(DAY))] = true;
                    }
                }
            }
            let schedule = BandwidthSchedule::new(None).with_rule(rule);
            let instant = Timestamp(MONDAY + (week * 7 * i64::from(DAY) + at) * 60_000);
            let is_for = schedule.rate_at(instant, &FixedOffset::UTC).is_some();
            prop_assert_eq!(is_for, week_minutes[usize::try_from(at).unwrap()]);
        }
    }
}
