//! How a vault begins: `vault.json`, the object that says what it is. It is
//! written once, at the vault's birth.

use backstop_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::seal::{self, Base};

/// The stored format that this version reads and writes.
pub(crate) const FORMAT: u32 = 0;

const MAGIC: &str = "backstop vault";

/// The object `vault.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VaultHeader {
    pub(crate) magic: String,
    pub(crate) format: u32,
    /// 128 random bits: the vault's identity.
    pub(crate) id: String,
    pub(crate) created: Timestamp,
    /// Whether the vault's secrets are.
    pub(crate) encrypted: bool,
    /// Which catalog counts: each rebuild makes a new one.
    pub(crate) catalog: u32,
    /// An HMAC of all the rest: shows that a base is this vault's, and that
    /// nobody who lacks it wrote the header.
    check: String,
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

pub(crate) fn from_hex(what: &str, text: &str) -> Result<Zeroizing<Vec<u8>>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Error::corrupt(format!(
            "{what} is damaged: it is not hexadecimal"
        )));
    }
    let byte = |pair: &[u8]| {
        std::str::from_utf8(pair)
            .ok()
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    Ok(Zeroizing::new(pairs.filter_map(byte).collect()))
}

pub(crate) fn newer(what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("{what} was written by a newer version of Backstop; open it with that version"),
    )
}

pub(crate) fn encoded(what: &str, object: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(object)
        .map_err(|error| Error::internal(format!("{what} can't be encoded")).with_source(error))
}

impl VaultHeader {
    pub(crate) fn create(created: Timestamp, encrypted: bool, base: &Base) -> Result<Self> {
        let mut header = Self {
            magic: MAGIC.into(),
            format: FORMAT,
            id: to_hex(&seal::random::<16>()?),
            created,
            encrypted,
            catalog: 0,
            check: String::new(),
        };
        header.check = header.tag(base);
        Ok(header)
    }

    /// The same vault with another catalog.
    pub(crate) fn with_catalog(&self, catalog: u32, base: &Base) -> Self {
        let mut header = self.clone();
        header.catalog = catalog;
        header.check = header.tag(base);
        header
    }

    fn tag(&self, base: &Base) -> String {
        let kind = if self.encrypted { "encrypted" } else { "open" };
        let all = format!(
            "{} {} {} {kind} {}",
            self.id, self.format, self.created.0, self.catalog
        );
        to_hex(&base.header_tag(all.as_bytes()))
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        encoded("vault.json", self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        // A newer format may have other fields, so its number is read first.
        #[derive(Deserialize)]
        struct Start {
            magic: String,
            format: u32,
        }
        let foreign = |error| Error::corrupt("vault.json is not a vault's").with_source(error);
        let start: Start = serde_json::from_slice(bytes).map_err(foreign)?;
        if start.magic != MAGIC {
            return Err(Error::corrupt(
                "vault.json is not a vault's: its magic is another",
            ));
        }
        if start.format > FORMAT {
            return Err(newer(&format!("the vault (format {})", start.format)));
        }
        serde_json::from_slice(bytes).map_err(foreign)
    }

    /// Whether a base is this vault's.
    pub(crate) fn accepts(&self, base: &Base) -> bool {
        self.tag(base) == self.check
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Secret;

    #[test]
    fn the_header_knows_its_key_and_refuses_the_future() {
        let base = || Base::new(Secret::generate().unwrap()).unwrap();
        let (base, other) = (base(), base());
        let header = VaultHeader::create(Timestamp(5), true, &base).unwrap();
        let bytes = serde_json::to_vec(&header).unwrap();
        let header = VaultHeader::decode(&bytes).unwrap();
        assert!(header.accepts(&base));
        assert!(!header.accepts(&other));
        let (mut open, mut later) = (header.clone(), header.clone());
        let mut rebuilt = header.clone();
        open.encrypted = false;
        later.created = Timestamp(6);
        rebuilt.catalog = 1;
        for forged in [&open, &later, &rebuilt] {
            assert!(!forged.accepts(&base));
        }
        assert!(header.with_catalog(1, &base).accepts(&base));
        let newer = br#"{"magic":"backstop vault","format":9,"surprise":[]}"#;
        assert_eq!(
            VaultHeader::decode(newer).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        for bad in [&b""[..], b"{}", b"[1]", br#"{"magic":"x","format":0}"#] {
            assert_eq!(
                VaultHeader::decode(bad).unwrap_err().kind(),
                ErrorKind::Corrupt
            );
        }
    }
}
