//! Making and opening vaults.

use std::sync::Arc;

use backstop_core::{Clock, CpuPool, Error, ErrorKind, Result, SystemClock};

use crate::dedup_store::DedupStore;
use crate::header::VaultHeader;
use crate::keys::credential::Credential;
use crate::keys::ring::Ring;
use crate::keys::{self, Opened};
use crate::object_lock::ObjectLock;
use crate::owner::Takeover;
use crate::place::Place;
use crate::seal::{Base, Seal, Secret};
use crate::settings::VaultSettings;
use crate::unlocked::Unlocked;
use crate::usage::Operation;
use crate::usage::meter::Meter;

pub(crate) const HEADER: &str = "vault.json";
pub(crate) const PACKS: &str = "packs";

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
    options: Options,
}

/// How a vault is opened.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) credential: Credential,
    pub(crate) settings: VaultSettings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cpu: CpuPool,
    pub(crate) level: i32,
    pub(crate) takeover: Takeover,
}

impl DedupStoreBuilder {
    pub(crate) fn new(place: Result<Place>) -> Self {
        let options = Options {
            credential: Credential::None,
            settings: VaultSettings::default(),
            clock: Arc::new(SystemClock),
            cpu: CpuPool::default(),
            level: 1,
            takeover: Takeover::Refuse,
        };
        Self { place, options }
    }

    /// What opens the vault; a new vault is encrypted if this is not
    /// [`Credential::None`].
    pub fn with_credential(mut self, credential: Credential) -> Self {
        self.options.credential = credential;
        self
    }

    /// Settings of this opening; nothing of them is stored.
    pub fn with_settings(mut self, settings: VaultSettings) -> Self {
        self.options.settings = settings;
        self
    }

    /// The clock that times points and leases.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.options.clock = clock;
        self
    }

    /// Where sealing, opening and decompressing run.
    pub fn with_cpu_pool(mut self, cpu: CpuPool) -> Self {
        self.options.cpu = cpu;
        self
    }

    /// What locks objects where the vault lies, for a vault whose
    /// [`Protection`](backstop_core::Protection) asks for it. A vault that is
    /// named by a URL of S3 has it already. One that is opened as its owner
    /// without it goes on, locks nothing, and each collection tells so.
    pub fn with_object_lock(mut self, lock: Arc<dyn ObjectLock>) -> Self {
        self.place = self.place.map(|place| place.locking_with(Some(lock)));
        self
    }

    /// What to do if the vault has an owner.
    pub fn with_takeover(mut self, takeover: Takeover) -> Self {
        self.options.takeover = takeover;
        self
    }

    /// Makes a vault and opens it as its owner. The vault is there when this
    /// returns; after an error there is none, or an empty one.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if there is a vault, or what is left of
    /// one; [`ErrorKind::InvalidInput`] if the place is none; those of the
    /// store.
    pub async fn create(self) -> Result<DedupStore> {
        let meter = self.meter();
        meter.during(Operation::Open, Box::pin(self.make())).await
    }

    async fn make(self) -> Result<DedupStore> {
        let Self { place, options } = self;
        let mut place = place?;
        place.make()?;
        match place.get(HEADER).await {
            Ok(_) => {
                return Err(Error::already_exists(format!(
                    "there is a vault at {} already",
                    place.name
                )));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for folder in [PACKS, &format!("{}/manifest", place.catalog_folder())] {
            if !place.list(folder).await?.is_empty() {
                return Err(Error::already_exists(format!(
                    "at {} there is no vault.json, but there are objects of a vault in {folder}; bring it back, or make the new vault elsewhere",
                    place.name
                )));
            }
        }
        let now = options.clock.now();
        let seal = Seal::new(Base::new(Secret::generate()?)?, Ring::create(now)?);
        let encrypted = !matches!(options.credential, Credential::None);
        let header = VaultHeader::create(now, encrypted, seal.base())?;
        keys::create(&place, &options.cpu, &seal, &options.credential).await?;
        // The header comes last: it makes the vault.
        place.put_new(HEADER, header.encode()?).await?;
        let unlocked = Unlocked {
            place,
            options,
            header,
            seal: Arc::new(seal),
            is_sure: true,
            is_rebuilt: false,
        };
        Box::pin(unlocked.own()).await
    }

    /// Opens a vault as its owner: it can be written, and every earlier owner
    /// is fenced.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none; [`ErrorKind::Locked`] if it
    /// has an owner; [`ErrorKind::WrongKey`]; [`ErrorKind::Unsupported`] for a
    /// newer format; [`ErrorKind::Unavailable`] if a key provider or the store
    /// does not answer; [`ErrorKind::Corrupt`] if a log of the catalog is missing,
    /// since what is written then would hide what it held for ever.
    pub async fn open(self) -> Result<DedupStore> {
        let meter = self.meter();
        let opening = Box::pin(async { self.unlock().await?.own().await });
        meter.during(Operation::Open, opening).await
    }

    /// Opens a vault beside its owner, for listing, reading and counting.
    ///
    /// # Errors
    /// As [`open`](Self::open), but never [`ErrorKind::Locked`]; a log that is
    /// missing is told by [`DedupStore::missing_log`].
    pub async fn open_read_only(self) -> Result<DedupStore> {
        let meter = self.meter();
        let opening = Box::pin(async { self.unlock().await?.read().await });
        meter.during(Operation::Open, opening).await
    }

    /// Counts what opening takes.
    pub(crate) fn meter(&self) -> Arc<Meter> {
        let place = self.place.as_ref();
        place.map_or_else(|_| Arc::default(), |place| Arc::clone(&place.meter))
    }

    /// Reads the vault's header and opens one of its key slots.
    pub(crate) async fn unlock(self) -> Result<Unlocked> {
        let Self { place, options } = self;
        let mut place = place?;
        place.attach()?;
        let header = match place.get(HEADER).await {
            Ok(bytes) => VaultHeader::decode(&bytes)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(place.missing()),
            Err(error) => return Err(error),
        };
        let Opened { seal, is_sure } =
            keys::open(&place, &options.cpu, &header, &options.credential).await?;
        place.catalog = header.catalog;
        Ok(Unlocked {
            place,
            options,
            header,
            seal: Arc::new(seal),
            is_sure,
            is_rebuilt: false,
        })
    }
}
