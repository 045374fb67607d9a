//! A vault whose keys are known: it is opened as its owner or beside it, and its
//! parts are put together.

use std::sync::Arc;

use backstop_core::{ChunkDigest, Codecs, Error, Result};

use crate::builder::{HEADER, Options, PACKS};
use crate::catalog::{CONDEMNED, COUNTERS, Catalog, NEXT_PACK, PROTECTION, pack_number};
use crate::dedup_store::DedupStore;
use crate::failure;
use crate::header::VaultHeader;
use crate::keys;
use crate::ledger::Ledger;
use crate::logs;
use crate::nodes::Nodes;
use crate::orphans;
use crate::owner::Ownership;
use crate::pack::frame::Content;
use crate::pack::index::{Index, bad_frames};
use crate::pack::reader::PackReader;
use crate::pack::sink::PackStore;
use crate::pack::writer::{PackWriter, PackWriterParts};
use crate::place::Place;
use crate::readers::watched::WatchedPacks;
use crate::readers::{Reading, Registration};
use crate::record::{self, Counters, NextPack};
use crate::seal::Seal;
use crate::session::StreamCount;
use crate::usage::months::Keeping;
use crate::vault::{self, Sessions, Vault};

/// A vault whose key is known, to be opened.
pub(crate) struct Unlocked {
    pub(crate) place: Place,
    pub(crate) options: Options,
    pub(crate) header: VaultHeader,
    pub(crate) seal: Arc<Seal>,
    /// Whether the seal goes by the ring that counts.
    pub(crate) is_sure: bool,
    /// Whether the catalog is made anew.
    pub(crate) is_rebuilt: bool,
}

/// What an owner has, and a reader has not.
struct Owned {
    ownership: Ownership,
    counters: OwnCounters,
}

/// What a reader has, and an owner has not.
#[derive(Default)]
struct Beside {
    registration: Option<Arc<Registration>>,
    missing_log: Option<String>,
}

/// What the next pack and point are called.
struct OwnCounters {
    next_number: u64,
    began: u64,
    next_sequence: u64,
    condemned: Vec<u64>,
    bad: Vec<(Content, ChunkDigest)>,
    ledger: Ledger,
}

