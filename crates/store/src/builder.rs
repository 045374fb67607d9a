//! Making and opening vaults.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backstop_core::{Clock, Codecs, CpuPool, Error, ErrorKind, Result, SystemClock};

use crate::catalog::{COUNTERS, Catalog, NEXT_PACK};
use crate::dedup_store::DedupStore;
use crate::header::{Credential, KeySlot, VaultHeader};
use crate::orphans;
use crate::owner::{Ownership, Takeover};
use crate::pack::index::Index;
use crate::pack::reader::PackReader;
use crate::pack::writer::{PackWriter, PackWriterParts};
use crate::place::Place;
use crate::record::{self, Counters};
use crate::seal::{Seal, VaultKey};
use crate::settings::VaultSettings;
use crate::vault::{Vault, VaultParts};

const HEADER: &str = "vault.json";
const KEYS: &str = "keys";
pub(crate) const CATALOG: &str = "db";

/// Makes or opens a vault.
///
/// ```
/// # use backstop_store::{Credential, DedupStore};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let vault = DedupStore::at("memory://")
///     .with_credential(Credential::passphrase("correct horse")?)
///     .create()
///     .await?;
/// vault.close().await?;
/// # Ok::<(), backstop_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "a vault is made or opened by `create`, `open` or `open_read_only`"]
pub struct DedupStoreBuilder {
    place: Result<Place>,
    credential: Credential,
    settings: VaultSettings,
    clock: Arc<dyn Clock>,
    cpu: CpuPool,
    level: i32,
    takeover: Takeover,
}

impl DedupStoreBuilder {
    pub(crate) fn new(place: Result<Place>) -> Self {
        Self {
            place,
            credential: Credential::None,
            settings: VaultSettings::default(),
            clock: Arc::new(SystemClock),
            cpu: CpuPool::default(),
            level: 1,
            takeover: Takeover::Refuse,
        }
    }

    /// What opens the vault; a new vault is encrypted if this is not
    /// [`Credential::None`].
    pub fn with_credential(mut self, credential: Credential) -> Self {
        self.credential = credential;
        self
    }

    /// Settings of this opening; nothing of them is stored.
    pub fn with_settings(mut self, settings: VaultSettings) -> Self {
        self.settings = settings;
        self
    }

    /// The clock that times points and leases.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where sealing, opening and decompressing run.
    pub fn with_cpu_pool(mut self, cpu: CpuPool) -> Self {
        self.cpu = cpu;
        self
    }

    /// What to do if the vault has an owner.
    pub fn with_takeover(mut self, takeover: Takeover) -> Self {
        self.takeover = takeover;
        self
    }

    /// Makes a vault and opens it as its owner. The vault is there when this
    /// returns; after an error there is none, or an empty one.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if there is a vault;
    /// [`ErrorKind::InvalidInput`] if the place is none.
    pub async fn create(self) -> Result<DedupStore> {
        let mut place = self.place?;
        place.make()?;
        if place.get(HEADER).await.is_ok() {
            return Err(Error::already_exists(format!(
                "there is a vault at {} already",
                place.name
            )));
        }
        let key = VaultKey::generate()?;
        let encrypted = !matches!(self.credential, Credential::None);
        let header = VaultHeader::create(self.clock.now(), encrypted, &Seal::new(&key)?)?;
        let (credential, sealed) = (self.credential.clone(), key.clone());
        let slot = self
            .cpu
            .run(move || KeySlot::create(&sealed, &credential))
            .await??;
        place
            .put_new(&format!("{KEYS}/{}.json", slot.id), record::encode(&slot)?)
            .await?;
        // The header comes last: it makes the vault.
        place.put_new(HEADER, record::encode(&header)?).await?;
        Box::pin(
            Self {
                place: Ok(place),
                ..self
            }
            .open_with(header, key),
        )
        .await
    }

    /// Opens a vault as its owner: it can be written, and every earlier owner
    /// is fenced.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none; [`ErrorKind::Locked`] if it
    /// has an owner; [`ErrorKind::WrongKey`]; [`ErrorKind::Unsupported`] for a
    /// newer format.
    pub async fn open(self) -> Result<DedupStore> {
        let mut place = self.place?;
        place.attach()?;
        let (header, key) = unlock(&place, &self.credential, &self.cpu).await?;
        Box::pin(
            Self {
                place: Ok(place),
                ..self
            }
            .open_with(header, key),
        )
        .await
    }

