//! Price lists, and what requests and stored bytes cost by them.
//!
//! All arithmetic is exact: prices are decimal numbers of at most nine places,
//! amounts are whole numbers of 10^-18 of the currency. Only bytes priced by a
//! gigabyte of 2^30 are rounded, to the nearest of these, each sum of bytes once.

use std::fmt;
use std::iter::Sum;
use std::ops::AddAssign;

use backstop_core::{ByteCount, Error, Result};
use serde::{Deserialize, Serialize, Serializer};

use crate::usage::Requests;

/// Prices are told in this part of the currency.
const NANOS: u32 = 1_000_000_000;

/// The highest price, in the currency: what 2^64 of anything costs at it fits.
const HIGHEST: u32 = 10_000;

/// One of the currency, in the units of amounts.
const ONE: u128 = 1_000_000_000_000_000_000;

/// A price: a decimal number, not negative, of at most nine places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Price {
    nanos: u64,
}

impl TryFrom<f64> for Price {
    type Error = String;

    fn try_from(price: f64) -> Result<Self, String> {
        if !(0.0..=f64::from(HIGHEST)).contains(&price) {
            return Err(format!("a price is from 0 to {HIGHEST}, not {price}"));
        }
        // The shortest digits that give this number are those that were written.
        let text = price.abs().to_string();
        let (whole, places) = text.split_once('.').unwrap_or((&text, ""));
        let nanos = format!("{whole}{places:0<9}");
        match nanos.parse() {
            Ok(nanos) if places.len() <= 9 => Ok(Self { nanos }),
            _ => Err(format!(
                "a price has at most 9 places, not as many as {price}"
            )),
        }
    }
}

/// What a provider charges, in its currency. A file of it is JSON; optional
/// fields that are not there cost nothing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PriceList {
    /// What the amounts are in, such as USD: only told.
    pub currency: String,
    /// Anything: where the prices are from, and from when. Optional.
    #[serde(default)]
    pub note: String,
    /// For 1000 puts, parts, beginnings and ends of uploads, lists, copies.
    pub per_1000_writes: Price,
    /// For 1000 gets and heads.
    pub per_1000_reads: Price,
    /// For 1000 deletions. Optional.
    #[serde(default)]
    pub per_1000_deletes: Price,
    /// For each gigabyte sent to the store. Optional.
    #[serde(default)]
    pub per_gb_sent: Price,
    /// For each gigabyte that the store gives out. Optional.
    #[serde(default)]
    pub per_gb_received: Price,
    /// For each gigabyte stored for a month.
    pub per_gb_month: Price,
    /// How many bytes a gigabyte has: 1000000000 if not said, or 1073741824.
    #[serde(default)]
    pub gigabyte: Gigabyte,
}

/// How many bytes a gigabyte has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub enum Gigabyte {
    /// 10^9.
    #[default]
    Decimal,
    /// 2^30.
    Binary,
}

impl Gigabyte {
    fn bytes(self) -> u128 {
        match self {
            Self::Decimal => 1_000_000_000,
            Self::Binary => 1 << 30,
        }
    }
}

impl TryFrom<u64> for Gigabyte {
    type Error = String;

    fn try_from(bytes: u64) -> Result<Self, String> {
        [Self::Decimal, Self::Binary]
            .into_iter()
            .find(|gigabyte| gigabyte.bytes() == u128::from(bytes))
            .ok_or_else(|| format!("a gigabyte has 1000000000 or 1073741824 bytes, not {bytes}"))
    }
}

impl PriceList {
    /// Reads a price list from the text of a file.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](backstop_core::ErrorKind::InvalidInput) if it
    /// is no JSON, has an unknown field, lacks one that is needed, or has a price
    /// that is none; it tells where.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Error::invalid_input(format!("the price list is wrong: {error}")))
    }

    /// What requests cost, and the bytes that they moved.
    pub fn of_requests(&self, requests: &Requests) -> Amount {
        [
            per_thousand(requests.writes(), self.per_1000_writes),
            per_thousand(requests.reads(), self.per_1000_reads),
            per_thousand(requests.deletes, self.per_1000_deletes),
            self.per_gigabyte(requests.bytes_sent, self.per_gb_sent),
            self.per_gigabyte(requests.bytes_received, self.per_gb_received),
        ]
        .into_iter()
        .sum()
    }

    /// What it costs to store so much for a month.
    pub fn of_stored(&self, bytes: ByteCount) -> Amount {
        self.per_gigabyte(bytes.0, self.per_gb_month)
    }

    fn per_gigabyte(&self, bytes: u64, price: Price) -> Amount {
        let gigabyte = self.gigabyte.bytes();
        let nanos = u128::from(bytes) * u128::from(price.nanos);
        let (whole, rest) = (nanos / gigabyte, nanos % gigabyte);
        let nano = ONE / u128::from(NANOS);
        Amount(whole * nano + (rest * nano + gigabyte / 2) / gigabyte)
    }
}

fn per_thousand(count: u64, price: Price) -> Amount {
    let nano = ONE / u128::from(NANOS);
    Amount(u128::from(count) * u128::from(price.nanos) * (nano / 1000))
}

/// An amount of money, in a price list's currency.
///
/// Shown with six places, or as many as the format asks for, at most 18; rounded
/// to the nearest, halves up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(u128);

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        let mut sum = Self::default();
        for amount in amounts {
            sum += amount;
        }
        sum
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = f.precision().unwrap_or(6).min(18);
        let one = 10_u128.pow(u32::try_from(places).unwrap_or(18));
        let unit = ONE / one;
        let is_up = unit > 1 && self.0 % unit >= unit / 2;
        let rounded = self.0 / unit + u128::from(is_up);
        let (whole, part) = (rounded / one, rounded % one);
        if places == 0 {
            write!(f, "{whole}")
        } else {
            write!(f, "{whole}.{part:0places$}")
        }
    }
}

impl Serialize for Amount {
    /// As a decimal number with six places, in a string: no reader makes a
    /// binary fraction of it.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