impl Unlocked {
    /// Takes the vault over and opens it to be written.
    pub(crate) async fn own(self) -> Result<DedupStore> {
        let (place, options) = (&self.place, &self.options);
        // Before the catalog is opened, which writes over a gap in its logs.
        let (ownership, found) = futures::join!(
            Ownership::take(place, options.takeover, &options.clock),
            logs::look(place, &options.clock)
        );
        let ownership = ownership?;
        let refused = match (Box::pin(self.still_counts()).await, found) {
            (Ok(()), Ok(found)) => self.refused(&found).await.map(|()| found.newest),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        match refused {
            Ok(newest_log) => Box::pin(self.own_with(ownership, newest_log)).await,
            Err(error) => {
                ownership.give_up(place).await;
                Err(error)
            }
        }
    }

    /// Fails if what is found of the catalog must not be written.
    async fn refused(&self, found: &logs::Found) -> Result<()> {
        if let Some(log) = &found.missing {
            return Err(logs::refuse(log));
        }
        // An empty one in its place would make nothing of what packs hold.
        if found.manifest.is_none() && !self.place.list(PACKS).await?.is_empty() {
            return Err(self.place.catalog_is_gone());
        }
        Ok(())
    }

    /// Fails if the vault was rebuilt since it was unlocked, which may take
    /// seconds: what is committed into a catalog that was replaced is lost.
    async fn still_counts(&self) -> Result<()> {
        let place = &self.place;
        // This one is being rebuilt by us.
        if self.is_rebuilt || VaultHeader::decode(&place.get(HEADER).await?)? == self.header {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "the vault at {} was rebuilt while it was being opened; open it again",
            place.name
        )))
    }

    /// Takes the vault.
    pub(crate) async fn take(&self) -> Result<Ownership> {
        Ownership::take(&self.place, self.options.takeover, &self.options.clock).await
    }

    /// Opens the catalog to be written.
    pub(crate) async fn own_with(
        self,
        ownership: Ownership,
        newest_log: Option<String>,
    ) -> Result<DedupStore> {
        match self.own_catalog(&ownership, newest_log).await {
            Ok((catalog, packs, counters)) => {
                let owned = Owned {
                    ownership,
                    counters,
                };
                Ok(self.assemble(catalog, packs, Some(owned), Beside::default()))
            }
            Err(error) => {
                ownership.give_up(&self.place).await;
                Err(error)
            }
        }
    }

    async fn own_catalog(
        &self,
        ownership: &Ownership,
        newest_log: Option<String>,
    ) -> Result<(Catalog, Arc<dyn PackStore>, OwnCounters)> {
        ownership.check(&self.place)?;
        if let Some(log) = newest_log {
            keys::check_log(&self.place, &self.seal, &log).await?;
        }
        if !self.is_sure {
            Box::pin(self.look_before()).await?;
        }
        let catalog = Catalog::own(
            &self.place,
            Arc::clone(&self.seal),
            &self.options.settings.memory,
            &self.options.clock,
        )
        .await?;
        match self.begin(ownership, &catalog).await {
            Ok((packs, counters)) => Ok((catalog, packs, counters)),
            Err(error) => {
                if let Err(error) = catalog.close(false).await {
                    tracing::debug!(%error, "the catalog could not be closed");
                }
                Err(error)
            }
        }
    }

    /// Goes by the ring that counts before anything is sealed.
    async fn look_before(&self) -> Result<()> {
        let found = logs::look(&self.place, &self.options.clock).await?;
        let catalog = self.catalog_beside(&found).await?;
        let looked = keys::look_before(&catalog, &self.place, &self.seal).await;
        let closed = catalog.close(false).await;
        looked.and(closed)
    }

    /// What an owner does first.
    async fn begin(
        &self,
        ownership: &Ownership,
        catalog: &Catalog,
    ) -> Result<(Arc<dyn PackStore>, OwnCounters)> {
        let place = &self.place;
        ownership.check(place)?;
        // A rebuild that ended in between has not seen us. One that goes on finds
        // what opening the catalog has logged, and fails.
        Box::pin(self.still_counts()).await?;
        if let Some(at) = ownership.overridden {
            orphans::note_takeover(catalog, at).await?;
            // Of a rebuild only when its catalog counts: if it fails, what
            // this one knows is gone.
            if !self.is_rebuilt {
                ownership.noted(place)?;
            }
        }
        keys::settle(catalog, place, &self.seal, self.is_sure).await?;
        let began = match catalog.get(COUNTERS).await? {
            Some(value) => {
                record::decode::<Counters>("the vault's counters", &value)?.next_sequence
            }
            None => 0,
        };
        let next_number = match catalog.get(NEXT_PACK).await? {
            Some(value) => record::decode::<NextPack>("the vault's pack counter", &value)?.number,
            None => 0,
        };
        if let Some(value) = catalog.get(PROTECTION).await? {
            let protection = record::decode("the vault's protection", &value)?;
            place.locks.follow(&protection);
        }
        let mut condemned = Vec::new();
        let mut entries = catalog.scan(&[CONDEMNED]).await?;
        while let Some((key, _)) = entries.next().await? {
            condemned.push(pack_number(&key)?);
        }
        let packs = place.packs()?;
        let ended_well = orphans::sweep(catalog, &*packs).await?;
        let ledger = Ledger::load(catalog).await?;
        // What the owner before us began to commit may stand in a pack.
        let next_sequence = if ended_well || self.is_rebuilt {
            began
        } else {
            ledger.begin(catalog, began).await?
        };
        tracing::debug!(epoch = catalog.epoch(), vault = %place.name, sequence = next_sequence, "vault opened");
        let counters = OwnCounters {
            next_number,
            began,
            next_sequence,
            condemned,
            bad: bad_frames::kept(catalog).await?,
            ledger,
        };
        Ok((packs, counters))
    }

    /// Opens the vault beside its owner.
    pub(crate) async fn read(self) -> Result<DedupStore> {
        let registered = Registration::new(&self.place, &self.options.clock).await;
        let registration = match registered {
            Ok(registration) => Some(Arc::new(registration)),
            // A vault on a full disk, or on one that may not be written, must
            // be readable. An owner that tidies may take away what is read.
            Err(error) if failure::refuses_writes(&error) => {
                tracing::warn!(vault = %self.place.name, %error, "read without telling the owner");
                None
            }
            Err(error) => return Err(error),
        };
        match Box::pin(self.read_catalog()).await {
            Ok((catalog, packs, missing_log)) => {
                let packs = match &registration {
                    Some(registration) => Arc::new(WatchedPacks {
                        packs,
                        registration: Arc::clone(registration),
                    }),
                    None => packs,
                };
                let beside = Beside {
                    registration,
                    missing_log,
                };
                Ok(self.assemble(catalog, packs, None, beside))
            }
            Err(error) => {
                // Nobody reads, so nobody is to be waited for.
                if let Some(registration) = registration
                    && let Err(error) = registration.end().await
                {
                    tracing::debug!(%error, "a reader's registration goes by time");
                }
                Err(error)
            }
        }
    }

    /// The catalog to be read, the packs, and the log that is missing.
    async fn read_catalog(&self) -> Result<(Catalog, Arc<dyn PackStore>, Option<String>)> {
        let found = logs::look(&self.place, &self.options.clock).await?;
        if let Some(log) = &found.missing {
            tracing::warn!(vault = %self.place.name, log, "a log of the catalog is missing");
        }
        if found.manifest.is_none() {
            return Err(self.place.catalog_is_gone());
        }
        let catalog = self.catalog_beside(&found).await?;
        Ok((catalog, self.place.packs()?, found.missing))
    }

    async fn catalog_beside(&self, found: &logs::Found) -> Result<Catalog> {
        let catalog = Catalog::read(
            &self.place,
            found.manifest.as_ref(),
            Arc::clone(&self.seal),
            &self.options.settings.memory,
            &self.options.clock,
        );
        catalog.await
    }

    /// Puts the parts of an open vault together.
    fn assemble(
        self,
        catalog: Catalog,
        packs: Arc<dyn PackStore>,
        mut owned: Option<Owned>,
        beside: Beside,
    ) -> DedupStore {
        let Options {
            settings,
            clock,
            cpu,
            level,
            ..
        } = self.options;
        let catalog = Arc::new(catalog);
        let index = Arc::new(Index::new(
            Arc::clone(&catalog),
            Arc::clone(&self.seal),
            Arc::clone(&packs),
            settings.memory.tables,
        ));
        let writer = owned.as_ref().map(|owned| {
            PackWriter::new(PackWriterParts {
                store: Arc::clone(&packs),
                catalog: Arc::clone(&catalog),
                seal: Arc::clone(&self.seal),
                index: Arc::clone(&index),
                cpu: cpu.clone(),
                locks: Arc::clone(&self.place.locks),
                clock: Arc::clone(&clock),
                pack_bytes: settings.pack_bytes,
                next_number: owned.counters.next_number,
            })
        });
        if let Some(owned) = &mut owned {
            index.condemn(owned.counters.condemned.iter().copied());
            index.remember_bad(std::mem::take(&mut owned.counters.bad));
        }
        let reader = Arc::new(PackReader::new(packs, Arc::clone(&index), writer));
        let codecs = Arc::new(Codecs::new(level));
        let nodes = Nodes::new(
            Arc::clone(&reader),
            Arc::clone(&codecs),
            settings.memory.nodes,
        );
        let keeping = Keeping::since(clock.now());
        let (ownership, began, next_sequence, ledger) = match owned {
            Some(owned) => {
                let counters = owned.counters;
                (
                    Some(owned.ownership),
                    counters.began,
                    counters.next_sequence,
                    counters.ledger,
                )
            }
            None => (None, 0, 0, Ledger::default()),
        };
        DedupStore::new(Vault {
            place: self.place,
            header: self.header,
            seal: self.seal,
            settings,
            clock,
            buffers: vault::buffers(&cpu),
            cpu,
            codecs,
            catalog,
            index,
            reader,
            nodes: Arc::new(nodes),
            ownership,
            registration: beside.registration,
            missing_log: beside.missing_log,
            commit: tokio::sync::Mutex::default(),
            gate: tokio::sync::RwLock::default(),
            collecting: tokio::sync::Mutex::default(),
            reading: Reading::default(),
            next_sequence: next_sequence.into(),
            began: began.into(),
            ledger,
            streams: StreamCount::default(),
            sessions: Sessions::default(),
            doubtful: false.into(),
            keeping: keeping.into(),
        })
    }
}
