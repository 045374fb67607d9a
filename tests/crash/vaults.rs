//! A vault as it must be, and as it is found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use backstop::{
    ByteOffset, ChunkDigest, Credential, DedupStore, DedupStoreBuilder, ErrorKind, PointId,
    RecoveryStore, SourceName, StreamName,
};

/// The only source.
pub(crate) fn vm() -> SourceName {
    SourceName::new("vm").unwrap()
}

/// A vault, and what is known of it from outside.
pub(crate) struct Vault {
    pub(crate) name: &'static str,
    key: [u8; 32],
    /// What each point that must be there holds.
    pub(crate) points: BTreeMap<PointId, ChunkDigest>,
    /// The same of those that expired.
    pub(crate) gone: BTreeMap<PointId, ChunkDigest>,
}

/// A point that was found; what it holds, if that can be read.
pub(crate) type Found = (PointId, Option<ChunkDigest>);

impl Vault {
    pub(crate) fn new(name: &'static str, key: u8) -> Self {
        Self {
            name,
            key: [key; 32],
            points: BTreeMap::new(),
            gone: BTreeMap::new(),
        }
    }

    pub(crate) fn key(&self) -> [u8; 32] {
        self.key
    }

    pub(crate) fn at(&self, folder: &Path) -> DedupStoreBuilder {
        at(&folder.join(self.name), self.key)
    }

    /// Looks at what is there: everything that must be is, bit for bit. Gives
    /// all points, the oldest first.
    pub(crate) async fn look(&self, folder: &Path) -> Vec<Found> {
        let found = look(self.at(folder)).await;
        let whole: BTreeMap<_, _> = found.iter().copied().collect();
        for (id, holds) in &self.points {
            match whole.get(id) {
                Some(Some(digest)) => {
                    assert!(digest == holds, "{}: {id} is not what it was", self.name);
                }
                Some(None) => panic!("{}: {id} can't be read", self.name),
                None => panic!("{}: {id} was reported and is gone", self.name),
            }
        }
        found
    }

    /// The same, and nothing else is there.
    pub(crate) async fn is_as_known(&self, folder: &Path) {
        let found = ids(&self.look(folder).await);
        let known: BTreeSet<_> = self.points.keys().copied().collect();
        let found: BTreeSet<_> = found.into_iter().collect();
        assert_eq!(found, known, "{}: the points", self.name);
    }

    /// Some points are known to have gone.
    pub(crate) fn lose(&mut self, points: &[PointId]) {
        for id in points {
            if let Some(holds) = self.points.remove(id) {
                self.gone.insert(*id, holds);
            }
        }
    }
}

pub(crate) fn at(place: &Path, key: [u8; 32]) -> DedupStoreBuilder {
    DedupStore::at(place.to_str().unwrap()).with_credential(Credential::key(key))
}

pub(crate) fn ids(found: &[Found]) -> Vec<PointId> {
    found.iter().map(|(id, _)| *id).collect()
}

/// Opens a vault beside whoever owns it, and reads every point.
pub(crate) async fn look(vault: DedupStoreBuilder) -> Vec<Found> {
    let vault = vault.open_read_only().await.unwrap();
    let mut found = Vec::new();
    for point in vault.points(&vm()).await.unwrap() {
        found.push((point.id, read(&vault, point.id).await));
    }
    vault.close().await.unwrap();
    found
}

/// What a point holds; nothing if it is damaged.
async fn read(vault: &DedupStore, point: PointId) -> Option<ChunkDigest> {
    let reading = async {
        let image = vault.open(point, &StreamName::disk()).await?;
        image.read(ByteOffset(0), image.geometry().length).await
    };
    match reading.await {
        Ok(bytes) => Some(ChunkDigest::of(&bytes)),
        Err(error) if error.kind() == ErrorKind::Corrupt => None,
        Err(error) => panic!("{point}: {error}"),
    }
}
