//! The roster as it is kept: who was enrolled, with which certificates, in JSON.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use backstop_core::{ChunkDigest, Error, ErrorKind, Result, Timestamp};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::durable;
use crate::tls::Role;

/// The version of the file.
const VERSION: u32 = 0;

/// The longest file, in bytes: some 500,000 certificates.
const LENGTH_MAX: u64 = 64 << 20;

/// Who was enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Enrolment {
    /// Its name.
    pub name: String,
    /// What it may be.
    pub role: Role,
    /// All certificates that it was given, the oldest first.
    pub certificates: Vec<IssuedCertificate>,
}

/// A certificate that somebody was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IssuedCertificate {
    /// The SHA-256 of the certificate in DER.
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    pub fingerprint: ChunkDigest,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// When it was revoked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

fn write_digest<S: Serializer>(digest: &ChunkDigest, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(digest)
}

fn read_digest<'de, D: Deserializer<'de>>(from: D) -> Result<ChunkDigest, D::Error> {
    let text = String::deserialize(from)?;
    let bytes = HEXLOWER.decode(text.as_bytes()).ok();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(ChunkDigest::from_bytes)
        .ok_or_else(|| serde::de::Error::custom("a fingerprint has 64 hexadecimal digits"))
}

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entries {
    version: u32,
    pub(super) enrolled: Vec<Enrolment>,
}

impl Default for Entries {
    fn default() -> Self {
        Self {
            version: VERSION,
            enrolled: Vec::new(),
        }
    }
}

impl Entries {
    /// Who has this name and role.
    pub(super) fn find(&mut self, name: &str, role: Role) -> Option<&mut Enrolment> {
        let mut all = self.enrolled.iter_mut();
        all.find(|it| it.name == name && it.role == role)
    }

    pub(super) fn add(&mut self, name: &str, role: Role, certificate: IssuedCertificate) {
        if let Some(known) = self.find(name, role) {
            known.certificates.push(certificate);
            return;
        }
        self.enrolled.push(Enrolment {
            name: name.to_owned(),
            role,
            certificates: vec![certificate],
        });
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self);
        let text = text.map_err(|error| {
            Error::internal(format!("{} can't be encoded", path.display())).with_source(error)
        })?;
        durable::write(path, &text)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }

        let damaged =
            |error| Error::corrupt(format!("{} is damaged", path.display())).with_source(error);
        let Versioned { version } = serde_json::from_str(text).map_err(damaged)?;
        if version != VERSION {
            let sentence = format!(
                "{} is of version {version}; update Backstop to use it",
                path.display()
            );
            return Err(Error::new(ErrorKind::Unsupported, sentence));
        }
        serde_json::from_str(text).map_err(damaged)
    }
}

/// The roster as it was when it was read.
#[derive(Debug)]
pub(super) struct Read {
    /// Kept open: while it is, no other file gets its number.
    _open: File,
    stamp: Stamp,
    pub(super) entries: Entries,
    by_fingerprint: HashMap<ChunkDigest, (usize, usize)>,
}

/// What tells one state of the file from another. It is replaced and never
/// written over, so the number alone would do, but for who edits it by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    number: u64,
    length: u64,
    modified: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(metadata: Metadata) -> Self {
        Self {
            device: metadata.dev(),
            number: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Read {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let failed = |error| durable::failed("read", path, error);
        let file = File::open(path).map_err(failed)?;
        let stamp = file.metadata().map_err(failed)?.into();
        let text = durable::read_from(&file, path, LENGTH_MAX)?;
        let entries = Entries::parse(&text, path)?;
        let mut by_fingerprint = HashMap::new();
        for (who, enrolled) in entries.enrolled.iter().enumerate() {
            for (which, certificate) in enrolled.certificates.iter().enumerate() {
                by_fingerprint.insert(certificate.fingerprint, (who, which));
            }
        }
        Ok(Self {
            _open: file,
            stamp,
            entries,
            by_fingerprint,
        })
    }

    /// Whether the file under this path is still the one that was read.
    pub(super) fn is_current(&self, path: &Path) -> Result<bool> {
        let failed = |error| durable::failed("read", path, error);
        let now: Stamp = fs::metadata(path).map_err(failed)?.into();
        Ok(now == self.stamp)
    }

    /// Whose certificate this is.
    pub(super) fn certificate(
        &self,
        fingerprint: &ChunkDigest,
    ) -> Option<(&Enrolment, &IssuedCertificate)> {
        let (who, which) = self.by_fingerprint.get(fingerprint)?;
        let enrolled = self.entries.enrolled.get(*who)?;
        Some((enrolled, enrolled.certificates.get(*which)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate() -> impl Strategy<Value = IssuedCertificate> {
        let parts = (any::<[u8; 32]>(), any::<i64>(), any::<Option<i64>>());
        parts.prop_map(|(fingerprint, not_after, revoked)| IssuedCertificate {
            fingerprint: ChunkDigest::from_bytes(fingerprint),
            not_after: Timestamp(not_after),
            revoked: revoked.map(Timestamp),
        })
    }

    fn enrolment() -> impl Strategy<Value = Enrolment> {
        let role = prop_oneof![Just(Role::Agent), Just(Role::Operator)];
        let certificates = prop::collection::vec(certificate(), 0..4);
        ("[a-z.-]{1,20}", role, certificates).prop_map(|(name, role, certificates)| Enrolment {
            name,
            role,
            certificates,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(enrolled in prop::collection::vec(enrolment(), 0..5)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("roster.json");
            let entries = Entries { version: VERSION, enrolled };
            entries.write(&path).unwrap();
            let read = Read::of(&path).unwrap();
            prop_assert!(read.is_current(&path).unwrap());
            prop_assert_eq!(&read.entries.enrolled, &entries.enrolled);
            for enrolled in &entries.enrolled {
                for certificate in &enrolled.certificates {
                    prop_assert!(read.certificate(&certificate.fingerprint).is_some());
                }
            }
        }

        #[test]
        fn anything_else_is_damage(text in ".{0,200}") {
            let error = Entries::parse(&text, Path::new("roster.json")).unwrap_err();
            prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn another_version_is_told() {
        let text = r#"{"version": 1, "else": []}"#;
        let error = Entries::parse(text, Path::new("roster.json")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    /// Written again within the same instant, with the same length: another file.
    #[test]
    fn a_file_that_was_replaced_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roster.json");
        let mut read = Vec::new();
        for _ in 0..5 {
            Entries::default().write(&path).unwrap();
            for before in &read {
                assert!(!Read::is_current(before, &path).unwrap());
            }
            read.push(Read::of(&path).unwrap());
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read[0].is_current(&path).is_err());
    }
}
