//! Who was enrolled, kept in a folder, and what is taken back at once.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backstop_core::{ChunkDigest, Clock, Error, ErrorKind, Result, SourceName};

use super::accept::{Joined, Joins};
use super::ask::Enrolled;
use super::authority::{CertificateAuthority, Issued};
use super::durable;
use super::names;
use super::roster_file::{Enrolment, Entries, IssuedCertificate, Read};
use super::token::JoinToken;
use super::tokens::{Invitation, Tokens};
use crate::gate::{Gate, OwnSources};
use crate::tls::{Peer, Role, TlsAuthority, TlsIdentity};

const AUTHORITY: &str = "authority.pem";
const AUTHORITY_KEY: &str = "authority.key";
const SERVER: &str = "server.pem";
const ENTRIES: &str = "roster.json";
const TOKENS: &str = "tokens";
const LOCK: &str = "lock";

/// The longest file of certificates and keys, in bytes.
const PEM_MAX: u64 = 1 << 20;

/// How long a token may be good for.
const LIFETIME_MAX: Duration = Duration::from_hours(366 * 24);

/// How long certificates are valid unless said otherwise, in days. What is to end
/// earlier is revoked, which works at once.
const DAYS: u32 = 3650;

/// A folder that keeps an authority, the server's certificate, the tokens that
/// were given out, and who was enrolled.
///
/// As a [`Gate`] it refuses certificates that are not on the roster, were revoked
/// or have expired, and asks another gate, by default [`OwnSources`], about the
/// rest. As [`Joins`] it enrolls who has a token. Cheap to clone.
///
/// Any number of processes may use a folder at once; what one of them changes,
/// the others go by from their next call on. All that changes it is durable
/// when it returns, and all or nothing but where said otherwise. These calls
/// block for a few writes, or while another process makes its own.
///
/// The folder and its files can be read by their owner alone: whoever can read
/// them can make certificates.
#[derive(Clone)]
pub struct Roster {
    folder: Arc<Folder>,
    gate: Arc<dyn Gate>,
    days: u32,
}

struct Folder {
    path: PathBuf,
    authority: CertificateAuthority,
    tokens: Tokens,
    clock: Arc<dyn Clock>,
    read: Mutex<Arc<Read>>,
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster")
            .field("folder", &self.folder.path)
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}

impl Roster {
    /// Makes a folder, or takes an empty one, with a new authority and a
    /// certificate for the server. One whose making was cut short is made anew.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) if there is a roster in it;
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there is something else.
    pub fn create(folder: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = folder.as_ref();
        refuse_others(path)?;
        durable::make_folder(path)?;
        let lock = durable::lock(&path.join(LOCK))?;
        if path.join(ENTRIES).exists() {
            return Err(Error::already_exists(format!(
                "{} has a roster already",
                path.display()
            )));
        }
        let authority = CertificateAuthority::create("Backstop", Arc::clone(&clock))?;
        durable::write(&path.join(AUTHORITY_KEY), authority.key_pem().as_bytes())?;
        durable::write(
            &path.join(AUTHORITY),
            authority.certificate_pem().as_bytes(),
        )?;
        write_server(path, &authority, DAYS)?;
        durable::make_folder(&path.join(TOKENS))?;
        // What makes it one comes last.
        Entries::default().write(&path.join(ENTRIES))?;
        drop(lock);
        Self::open(path, clock)
    }

