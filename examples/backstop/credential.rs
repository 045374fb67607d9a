//! What opens the vault: a passphrase or a raw key, from a file or the
//! environment, a recovery key, or a program that keeps keys.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use backstop::{Credential, Error, ErrorKind, OperatorKey, RecoveryKey, Result};
use zeroize::Zeroizing;

use crate::arguments::{NewKey, VaultArguments};
use crate::key_command::CommandKeys;

const PASSPHRASE: &str = "BACKSTOP_PASSPHRASE";

/// Longer files hold neither a passphrase nor a key.
const LONGEST_FILE: usize = 4096;

/// Reads the credential that the arguments name. A file goes before the
/// environment; without either, the vault is one that is not encrypted.
pub fn credential(arguments: &VaultArguments) -> Result<Credential> {
    if let Some(path) = &arguments.recovery_key_file {
        return recovery_key(path);
    }
    if let Some(command) = &arguments.key_command {
        return Ok(Credential::provider(CommandKeys::new(command)?));
    }
    credential_of(
        arguments.key_file.as_deref(),
        arguments.passphrase_file.as_deref(),
        PASSPHRASE,
    )
}

/// The same of a key file, a passphrase file, or a variable.
pub fn credential_of(
    key_file: Option<&Path>,
    passphrase_file: Option<&Path>,
    variable: &str,
) -> Result<Credential> {
    if let Some(path) = key_file {
        return key(path, &read(path)?);
    }
    if let Some(path) = passphrase_file {
        return passphrase(path);
    }
    match std::env::var(variable) {
        Ok(passphrase) => {
            Credential::passphrase(passphrase).map_err(|error| error.within(variable))
        }
        Err(std::env::VarError::NotPresent) => Ok(Credential::None),
        Err(error) => Err(Error::invalid_input(format!("{variable}: {error}"))),
    }
}

/// Reads a new passphrase or key, or makes a recovery key, which is given too.
pub fn new_credential(new: &NewKey) -> Result<(Credential, Option<RecoveryKey>)> {
    if new.recovery {
        let key = RecoveryKey::generate()?;
        return Ok((Credential::Recovery(key.clone()), Some(key)));
    }
    let credential = match (
        &new.new_key_file,
        &new.new_passphrase_file,
        &new.new_key_command,
    ) {
        (Some(path), _, _) => key(path, &read(path)?)?,
        (_, Some(path), _) => passphrase(path)?,
        (_, _, Some(command)) => Credential::provider(CommandKeys::new(command)?),
        _ => return Err(Error::invalid_input("no new passphrase or key was given")),
    };
    Ok((credential, None))
}

fn recovery_key(path: &Path) -> Result<Credential> {
    let bytes = read(path)?;
    let not_text = |_| Error::invalid_input(format!("{} is not a text in UTF-8", path.display()));
    let text = std::str::from_utf8(&bytes).map_err(not_text)?;
    let first = text.lines().next().unwrap_or_default();
    let key: Result<RecoveryKey> = first.parse();
    key.map(Credential::Recovery)
        .map_err(|error| error.within(path.display()))
}

fn passphrase(path: &Path) -> Result<Credential> {
    let bytes = read(path)?;
    let not_text = |_| Error::invalid_input(format!("{} is not a text in UTF-8", path.display()));
    let text = std::str::from_utf8(&bytes).map_err(not_text)?;
    let first = text.lines().next().unwrap_or_default();
    Credential::passphrase(first).map_err(|error| error.within(path.display()))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::InvalidInput,
        };
        Error::new(kind, format!("{} can't be read", path.display())).with_source(error)
    };
    // Room for all of it: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * LONGEST_FILE));
    let file = File::open(path).map_err(failed)?;
    file.take(LONGEST_FILE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > LONGEST_FILE {
        return Err(Error::invalid_input(format!(
            "{} is longer than {LONGEST_FILE} bytes: it holds neither a passphrase nor a key",
            path.display()
        )));
    }
    Ok(bytes)
}

/// Reads an operator's key.
pub fn operator_key(path: &Path) -> Result<OperatorKey> {
    Ok(OperatorKey::from_bytes(*raw_key(path, &read(path)?)?))
}

fn key(path: &Path, bytes: &[u8]) -> Result<Credential> {
    Ok(Credential::key(*raw_key(path, bytes)?))
}

fn raw_key(path: &Path, bytes: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    if let Ok(key) = <[u8; 32]>::try_from(bytes) {
        return Ok(Zeroizing::new(key));
    }
    let refuse = || {
        Error::invalid_input(format!(
            "{} is no key file: it must hold 32 bytes or 64 hexadecimal digits",
            path.display()
        ))
    };
    let digits = bytes.trim_ascii();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(refuse());
    }
    let mut key = Zeroizing::new([0; 32]);
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| refuse())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| refuse())?;
    }
    Ok(key)
}
