//! A file system that loses power: what was traced is done again on it, and
//! it knows what is there and what would be there after a power cut.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::trace::Call;

/// What a file holds.
#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    /// As of the last sync.
    durable: Vec<u8>,
    /// Where the next write without a position goes.
    at: u64,
}

/// A name in a folder: of a file, or of a folder with its path.
type Entries = BTreeMap<String, usize>;

/// A folder of files, now and as it would be after a power cut.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    root: String,
    files: Vec<Content>,
    /// The folders by path: their entries now and as of the last sync.
    folders: HashMap<String, (Entries, Entries)>,
    /// Which folder a number names, where it is one.
    folder_paths: HashMap<usize, String>,
    /// What syncs under way will make durable, by who syncs, and which of all
    /// syncs it is.
    syncing: HashMap<u32, (u64, Syncing)>,
    syncs: u64,
    /// The newest sync that ended, of a path: an older one that ends later
    /// takes nothing back.
    newest: HashMap<String, u64>,
}

#[derive(Clone)]
enum Syncing {
    File(usize, Vec<u8>),
    Folder(String, Entries),
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Disk {
    /// An empty folder at this path, which is durable itself.
    pub(crate) fn new(root: &str) -> Self {
        let mut disk = Self {
            root: root.to_owned(),
            ..Self::default()
        };
        disk.folders.insert(root.to_owned(), Default::default());
        disk
    }

    fn find(&self, path: &str) -> Option<usize> {
        let (folder, name) = split(path);
        self.folders.get(folder)?.0.get(name).copied()
    }

    fn enter(&mut self, path: &str, number: usize) {
        let (folder, name) = split(path);
        if let Some((now, _)) = self.folders.get_mut(folder) {
            now.insert(name.to_owned(), number);
        }
    }

    fn leave(&mut self, path: &str) {
        let (folder, name) = split(path);
        if let Some((now, _)) = self.folders.get_mut(folder) {
            now.remove(name);
        }
    }

    /// Does a call; calls outside the folder do nothing.
    pub(crate) fn apply(&mut self, call: &Call) {
        match call {
            Call::Create { path, truncate } if path.starts_with(&self.root) => {
                match self.find(path) {
                    Some(number) if *truncate => self.files[number].now.clear(),
                    Some(_) => {}
                    None => {
                        self.files.push(Content::default());
                        self.enter(path, self.files.len() - 1);
                    }
                }
            }
            Call::Write { path, at, data } => {
                let Some(number) = self.find(path) else {
                    return;
                };
                let file = &mut self.files[number];
                let from = at.unwrap_or(file.at) as usize;
                let end = from + data.len();
                if file.now.len() < end {
                    file.now.resize(end, 0);
                }
                file.now[from..end].copy_from_slice(data);
                if at.is_none() {
                    file.at = end as u64;
                }
            }
            Call::Truncate { path, length } => {
                if let Some(number) = self.find(path) {
                    self.files[number].now.resize(*length as usize, 0);
                    if *length == 0 {
                        self.files[number].at = 0;
                    }
                }
            }
            Call::SyncBegins { path, by } => {
                let syncing = if let Some((now, _)) = self.folders.get(path) {
                    Some(Syncing::Folder(path.clone(), now.clone()))
                } else {
                    let number = self.find(path);
                    number.map(|number| Syncing::File(number, self.files[number].now.clone()))
                };
                if let Some(syncing) = syncing {
                    self.syncs += 1;
                    self.syncing.insert(*by, (self.syncs, syncing));
                }
            }
            Call::SyncEnds { path, by } => {
                let Some((sync, syncing)) = self.syncing.remove(by) else {
                    return;
                };
                let newest = self.newest.entry(path.clone()).or_default();
                if sync < *newest {
                    return;
                }
                *newest = sync;
                match syncing {
                    Syncing::File(number, durable) => self.files[number].durable = durable,
                    Syncing::Folder(path, entries) => {
                        if let Some((_, durable)) = self.folders.get_mut(&path) {
                            *durable = entries;
                        }
                    }
                }
            }
            Call::Rename { from, to } => {
                if let Some(number) = self.find(from) {
                    self.leave(from);
                    self.enter(to, number);
                }
            }
            Call::Link { from, to } => {
                if let Some(number) = self.find(from) {
                    self.enter(to, number);
                }
            }
            Call::Unlink { path } => self.leave(path),
            Call::MakeFolder { path } if path.starts_with(&self.root) => {
                self.files.push(Content::default());
                let number = self.files.len() - 1;
                self.folder_paths.insert(number, path.clone());
                self.folders.entry(path.clone()).or_default();
                self.enter(path, number);
            }
            Call::Create { .. } | Call::MakeFolder { .. } | Call::Said { .. } => {}
        }
    }

    /// Writes what a power cut now would leave to a real folder. What was not
    /// synced is lost; with a generator, each such thing is lost or not by
    /// chance.
    pub(crate) fn after_power_loss(&self, to: &Path, random: &mut Option<fastrand::Rng>) {
        self.rebuild(&self.root, to, random);
    }

    fn rebuild(&self, folder: &str, to: &Path, random: &mut Option<fastrand::Rng>) {
        let mut chance = || random.as_mut().is_some_and(fastrand::Rng::bool);
        let (now, durable) = &self.folders[folder];
        let mut entries = Entries::new();
        let names: std::collections::BTreeSet<_> = now.keys().chain(durable.keys()).collect();
        for name in names {
            let (new, old) = (now.get(name), durable.get(name));
            let survives = if new != old && chance() { new } else { old };
            if let Some(number) = survives {
                entries.insert(name.clone(), *number);
            }
        }
        for (name, number) in entries {
            let path = to.join(&name);
            if let Some(folder) = self.folder_paths.get(&number) {
                std::fs::create_dir_all(&path).unwrap();
                self.rebuild(folder, &path, random);
            } else {
                let mut chance = || random.as_mut().is_some_and(fastrand::Rng::bool);
                let file = &self.files[number];
                let survives = if chance() { &file.now } else { &file.durable };
                std::fs::write(&path, survives).unwrap();
            }
        }
    }
}

#[test]
fn a_sync_that_ends_late_takes_nothing_back() {
    let mut disk = Disk::new("/d");
    let path = || "/d".to_owned();
    let create = |name: &str| Call::Create {
        path: format!("/d/{name}"),
        truncate: true,
    };
    disk.apply(&create("a"));
    disk.apply(&Call::SyncBegins {
        path: path(),
        by: 1,
    });
    disk.apply(&create("b"));
    disk.apply(&Call::SyncBegins {
        path: path(),
        by: 2,
    });
    disk.apply(&Call::SyncEnds {
        path: path(),
        by: 2,
    });
    disk.apply(&Call::SyncEnds {
        path: path(),
        by: 1,
    });
    let folder = tempfile::tempdir().unwrap();
    disk.after_power_loss(folder.path(), &mut None);
    assert_eq!(crate::images::files(folder.path()).len(), 2);
}