    /// Opens the folder of a roster that was made.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is none,
    /// [`Corrupt`](ErrorKind::Corrupt) if it is damaged,
    /// [`Unsupported`](ErrorKind::Unsupported) if a later version has written it.
    pub fn open(folder: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = folder.as_ref();
        let read = Read::of(&path.join(ENTRIES)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::not_found(format!(
                "{} has no roster; make one by `Roster::create`",
                path.display()
            )),
            _ => error,
        })?;
        let authority = CertificateAuthority::from_pem(
            &durable::read(&path.join(AUTHORITY), PEM_MAX)?,
            &durable::read(&path.join(AUTHORITY_KEY), PEM_MAX)?,
            Arc::clone(&clock),
        );
        let folder = Folder {
            path: path.to_owned(),
            authority: authority.map_err(|error| error.within(path.display()))?,
            tokens: Tokens::new(path.join(TOKENS)),
            clock,
            read: Mutex::new(Arc::new(read)),
        };
        Ok(Self {
            folder: Arc::new(folder),
            gate: Arc::new(OwnSources),
            days: DAYS,
        })
    }

    /// Decides otherwise than [`OwnSources`] what those may do who are on the
    /// roster.
    #[must_use]
    pub fn with_gate(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gate = gate;
        self
    }

    /// Has certificates be valid for so many days instead of 3650.
    #[must_use]
    pub fn with_certificate_days(mut self, days: u32) -> Self {
        self.days = days;
        self
    }

    /// The certificate that a server shows, for
    /// [`TcpServer::builder`](crate::TcpServer::builder).
    pub fn identity(&self) -> Result<TlsIdentity> {
        let path = self.folder.path.join(SERVER);
        let pem = durable::read(&path, PEM_MAX)?;
        let identity = TlsIdentity::from_pem(pem.as_bytes(), pem.as_bytes());
        identity.map_err(|error| error.within(path.display()))
    }

    /// Whose signature a server trusts.
    pub fn authority(&self) -> Result<TlsAuthority> {
        TlsAuthority::from_pem(self.folder.authority.certificate_pem().as_bytes())
    }

    /// Makes the server a new certificate with a new key, in one step. A server
    /// that runs shows it when it was told to
    /// [reload](crate::TcpServerHandle::reload) its [`identity`](Self::identity).
    pub fn renew_server(&self) -> Result<()> {
        let _lock = self.folder.lock()?;
        write_server(&self.folder.path, &self.folder.authority, self.days)
    }

    /// Makes a token that lets its holder join once, within `lifetime` (at most
    /// 366 days), as this agent or operator. The folder keeps no more of it than
    /// can recognize it.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for what is no name, or a lifetime
    /// that is none or too long.
    pub fn token(&self, name: &str, role: Role, lifetime: Duration) -> Result<JoinToken> {
        names::check(name)?;
        if lifetime.is_zero() || lifetime > LIFETIME_MAX {
            return Err(Error::invalid_input(
                "a token is good for some time, and for 366 days at most",
            ));
        }
        let folder = &self.folder;
        let token = JoinToken::generate(&folder.authority)?;
        let _lock = folder.lock()?;
        let now = folder.clock.now();
        let invitation = Invitation::new(name, role, now.after(lifetime));
        folder.tokens.add(token.secret(), &invitation, now)?;
        Ok(token)
    }

    /// Enrolls the holder of a token's secret by a request (PKCS#10, in PEM) of
    /// which only the key is believed. A token is used up by this exactly once:
    /// of several who have it, one is enrolled. It is used up too if what follows
    /// fails, as on a full disk; a request that is refused leaves it as it is.
    ///
    /// # Errors
    /// [`Forbidden`](ErrorKind::Forbidden) if the token was used, has expired, was
    /// withdrawn or is not known; [`InvalidInput`](ErrorKind::InvalidInput) for
    /// what is no request.
    pub fn join(
        &self,
        secret: &[u8; JoinToken::SECRET_LENGTH],
        request_pem: &str,
    ) -> Result<Joined> {
        let folder = &self.folder;
        // Who has no token waits for nobody.
        folder.tokens.look(secret, folder.clock.now())?;
        let _lock = folder.lock()?;
        let Invitation { name, role, .. } = folder.tokens.look(secret, folder.clock.now())?;
        let authority = &folder.authority;
        let issued = authority.client_by_request(request_pem, &name, role, self.days)?;
        folder.tokens.redeem(secret)?;
        self.add(&name, role, &issued)?;
        tracing::info!(name, %role, "enrolled");
        Ok(Joined {
            certificate_pem: issued.certificate_pem,
            authority_pem: authority.certificate_pem().to_owned(),
        })
    }

    /// Enrolls an agent or operator without a token, with a key that is made
    /// here: for who stands beside the server.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for what is no name.
    pub fn enroll(&self, name: &str, role: Role) -> Result<Enrolled> {
        let _lock = self.folder.lock()?;
        let authority = &self.folder.authority;
        let (issued, key_pem) = authority.client(name, role, self.days)?;
        self.add(name, role, &issued)?;
        Ok(Enrolled {
            name: name.to_owned(),
            role,
            certificate_pem: issued.certificate_pem,
            key_pem,
            authority_pem: authority.certificate_pem().to_owned(),
        })
    }

    /// Takes everything back that this name was given in this role: certificates
    /// are refused from the next call on, tokens that were not used are
    /// withdrawn. A token that is made later enrolls it anew. If this fails half
    /// way, certificates are revoked and tokens may not be withdrawn; repeat it.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if it has neither.
    pub fn revoke(&self, name: &str, role: Role) -> Result<()> {
        let folder = &self.folder;
        let _lock = folder.lock()?;
        let path = folder.path.join(ENTRIES);
        let mut entries = Read::of(&path)?.entries;
        let known = entries.find(name, role);
        let is_enrolled = known.is_some();
        if let Some(known) = known {
            let now = folder.clock.now();
            for certificate in &mut known.certificates {
                certificate.revoked.get_or_insert(now);
            }
            entries.write(&path)?;
        }
        let withdrawn = folder.tokens.withdraw(name, role)?;
        if is_enrolled || withdrawn > 0 {
            return Ok(());
        }
        Err(Error::not_found(format!("there is no {role} {name}")))
    }

    /// Who was enrolled, in the order in which they were first, with all
    /// certificates, those that were revoked or have expired too.
    pub fn enrolled(&self) -> Result<Vec<Enrolment>> {
        Ok(self.folder.read()?.entries.enrolled.clone())
    }

    /// Puts a certificate on the roster, under the lock.
    fn add(&self, name: &str, role: Role, issued: &Issued) -> Result<()> {
        let path = self.folder.path.join(ENTRIES);
        let mut entries = Read::of(&path)?.entries;
        let certificate = IssuedCertificate {
            fingerprint: ChunkDigest::of(&issued.der),
            not_after: issued.not_after,
            revoked: None,
        };
        entries.add(name, role, certificate);
        entries.write(&path)
    }

    fn check(&self, peer: &Peer) -> Result<()> {
        let refused = |why: &str| {
            let sentence = format!("the certificate of {peer} {why}");
            Err(Error::new(ErrorKind::Forbidden, sentence))
        };
        let read = self.folder.read().map_err(|error| {
            tracing::error!(%error, "the roster can't be read: everybody is refused");
            Error::unavailable("the roster can't be read; have the protection server looked after")
        })?;
        let Some((who, certificate)) = read.certificate(&peer.certificate) else {
            return refused("is not on the roster; have it enrolled");
        };
        if who.name != peer.name || who.role != peer.role {
            return refused("is on the roster under another name");
        }
        if certificate.revoked.is_some() {
            return refused("was revoked; have it enrolled anew");
        }
        if self.folder.clock.now() > certificate.not_after {
            return refused("has expired; have it enrolled anew");
        }
        Ok(())
    }
}

