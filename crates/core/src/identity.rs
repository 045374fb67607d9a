//! Names and identifiers: what a caller chooses is checked, what the system
//! makes is 128 random bits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The longest name of a source or stream, in bytes.
const MAX_NAME_LENGTH: usize = 255;

fn check_name(what: &str, name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME_LENGTH {
        "is longer than 255 bytes"
    } else if name.chars().any(char::is_control) {
        "contains control characters"
    } else if name.trim() != name {
        "begins or ends with white space"
    } else {
        return Ok(());
    };
    Err(Error::invalid_input(format!(
        "{what} name {name:?} {reason}"
    )))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 255 bytes of UTF-8 without control characters, and without
        /// white space at either end.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput)
            /// saying what is wrong with it.
            pub fn new(name: impl Into<String>) -> Result<Self> {
                let name = name.into();
                check_name($what, &name)?;
                Ok(Self(name))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(name: String) -> Result<Self> {
                Self::new(name)
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }
    };
}

name!(
    /// The name of a protected data source, unique in its vault.
    SourceName, "source"
);
name!(
    /// The name of one image inside a recovery point: a machine with four
    /// disks is one source with four streams.
    StreamName, "stream"
);

impl StreamName {
    /// The stream of a source that is one image: `disk`.
    pub fn disk() -> Self {
        Self("disk".into())
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// Shown and parsed as 32 hexadecimal digits.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type([u8; 16]);

        impl $type {
            /// The identifier with these bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($type))
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                match u128::from_str_radix(text, 16) {
                    Ok(value) if digits => Ok(Self(value.to_be_bytes())),
                    _ => Err(Error::invalid_input(format!(
                        "{text:?} is not {} (32 hexadecimal digits)", $what
                    ))),
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> Self {
                id.to_string()
            }
        }
    };
}

identifier!(
    /// Identifies a recovery point. The identity travels with the point when
    /// it is copied to another vault.
    PointId, "a recovery point's id"
);
identifier!(
    /// Identifies a synchronization; committing the same one again gives the
    /// same recovery point.
    SynchronizationId, "a synchronization's id"
);
identifier!(
    /// Identifies the snapshot that a synchronization reads. Two snapshots
    /// with the same id hold the same bytes.
    SnapshotId, "a snapshot's id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for bad in ["", " a", "a\n", "a\0b", &"x".repeat(256)] {
            assert!(SourceName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["vm", "web server/1", "größe", &"x".repeat(255)] {
            assert_eq!(SourceName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn identifiers_round_trip_as_text() {
        let id = PointId::from_bytes([7; 16]);
        assert_eq!(id.to_string().parse::<PointId>().unwrap(), id);
        for bad in [
            "",
            "7",
            "+7070707070707070707070707070707",
            "zz070707070707070707070707070707",
        ] {
            assert!(bad.parse::<PointId>().is_err(), "{bad}");
        }
    }
}
