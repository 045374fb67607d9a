//! Schedules as text, which people write.

use std::fmt;
use std::str::FromStr;

use backstop_core::{ByteCount, Error, Result};

use super::schedule::{BandwidthRule, BandwidthSchedule, DAY, Weekday};

/// Short names, from Monday on.
const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// The name of all days.
const DAILY: &str = "daily";

/// The word for no limit.
const NONE: &str = "none";

/// What a number may be followed by, the largest first.
const UNITS: [(&str, u64); 6] = [
    ("Gi", 1 << 30),
    ("G", 1_000_000_000),
    ("Mi", 1 << 20),
    ("M", 1_000_000),
    ("Ki", 1 << 10),
    ("K", 1000),
];

impl FromStr for BandwidthSchedule {
    type Err = Error;

    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) naming the part
    /// that can't be read.
    fn from_str(text: &str) -> Result<Self> {
        let mut default = None;
        let mut rules = Vec::new();
        for part in text.split(';').map(str::trim) {
            let within = |error: Error| {
                error.within(format_args!("part {part:?} of the bandwidth schedule"))
            };
            let words: Vec<&str> = part.split_whitespace().collect();
            match words[..] {
                ["default", rate] if default.is_none() => {
                    default = Some(parse_rate(rate).map_err(within)?);
                }
                ["default", _] => return Err(within(wrong("there is a default before it"))),
                _ => rules.push(parse_rule(&words).map_err(within)?),
            }
        }
        let schedule = Self::new(default.flatten());
        Ok(rules.into_iter().fold(schedule, Self::with_rule))
    }
}

fn wrong(sentence: impl Into<String>) -> Error {
    Error::invalid_input(sentence)
}

fn parse_rule(words: &[&str]) -> Result<BandwidthRule> {
    let (days, hours, rate) = match *words {
        [days, hours, rate] => (days, hours, rate),
        [hours, rate] if hours.contains(':') => (DAILY, hours, rate),
        [days, rate] => (days, "00:00-24:00", rate),
        _ => {
            return Err(wrong(
                "a part is a default and a rate, or days, hours and a rate, as in \
                 \"default 20M; mon-fri 08:00-18:00 2M\"",
            ));
        }
    };
    let days = parse_days(days)?;
    let (from, to) = parse_hours(hours)?;
    BandwidthRule::new(days, from, to, parse_rate(rate)?)
}

fn parse_days(text: &str) -> Result<Vec<Weekday>> {
    if text == DAILY {
        return Ok(Weekday::ALL.to_vec());
    }
    let place = |name: &str| NAMES.iter().position(|known| *known == name);
    let mut days = Vec::new();
    for run in text.split(',') {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let (Some(first), Some(last)) = (place(first), place(last)) else {
            return Err(wrong(format!(
                "{run:?} is no day; days are as in \"mon-fri\", \"sat,sun\" or \"{DAILY}\""
            )));
        };
        let count = (last + 7 - first) % 7;
        days.extend((first..=first + count).map(|day| Weekday::ALL[day % 7]));
    }
    Ok(days)
}

fn parse_hours(text: &str) -> Result<(u16, u16)> {
    let minutes = text
        .split_once('-')
        .and_then(|(from, to)| Some((parse_minute(from)?, parse_minute(to)?)));
    minutes.ok_or_else(|| {
        wrong(format!(
            "{text:?} are no hours; they are as in \"08:00-18:00\""
        ))
    })
}

fn parse_minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str, most: u16| -> Option<u16> {
        let is_whole = (1..=2).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|number| is_whole && *number <= most)
    };
    let minutes = number(hour, 24)? * 60 + number(minute, 59)?;
    (minutes <= DAY).then_some(minutes)
}

fn parse_rate(text: &str) -> Result<Option<ByteCount>> {
    if text == NONE {
        return Ok(None);
    }
    let digits = text.trim_end_matches(|it: char| !it.is_ascii_digit());
    let unit = &text[digits.len()..];
    let known = UNITS.into_iter().find(|(name, _)| *name == unit);
    let factor = known.map_or(u64::from(unit.is_empty()), |(_, factor)| factor);
    let is_number = !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
    let number = digits
        .parse::<u64>()
        .ok()
        .filter(|_| is_number && factor > 0);
    let rate = number.and_then(|number| number.checked_mul(factor));
    rate.map(|rate| Some(ByteCount(rate))).ok_or_else(|| {
        wrong(format!(
            "{text:?} is no rate; it is \"{NONE}\" or bytes per second as in \"500K\", \"20M\" or \"1Gi\""
        ))
    })
}

impl fmt::Display for BandwidthSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("default ")?;
        write_rate(f, self.default_rate())?;
        self.rules()
            .iter()
            .try_for_each(|rule| write!(f, "; {rule}"))
    }
}

impl fmt::Display for BandwidthRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_days(f, self)?;
        let (from, to) = (self.from_minute(), self.to_minute());
        if (from, to) != (0, DAY) {
            let (from, to) = ((from / 60, from % 60), (to / 60, to % 60));
            write!(f, " {:02}:{:02}-{:02}:{:02}", from.0, from.1, to.0, to.1)?;
        }
        f.write_str(" ")?;
        write_rate(f, self.rate())
    }
}