impl Folder {
    /// Keeps out who else would change the folder.
    fn lock(&self) -> Result<fs::File> {
        durable::lock(&self.path.join(LOCK))
    }

    /// The roster as it is now.
    fn read(&self) -> Result<Arc<Read>> {
        let path = self.path.join(ENTRIES);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if !read.is_current(&path)? {
            *read = Arc::new(Read::of(&path)?);
        }
        Ok(Arc::clone(&read))
    }
}

impl Gate for Roster {
    fn may_connect(&self, peer: &Peer) -> Result<()> {
        self.check(peer)?;
        self.gate.may_connect(peer)
    }

    fn may_protect(&self, peer: &Peer, source: &SourceName) -> Result<()> {
        self.check(peer)?;
        self.gate.may_protect(peer, source)
    }

    fn may_recover(&self, peer: &Peer, source: &SourceName) -> Result<()> {
        self.check(peer)?;
        self.gate.may_recover(peer, source)
    }

    fn may_operate(&self, peer: &Peer) -> Result<()> {
        self.check(peer)?;
        self.gate.may_operate(peer)
    }

    fn weight(&self, peer: &Peer) -> NonZeroU32 {
        self.gate.weight(peer)
    }
}

#[async_trait]
impl Joins for Roster {
    async fn join(
        &self,
        secret: &[u8; JoinToken::SECRET_LENGTH],
        request_pem: &str,
    ) -> Result<Joined> {
        let (roster, secret, request) = (self.clone(), *secret, request_pem.to_owned());
        let joining = tokio::task::spawn_blocking(move || Self::join(&roster, &secret, &request));
        joining
            .await
            .map_err(|error| Error::internal("joining has failed").with_source(error))?
    }
}

/// A server's certificate and key in one file, so that they are replaced in one
/// step.
fn write_server(folder: &Path, authority: &CertificateAuthority, days: u32) -> Result<()> {
    let (issued, key) = authority.server(days)?;
    let pem = issued.certificate_pem + &key;
    durable::write(&folder.join(SERVER), pem.as_bytes())
}

/// A folder with something of others' is not made one that only we may enter.
fn refuse_others(path: &Path) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| durable::failed("read", path, error))?,
    };
    let ours = [AUTHORITY, AUTHORITY_KEY, SERVER, ENTRIES, TOKENS, LOCK];
    let ours: HashSet<String> = ours
        .iter()
        .flat_map(|name| [(*name).to_owned(), format!("{name}{}", durable::ASIDE)])
        .collect();
    for entry in entries {
        let entry = entry.map_err(|error| durable::failed("read", path, error))?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| ours.contains(name)) {
            return Err(Error::invalid_input(format!(
                "{} holds {} already; give the roster a folder of its own",
                path.display(),
                name.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
