//! Every object of a vault, each with one flipped byte, cut, swapped with
//! another of its kind, and missing. Whatever it is: nothing that is read is
//! wrong; what is not whole is found by verifying, or opening tells it; all
//! other ranges are read; the source's next check makes its newest point whole
//! again; and where the catalog can't be read, a rebuild brings all points back.

use std::collections::BTreeMap;
use std::sync::Arc;

use backstop_core::{
    Error, ErrorKind, ManualClock, NoMonitor, PointKind, RebuildOptions, RecoveryStore,
    RegionIndex, Result, StreamName, Timestamp, VerifyOptions, region_count,
};
use backstop_core::{Maintenance, PointId};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, VaultSettings};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::healing::send_differences;
use crate::history::{History, Kept};
use crate::images::{self, Machine};
use crate::seeds;

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    /// One bit of the byte at so many thousandths of it.
    Flipped(usize),
    Halved,
    Emptied,
    /// It holds what the next of its kind holds, and the other way round.
    Swapped,
    Missing,
}

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Header,
    KeySlot,
    Lease,
    Reader,
    Manifest,
    Log,
    Table,
    /// Other objects of the catalog.
    Catalog,
    DataPack,
    MapPack,
}

fn kind(path: &Path) -> Kind {
    let (extension, path) = (path.extension(), path.as_ref());
    let is_under = |folder: &str| path.contains(folder);
    if path.ends_with("vault.json") {
        Kind::Header
    } else if path.ends_with("lease.json") {
        Kind::Lease
    } else if is_under("/keys/") {
        Kind::KeySlot
    } else if is_under("/readers/") {
        Kind::Reader
    } else if is_under("/db/manifest/") {
        Kind::Manifest
    } else if is_under("/db/wal/") {
        Kind::Log
    } else if is_under("/db/compacted/") {
        Kind::Table
    } else if is_under("/db/") {
        Kind::Catalog
    } else if extension == Some("data") {
        Kind::DataPack
    } else {
        assert_eq!(extension, Some("map"), "what is {path}?");
        Kind::MapPack
    }
}

/// How a vault takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Taken {
    /// All is right, and verifying finds nothing: it is not needed.
    Harmless,
    /// All is right, and verifying tells of damage.
    TableTold,
    /// Ranges are missing, and verifying tells of damage.
    Told,
    /// Opening tells it.
    Refused,
    /// The newest log is gone, or a log is empty, as those are by which an owner
    /// fences: nothing tells that there was more. A rebuild brings it back.
    Silent,
}

/// A vault that was left without closing, with two points, a reader and two key
/// slots.
struct Scene {
    store: InMemory,
    points: Vec<Kept>,
    machine: Machine,
}

fn on(store: &InMemory, key: u8, at: i64) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 200 << 10;
    DedupStore::on(Arc::new(store.clone()), "vault")
        .with_credential(Credential::key([key; 32]))
        .with_settings(settings)
        .with_clock(Arc::new(ManualClock::at(Timestamp(1_700_000_000_000 + at))))
}

