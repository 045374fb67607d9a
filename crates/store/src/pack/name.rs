//! What packs are called and what they hold.

use std::fmt;

use backstop_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::seal;

/// What a pack holds. Maps and records live apart from data: they are small,
/// read often, and all that a rebuild has to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PackKind {
    /// Chunks of images and documents.
    Data,
    /// Map nodes, manifests and point records.
    Map,
}

impl PackKind {
    /// The code in a pack's header.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Map => 2,
        }
    }

    /// How a pack's name ends.
    fn suffix(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Map => "map",
        }
    }
}

/// A pack's name: the epoch of the owner that wrote it, then 128 bits from the
/// operating system's generator, never from a seeded one, since the pack's key
/// is derived from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct PackName {
    pub(crate) epoch: u64,
    random: [u8; 16],
}

impl PackName {
    pub(crate) fn generate(epoch: u64) -> Result<Self> {
        Ok(Self {
            epoch,
            random: seal::random()?,
        })
    }

    /// The bytes that the pack's key is derived from.
    pub(crate) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[8..].copy_from_slice(&self.random);
        bytes
    }

    /// The inverse of [`Self::to_bytes`]; packs are only written so far.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn from_bytes(bytes: [u8; 24]) -> Self {
        let (mut epoch, mut random) = ([0; 8], [0; 16]);
        epoch.copy_from_slice(&bytes[..8]);
        random.copy_from_slice(&bytes[8..]);
        Self {
            epoch: u64::from_be_bytes(epoch),
            random,
        }
    }

    /// The pack of a file's name, if it is a complete one's.
    pub(crate) fn parse_file(file: &str) -> Option<(Self, PackKind)> {
        let (name, suffix) = file.split_once('.')?;
        let kind = [PackKind::Data, PackKind::Map]
            .into_iter()
            .find(|kind| kind.suffix() == suffix)?;
        Some((Self::try_from(name.to_owned()).ok()?, kind))
    }

    /// The object's path under the vault's prefix.
    pub(crate) fn path(self, kind: PackKind) -> String {
        format!("packs/{self}.{}", kind.suffix())
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:016x}-{:032x}",
            self.epoch,
            u128::from_be_bytes(self.random)
        )
    }
}

impl fmt::Debug for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackName({self})")
    }
}

impl TryFrom<String> for PackName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        let hex = |part: &str, digits: usize| {
            let all = part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
            u128::from_str_radix(part, 16).ok().filter(|_| all)
        };
        text.split_once('-')
            .and_then(|(epoch, random)| {
                let epoch = u64::try_from(hex(epoch, 16)?).ok()?;
                Some(Self {
                    epoch,
                    random: hex(random, 32)?.to_be_bytes(),
                })
            })
            .ok_or_else(|| Error::corrupt(format!("{text:?} is not a pack's name")))
    }
}

impl From<PackName> for String {
    fn from(name: PackName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let name = PackName::generate(77).unwrap();
        assert_eq!(PackName::from_bytes(name.to_bytes()), name);
        let text = String::from(name);
        assert_eq!(PackName::try_from(text.clone()).unwrap(), name);
        assert!(name.path(PackKind::Map).ends_with(&format!("{text}.map")));
        for bad in ["", "x", "1-2", &format!("{text}0"), &text.replace('-', "_")] {
            assert!(PackName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