fn write_days(f: &mut fmt::Formatter<'_>, rule: &BandwidthRule) -> fmt::Result {
    let days: Vec<usize> = rule.days().map(|day| day as usize).collect();
    if days.len() == NAMES.len() {
        return f.write_str(DAILY);
    }
    let runs = days.chunk_by(|day, next| day + 1 == *next);
    for (number, run) in runs.enumerate() {
        if number > 0 {
            f.write_str(",")?;
        }
        if let [first, .., last] = run {
            write!(f, "{}-{}", NAMES[*first], NAMES[*last])?;
        } else {
            run.iter().try_for_each(|day| f.write_str(NAMES[*day]))?;
        }
    }
    Ok(())
}

fn write_rate(f: &mut fmt::Formatter<'_>, rate: Option<ByteCount>) -> fmt::Result {
    let Some(ByteCount(rate)) = rate else {
        return f.write_str(NONE);
    };
    let mut units = UNITS.into_iter();
    match units.find(|(_, factor)| rate > 0 && rate.is_multiple_of(*factor)) {
        Some((name, factor)) => write!(f, "{}{name}", rate / factor),
        None => write!(f, "{rate}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate() -> impl Strategy<Value = Option<ByteCount>> {
        let number = prop_oneof![0..5000_u64, Just(u64::MAX), any::<u64>()];
        let factor = prop::sample::select(vec![1, 1000, 1024, 1_000_000, 1 << 20, 1 << 30]);
        let rate = (number, factor).prop_map(|(a, b): (u64, u64)| ByteCount(a.saturating_mul(b)));
        prop::option::of(rate)
    }

    fn rule() -> impl Strategy<Value = BandwidthRule> {
        let days = prop::collection::vec(prop::sample::select(Weekday::ALL.to_vec()), 1..9);
        let rule = (days, 0..DAY, 0..=DAY, rate());
        rule.prop_filter_map(
            "hours that end when they begin",
            |(days, from, to, rate)| BandwidthRule::new(days, from, to, rate).ok(),
        )
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(
            default in rate(),
            rules in prop::collection::vec(rule(), 0..6),
        ) {
            let schedule = BandwidthSchedule::new(default);
            let schedule = rules.into_iter().fold(schedule, BandwidthSchedule::with_rule);
            let text = schedule.to_string();
            let back: BandwidthSchedule = text.parse().unwrap();
            prop_assert_eq!(&back, &schedule, "{}", text);
            prop_assert_eq!(back.to_string(), text);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(default|mon|fri|daily|[0-9]{1,3}|:|-|,|;| |M|Ki|none|é){0,12}") {
            if let Ok(schedule) = text.parse::<BandwidthSchedule>() {
                let printed = schedule.to_string();
                prop_assert_eq!(printed.parse::<BandwidthSchedule>().unwrap(), schedule);
            }
        }
    }

    #[test]
    fn ways_to_write_the_same() {
        let same = |one: &str, other: &str| {
            let parsed: BandwidthSchedule = one.parse().unwrap();
            assert_eq!(parsed.to_string(), other, "{one}");
        };
        same("default 20M", "default 20M");
        same("  default   none ", "default none");
        same(
            "sat,sun 8:00-9:30 1024",
            "default none; sat-sun 08:00-09:30 1Ki",
        );
        same("fri-mon 1500K;default 0", "default 0; mon,fri-sun 1500K");
        same("22:00-00:00 3G", "default none; daily 22:00-24:00 3G");
        same("daily 00:00-00:00 7", "default none; daily 7");
    }

    #[test]
    fn errors_name_the_part() {
        for (text, part, said) in [
            (
                "default 20M; mon-fry 08:00-18:00 2M",
                "mon-fry 08:00-18:00 2M",
                "\"mon-fry\" is no day",
            ),
            ("mon 8-18 2M", "mon 8-18 2M", "\"8-18\" are no hours"),
            ("mon 08:00-24:01 2M", "mon 08:00-24:01 2M", "no hours"),
            ("24:00-08:00 2M", "24:00-08:00 2M", "from minute 1440"),
            ("mon 08:00-08:00 2M", "mon 08:00-08:00 2M", "to the same"),
            ("default 20T", "default 20T", "\"20T\" is no rate"),
            ("default 20000000000G", "default 20000000000G", "is no rate"),
            ("default +5", "default +5", "is no rate"),
            (
                "default 1; default 2",
                "default 2",
                "there is a default before it",
            ),
            ("default 1;", "", "a part is a default and a rate"),
            ("", "", "a part is a default and a rate"),
            ("mon", "mon", "a part is a default and a rate"),
        ] {
            let error = text.parse::<BandwidthSchedule>().unwrap_err();
            let begins = format!("part {part:?} of the bandwidth schedule: ");
            let sentence = error.to_string();
            assert!(sentence.starts_with(&begins), "{text}: {sentence}");
            assert!(sentence.contains(said), "{text}: {sentence}");
        }
    }
}