async fn scene() -> Scene {
    let store = InMemory::new();
    let mut random = fastrand::Rng::with_seed(71);
    let vault = on(&store, 1, 0).create().await.unwrap();
    vault.add_key(&Credential::key([2; 32])).await.unwrap();
    let history = History::default();
    let mut machine = Machine::new("a", 4_600_000);
    machine.write(&mut random, 0, 250_000);
    machine.write(&mut random, 4_300_000, 250_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    // Tables of the catalog too.
    vault.close().await.unwrap();
    let vault = on(&store, 1, 0).open().await.unwrap();
    machine.write(&mut random, 100_000, 5_000);
    machine.write(&mut random, 3_000_000, 60_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let reader = on(&store, 1, 0).open_read_only().await.unwrap();
    let left = store.fork();
    reader.close().await.unwrap();
    Scene {
        store: left,
        points: history.known().points,
        machine,
    }
}

async fn bytes(store: &InMemory, path: &Path) -> Bytes {
    store.get(path).await.unwrap().bytes().await.unwrap()
}

async fn put(store: &InMemory, path: &Path, bytes: Vec<u8>) {
    store.put(path, bytes.into()).await.map(drop).unwrap();
}

/// Does it; nothing if that can't be done to this object.
async fn damage(store: &InMemory, path: &Path, next: Option<&Path>, what: Damage) -> Option<()> {
    let mut found = bytes(store, path).await.to_vec();
    match what {
        Damage::Missing => store.delete(path).await.unwrap(),
        Damage::Swapped => {
            let other = bytes(store, next?).await.to_vec();
            put(store, next?, found).await;
            put(store, path, other).await;
        }
        _ if found.is_empty() => return None,
        Damage::Flipped(thousandths) => {
            let at = found.len() * thousandths / 1000;
            found[at] ^= 1 << (thousandths % 8);
            put(store, path, found).await;
        }
        Damage::Halved => {
            found.truncate(found.len() / 2);
            put(store, path, found).await;
        }
        Damage::Emptied => put(store, path, Vec::new()).await,
    }
    Some(())
}

/// Whether an error tells of what is damaged in packs, for good.
fn is_lost(error: &Error) -> bool {
    error.kind() == ErrorKind::Corrupt && !error.to_string().contains("catalog")
}

/// Reads all that can be read of a point, and tells how much can't.
async fn lost(vault: &DedupStore, kept: &Kept) -> Result<u64> {
    let image = match vault.open(kept.id, &StreamName::disk()).await {
        // Its manifest, or the top of its map.
        Err(error) if is_lost(&error) => return Ok(kept.image.len() as u64),
        opened => opened?,
    };
    let length = image.geometry().length;
    let mut lost = 0;
    for region in 0..region_count(length) {
        let range = RegionIndex(region).extent(length);
        match image.recover(range).await {
            Ok(found) => {
                let mut whole = vec![0; range.length().0 as usize];
                for (extent, data) in &found.data {
                    let at = (extent.offset().0 - range.offset().0) as usize;
                    whole[at..at + data.len()].copy_from_slice(data);
                }
                let first = range.offset().0 as usize;
                for (extent, _) in &found.missing {
                    let from = extent.offset().0 as usize;
                    let part = from..from + extent.length().0 as usize;
                    let at = from - first;
                    whole[at..at + part.len()].copy_from_slice(&kept.image[part]);
                    lost += extent.length().0;
                }
                assert!(
                    whole[..] == kept.image[first..first + whole.len()],
                    "{} is wrong in region {region}",
                    kept.id
                );
            }
            Err(error) if is_lost(&error) => lost += range.length().0,
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

/// Checks that an error is one of something that is damaged. What SlateDB's
/// own records are damaged to is not always told by the kind of its errors: they
/// have no checksum, and may name another owner, or something invalid.
fn is_told(error: &Error, path: &Path, what: Damage) {
    let of_catalog = matches!(
        kind(path),
        Kind::Manifest | Kind::Log | Kind::Table | Kind::Catalog
    );
    // The number of a key, or of a format, may be what is damaged.
    let is_fine = match error.kind() {
        ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::WrongKey | ErrorKind::Unsupported => {
            true
        }
        ErrorKind::Fenced | ErrorKind::Unavailable => of_catalog,
        _ => false,
    };
    assert!(is_fine, "{path} {what:?}: {:?} {error}", error.kind());
}

impl Scene {
    /// Reads beside the owner: nothing is wrong, and nothing that is missing is
    /// passed over in silence.
    async fn is_read(&self, store: &InMemory, path: &Path, what: Damage) {
        let vault = match on(store, 1, 0).open_read_only().await {
            Ok(vault) => vault,
            Err(error) => return is_told(&error, path, what),
        };
        for kept in &self.points {
            if let Err(error) = lost(&vault, kept).await {
                is_told(&error, path, what);
            }
        }
        let _ = vault.close().await;
    }

    /// What verifying tells, and whether that is all there is to tell.
    async fn is_verified(&self, vault: &DedupStore, path: &Path, what: Damage) -> Taken {
        let listed = vault.points(&self.machine.name).await.unwrap();
        let listed: Vec<PointId> = listed.iter().map(|point| point.id).collect();
        let expected: Vec<PointId> = self.points.iter().map(|kept| kept.id).collect();
        if listed != expected {
            let is_log = kind(path) == Kind::Log;
            let is_gone = matches!(what, Damage::Missing | Damage::Emptied);
            assert!(is_log && is_gone, "{path} {what:?}: {listed:?}");
            return Taken::Silent;
        }
        let options = VerifyOptions::default();
        let report = vault.verify(&options, &NoMonitor).await.unwrap();
        let told = report.damaged > 0 || !report.ranges.is_empty();
        let mut missing = 0;
        for kept in &self.points {
            missing += lost(vault, kept).await.unwrap();
        }
        if missing > 0 {
            assert!(
                told,
                "{path} {what:?}: {missing} bytes, and verify tells {report:?}"
            );
            return Taken::Told;
        }
        if told || report.damaged_tables > 0 {
            return Taken::TableTold;
        }
        Taken::Harmless
    }

    /// The source is checked: its newest point is whole again.
    async fn is_healed(&self, vault: &DedupStore, path: &Path, what: Damage) {
        let mut random = fastrand::Rng::with_seed(72);
        let mut machine = self.machine.clone();
        let mut begin = machine.begin(&mut random);
        begin.kind = PointKind::ConsistencyCheck;
        begin.verify = true;
        let history = History::default();
        let replica = vault.replica(&machine.name).await.unwrap().unwrap();
        begin.base = replica.head;
        let writer = vault.begin(begin.clone()).await.unwrap();
        send_differences(&*writer, &machine).await.unwrap();
        let mut point = images::new_point(&mut random, &begin);
        point.state_before = replica.state;
        let made = vault.commit(vec![point]).await.unwrap();
        machine.head = Some(made[0].id);
        let newest = Kept {
            id: made[0].id,
            source: machine.name.clone(),
            image: machine.bytes.clone().into(),
        };
        history.change(|known| known.points.push(newest.clone()));
        let left = lost(vault, &newest).await.unwrap();
        assert_eq!(left, 0, "{path} {what:?}: the check did not heal it");
    }

    /// One object and one damage.
    async fn suffers(&self, path: &Path, next: Option<&Path>, what: Damage) -> Option<Taken> {
        let store = self.store.fork();
        damage(&store, path, next, what).await?;
        self.is_read(&store, path, what).await;
        // The lease of the owner that left is over.
        let opened = on(&store, 1, 600_000).open().await;
        let vault = match opened {
            Ok(vault) => vault,
            Err(error) => {
                is_told(&error, path, what);
                self.is_brought_back(&store, path, what).await;
                return Some(Taken::Refused);
            }
        };
        let taken = self.is_verified(&vault, path, what).await;
        if taken == Taken::Silent {
            vault.close().await.unwrap();
            self.is_brought_back(&store, path, what).await;
            return Some(taken);
        }
        self.is_healed(&vault, path, what).await;
        vault.close().await.unwrap();
        // And stays so.
        let vault = on(&store, 1, 600_000).open_read_only().await.unwrap();
        let points = vault.points(&self.machine.name).await.unwrap();
        assert_eq!(points.len(), 3);
        let newest = Kept {
            id: points[2].id,
            source: self.machine.name.clone(),
            image: self.machine.bytes.clone().into(),
        };
        assert_eq!(lost(&vault, &newest).await.unwrap(), 0);
        vault.close().await.unwrap();
        Some(taken)
    }

    /// An object is as it was.
    async fn put_back(&self, store: &InMemory, path: &Path) {
        put(store, path, bytes(&self.store, path).await.to_vec()).await;
    }

    /// Where the vault does not open, another key slot does, or a rebuild makes
    /// the catalog anew; `vault.json` has to be brought back,
    /// and slots that were swapped.
    async fn is_brought_back(&self, store: &InMemory, path: &Path, what: Damage) {
        let said = format!("{path} {what:?}");
        let vault = match kind(path) {
            Kind::Header => {
                self.put_back(store, path).await;
                on(store, 1, 600_000).open().await.expect(&said)
            }
            // Each has to have its own name again.
            Kind::KeySlot if what == Damage::Swapped => {
                for slot in self.store.list(None).try_collect::<Vec<_>>().await.unwrap() {
                    if kind(&slot.location) == Kind::KeySlot {
                        self.put_back(store, &slot.location).await;
                    }
                }
                on(store, 1, 600_000).open().await.expect(&said)
            }
            Kind::KeySlot => on(store, 2, 600_000).open().await.expect(&said),
            _ => {
                // An owner that was opened without the newest log did not know
                // of what it told.
                let mut options = RebuildOptions::default();
                options.with_uncommitted = true;
                let rebuilt = on(store, 1, 600_000).rebuild(&options, &NoMonitor).await;
                rebuilt.expect(&said).0
            }
        };
        for kept in &self.points {
            assert_eq!(lost(&vault, kept).await.unwrap(), 0, "{said}");
        }
        vault.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn any_damage_of_any_object_is_told_and_mended_soak() {
    let scene = scene().await;
    let listed: Vec<_> = scene.store.list(None).try_collect().await.unwrap();
    let mut paths: Vec<Path> = listed.into_iter().map(|object| object.location).collect();
    paths.sort();
    let step = seeds::rounds(300, 10) as usize;
    let mut all: Vec<Damage> = (1..1000).step_by(step).map(Damage::Flipped).collect();
    all.extend([
        Damage::Halved,
        Damage::Emptied,
        Damage::Swapped,
        Damage::Missing,
    ]);
    let mut taken: BTreeMap<(Kind, Taken), u32> = BTreeMap::new();
    for (at, path) in paths.iter().enumerate() {
        let next = paths[at + 1..].iter().find(|next| kind(next) == kind(path));
        for what in &all {
            if let Some(how) = scene.suffers(path, next, *what).await {
                *taken.entry((kind(path), how)).or_default() += 1;
            }
        }
    }
    eprintln!("{} objects: {taken:?}", paths.len());
    let count = |kind, how| taken.get(&(kind, how)).copied().unwrap_or_default();
    let of = |wanted: Kind| {
        let of_kind = taken.iter().filter(|((kind, _), _)| *kind == wanted);
        of_kind.map(|(_, count)| count).sum::<u32>()
    };
    for kind in [
        Kind::Header,
        Kind::KeySlot,
        Kind::Lease,
        Kind::Reader,
        Kind::Manifest,
        Kind::Log,
        Kind::DataPack,
        Kind::MapPack,
    ] {
        assert!(of(kind) > 0, "no {kind:?} was damaged: {taken:?}");
    }
    for pack in [Kind::DataPack, Kind::MapPack] {
        assert!(count(pack, Taken::Told) > 5, "{taken:?}");
        // Every byte of a pack is seen by verifying.
        assert_eq!(
            count(pack, Taken::Told) + count(pack, Taken::TableTold),
            of(pack)
        );
    }
    // Who owns and who reads is no secret that a vault hangs on.
    assert_eq!(count(Kind::Lease, Taken::Harmless), of(Kind::Lease));
    assert_eq!(count(Kind::Reader, Taken::Harmless), of(Kind::Reader));
    assert!(count(Kind::Header, Taken::Refused) > 0 && count(Kind::KeySlot, Taken::Refused) > 0);
    let mut silent = taken.iter().filter(|((_, how), _)| *how == Taken::Silent);
    assert!(silent.all(|((kind, _), _)| *kind == Kind::Log), "{taken:?}");
}
