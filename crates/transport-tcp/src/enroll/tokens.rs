//! The tokens that were given out and not used, each a file named by the BLAKE3
//! digest of its secret. Renaming that file decides who uses it. What adds and
//! forgets them holds the roster's lock.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstop_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use super::durable;
use super::token::JoinToken;
use crate::tls::Role;

/// The version of a token's file.
const VERSION: u32 = 0;

/// How long is remembered that a token was used or has expired.
const REMEMBERED: Duration = Duration::from_hours(30 * 24);

/// The longest file, in bytes.
const LENGTH_MAX: u64 = 4 << 10;

const OPEN: &str = "json";
const USED: &str = "used";

/// Whom a token enrolls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Invitation {
    version: u32,
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) expires: Timestamp,
}

impl Invitation {
    pub(super) fn new(name: &str, role: Role, expires: Timestamp) -> Self {
        Self {
            version: VERSION,
            name: name.to_owned(),
            role,
            expires,
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let text = durable::read(path, LENGTH_MAX)?;
        let read: Self = serde_json::from_str(&text).map_err(|error| {
            Error::corrupt(format!("{} is damaged", path.display())).with_source(error)
        })?;
        if read.version != VERSION {
            let sentence = format!(
                "{} is of version {}; update Backstop to use it",
                path.display(),
                read.version
            );
            return Err(Error::new(ErrorKind::Unsupported, sentence));
        }
        Ok(read)
    }
}

/// The folder with the tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    folder: PathBuf,
}

impl Tokens {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn file(&self, secret: &[u8; JoinToken::SECRET_LENGTH], state: &str) -> PathBuf {
        let digest = blake3::hash(secret);
        self.folder.join(format!("{digest}.{state}"))
    }

    /// Remembers a token, durably, and forgets those of long ago.
    pub(super) fn add(
        &self,
        secret: &[u8; JoinToken::SECRET_LENGTH],
        invitation: &Invitation,
        now: Timestamp,
    ) -> Result<()> {
        self.forget(|other, _| now.since(other.expires) > REMEMBERED)?;
        let text = serde_json::to_vec(invitation).map_err(|error| {
            Error::internal("a token's file can't be encoded").with_source(error)
        })?;
        durable::write(&self.file(secret, OPEN), &text)
    }

    /// Whom a token enrolls that can still be used.
    pub(super) fn look(
        &self,
        secret: &[u8; JoinToken::SECRET_LENGTH],
        now: Timestamp,
    ) -> Result<Invitation> {
        let invitation = match Invitation::read(&self.file(secret, OPEN)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.refusal(secret)),
            read => read?,
        };
        if now >= invitation.expires {
            return Err(refused(&format!(
                "this token has expired at {}",
                invitation.expires
            )));
        }
        Ok(invitation)
    }

    /// Uses a token up, durably. Of several who do, one succeeds.
    pub(super) fn redeem(&self, secret: &[u8; JoinToken::SECRET_LENGTH]) -> Result<()> {
        let (open, used) = (self.file(secret, OPEN), self.file(secret, USED));
        match fs::rename(&open, used) {
            Err(error) if error.kind() == Io::NotFound => Err(self.refusal(secret)),
            Err(error) => Err(durable::failed("used", &open, error)),
            Ok(()) => durable::sync_folder(&self.folder),
        }
    }

    /// Takes back all tokens of a name that were not used; gives how many.
    pub(super) fn withdraw(&self, name: &str, role: Role) -> Result<usize> {
        self.forget(|other, is_open| is_open && other.name == name && other.role == role)
    }

    fn refusal(&self, secret: &[u8; JoinToken::SECRET_LENGTH]) -> Error {
        if self.file(secret, USED).exists() {
            return refused("this token was used already");
        }
        refused("this token is not known here: it was withdrawn, or it is another server's")
    }

    /// Deletes what is to be forgotten; gives how many.
    fn forget(&self, is_past: impl Fn(&Invitation, bool) -> bool) -> Result<usize> {
        let failed = |error| durable::failed("read", &self.folder, error);
        let mut forgotten = 0;
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let state = path.extension().and_then(OsStr::to_str);
            if !state.is_some_and(|state| [OPEN, USED].contains(&state)) {
                continue;
            }
            let invitation = match Invitation::read(&path) {
                Ok(invitation) => invitation,
                Err(error) => {
                    // Nobody can use it either.
                    tracing::warn!(%error, "a token is passed over");
                    continue;
                }
            };
            if is_past(&invitation, state == Some(OPEN)) {
                let removed = fs::remove_file(&path);
                removed.map_err(|error| durable::failed("deleted", &path, error))?;
                forgotten += 1;
            }
        }
        if forgotten > 0 {
            durable::sync_folder(&self.folder)?;
        }
        Ok(forgotten)
    }
}

fn refused(why: &str) -> Error {
    Error::new(
        ErrorKind::Forbidden,
        format!("{why}; have a new one made by `Roster::token`"),
    )
}