    /// Opens a vault beside its owner, for listing, reading and counting.
    ///
    /// # Errors
    /// As [`open`](Self::open), but never [`ErrorKind::Locked`].
    pub async fn open_read_only(self) -> Result<DedupStore> {
        let mut place = self.place?;
        place.attach()?;
        let (header, key) = unlock(&place, &self.credential, &self.cpu).await?;
        let seal = Arc::new(Seal::new(&key)?);
        let path = place.path(CATALOG);
        let store = Arc::clone(&place.store);
        let catalog = Arc::new(
            Box::pin(Catalog::read(
                store,
                path,
                Arc::clone(&seal),
                &self.settings.memory,
            ))
            .await?,
        );
        let packs = place.packs()?;
        let index = Arc::new(Index::new(
            Arc::clone(&catalog),
            seal,
            Arc::clone(&packs),
            self.settings.memory.tables,
        ));
        let reader = Arc::new(PackReader::new(packs, Arc::clone(&index), None));
        Ok(DedupStore::new(Vault::new(VaultParts {
            place,
            header,
            settings: self.settings,
            clock: self.clock,
            cpu: self.cpu,
            codecs: Arc::new(Codecs::new(self.level)),
            catalog,
            index,
            reader,
            ownership: None,
            next_sequence: 0,
        })))
    }

    async fn open_with(self, header: VaultHeader, key: VaultKey) -> Result<DedupStore> {
        let place = self.place?;
        let ownership = Ownership::take(&place, self.takeover, self.clock.now()).await?;
        let seal = Arc::new(Seal::new(&key)?);
        ownership.check(&place)?;
        let catalog = Catalog::own(
            Arc::clone(&place.store),
            place.path(CATALOG),
            Arc::clone(&seal),
            &self.settings.memory,
        )
        .await?;
        ownership.check(&place)?;
        let catalog = Arc::new(catalog);
        let counters: Counters = match catalog.get(COUNTERS).await? {
            Some(value) => record::decode("the vault's counters", &value)?,
            None => Counters::default(),
        };
        let next_number = match catalog.get(NEXT_PACK).await? {
            Some(value) => record::decode("the vault's pack counter", &value)?,
            None => 0,
        };
        let packs = place.packs()?;
        orphans::sweep(&catalog, &*packs).await?;
        if ownership.forced {
            orphans::note_takeover(&catalog, self.clock.now()).await?;
        }
        let index = Arc::new(Index::new(
            Arc::clone(&catalog),
            Arc::clone(&seal),
            Arc::clone(&packs),
            self.settings.memory.tables,
        ));
        let writer = PackWriter::new(PackWriterParts {
            store: Arc::clone(&packs),
            catalog: Arc::clone(&catalog),
            seal,
            index: Arc::clone(&index),
            cpu: self.cpu.clone(),
            pack_bytes: self.settings.pack_bytes,
            next_number,
        });
        let reader = Arc::new(PackReader::new(packs, Arc::clone(&index), Some(writer)));
        let vault = Vault::new(VaultParts {
            place,
            header,
            settings: self.settings,
            clock: self.clock,
            cpu: self.cpu,
            codecs: Arc::new(Codecs::new(self.level)),
            catalog,
            index,
            reader,
            ownership: Some(ownership),
            next_sequence: counters.next_sequence,
        });
        tracing::debug!(epoch = vault.catalog.epoch(), vault = %vault.place.name, sequence = vault.next_sequence.load(Ordering::Relaxed), "vault opened");
        Ok(DedupStore::new(vault))
    }
}

/// Reads a vault's header and opens one of its key slots.
async fn unlock(
    place: &Place,
    credential: &Credential,
    cpu: &CpuPool,
) -> Result<(VaultHeader, VaultKey)> {
    let header = match place.get(HEADER).await {
        Ok(bytes) => VaultHeader::decode(&bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(place.missing()),
        Err(error) => return Err(error),
    };
    let mut slots = Vec::new();
    for name in place.list(KEYS).await? {
        slots.push((name.clone(), place.get(&name).await?));
    }
    let credential = credential.clone();
    let open = move || -> Result<(VaultHeader, Option<VaultKey>)> {
        let mut damaged = None;
        for (name, bytes) in slots {
            match KeySlot::decode(&bytes).and_then(|slot| slot.open(&credential)) {
                // A slot of a vault whose making was interrupted may lie here
                // too: only the header says whether a key is the right one.
                Ok(Some(key)) if header.accepts(&Seal::new(&key)?)? => {
                    return Ok((header, Some(key)));
                }
                Ok(_) => {}
                // Another slot may still open the vault.
                Err(error) => damaged = Some(error.within(format_args!("object {name}"))),
            }
        }
        damaged.map_or(Ok((header, None)), Err)
    };
    let (header, key) = cpu.run(open).await??;
    match key {
        Some(key) => Ok((header, key)),
        None => Err(Error::new(
            ErrorKind::WrongKey,
            format!(
                "no key slot of the vault at {} opens with this passphrase or key",
                place.name
            ),
        )),
    }
}
