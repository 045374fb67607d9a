//! What a vault is put through, step by step, beside plain images that it must
//! agree with: for random sequences and for the fuzzer's.

use std::sync::Arc;

use backstop_core::{
    ByteOffset, ErrorKind, FoldOptions, Maintenance, NoMonitor, PointId, RebuildOptions, Recovery,
    RecoveryStore, ReplicateOptions, StreamName, VerifyOptions,
};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder};
use object_store::memory::InMemory;

use crate::history::{History, Kept};
use crate::images::{self, Machine};

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A machine is protected.
    Protect(usize),
    /// All are, as one group.
    ProtectAll,
    /// A synchronization is sent, and given up or left.
    Leave { machine: usize, abort: bool },
    /// One is sent, the process dies, and it is continued and committed.
    Continue(usize),
    /// Points are removed.
    Expire(Vec<PointId>),
    /// Space is given back.
    Collect,
    /// Space is given back while a synchronization is under way.
    CollectMeanwhile(usize),
    /// A machine's newest point is made cheaper to read.
    Fold(usize),
    /// The vault gets a new key.
    Rotate,
    /// A point is opened, to be read later.
    Open(PointId),
    /// What was opened is read and closed.
    Close,
    /// The process dies, and the vault is opened again.
    Crash,
    /// The vault is closed and opened again.
    Reopen,
    /// The vault is closed, and its index and catalog are made anew from its
    /// packs.
    Rebuild,
    /// The same after the process died: what came into no pack is lost.
    RebuildAfterCrash,
    /// Everything that is stored is read.
    Verify,
    /// Points are copied to a second vault, so many at most.
    Replicate(u64),
}

/// A vault and the machines that it protects.
pub(crate) struct Play<B> {
    builder: B,
    vault: Option<DedupStore>,
    pub(crate) history: History,
    pub(crate) random: fastrand::Rng,
    pub(crate) machines: Vec<Machine>,
    /// A second vault, from the first replication on, and the images of the points
    /// that were copied to it.
    second: Option<(DedupStore, History)>,
    /// Images that were opened, and what they hold, whatever expires.
    opened: Vec<(Kept, Arc<dyn Recovery>)>,
}

impl<B: Fn() -> DedupStoreBuilder> Play<B> {
    pub(crate) async fn start(builder: B, seed: u64, lengths: [usize; 3]) -> Self {
        let machines = ["a", "b", "c"].iter().zip(lengths);
        Self {
            vault: Some(builder().create().await.unwrap()),
            builder,
            history: History::default(),
            random: fastrand::Rng::with_seed(seed),
            machines: machines
                .map(|(name, length)| Machine::new(name, length))
                .collect(),
            second: None,
            opened: Vec::new(),
        }
    }

    fn vault(&self) -> DedupStore {
        self.vault.clone().unwrap()
    }

    /// The points that may go: all but the newest of each machine.
    pub(crate) fn old_points(&self) -> Vec<PointId> {
        let heads: Vec<_> = self.machines.iter().filter_map(|m| m.head).collect();
        let points = self.history.known().points.into_iter();
        points
            .map(|kept| kept.id)
            .filter(|id| !heads.contains(id))
            .collect()
    }

    /// Drops the vault as a crash does, and opens it again.
    async fn crash(&mut self) {
        self.opened.clear();
        self.vault = None;
        self.vault = Some((self.builder)().open().await.unwrap());
    }

    pub(crate) async fn step(&mut self, step: Step) {
        match step {
            Step::Protect(at) => {
                let (vault, mut group) = (self.vault(), [&mut self.machines[at]]);
                let done = self.history.protect(&vault, &mut self.random, &mut group);
                done.await.unwrap();
            }
            Step::ProtectAll => {
                let vault = self.vault();
                let mut group: Vec<_> = self.machines.iter_mut().collect();
                let done = self.history.protect(&vault, &mut self.random, &mut group);
                done.await.unwrap();
            }
            Step::Leave { machine, abort } => {
                let machine = &self.machines[machine];
                let begin = machine.begin(&mut self.random);
                let writer = self.vault().begin(begin).await.unwrap();
                images::send(&*writer, machine).await.unwrap();
                if abort {
                    writer.abort().await.unwrap();
                }
            }
            Step::Continue(at) => {
                let begin = self.machines[at].begin(&mut self.random);
                let writer = self.vault().begin(begin.clone()).await.unwrap();
                images::send(&*writer, &self.machines[at]).await.unwrap();
                drop(writer);
                self.crash().await;
                let vault = self.vault();
                let writer = vault.begin(begin.clone()).await.unwrap();
                images::send(&*writer, &self.machines[at]).await.unwrap();
                let (mut group, begins) = ([&mut self.machines[at]], [begin]);
                self.history
                    .commit(&vault, &mut self.random, &mut group, &begins)
                    .await
                    .unwrap();
            }
            Step::Expire(points) => {
                self.history.expire(&self.vault(), &points).await.unwrap();
            }
            Step::Collect => self.collect().await,
            Step::CollectMeanwhile(at) => {
                let begin = self.machines[at].begin(&mut self.random);
                let vault = self.vault();
                let writer = vault.begin(begin.clone()).await.unwrap();
                // Anywhere in the collection.
                let turns = self.random.u32(..400);
                let sending = async {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                    images::send(&*writer, &self.machines[at]).await.unwrap();
                };
                futures::join!(sending, self.collect());
                self.collect().await;
                let (mut group, begins) = ([&mut self.machines[at]], [begin]);
                self.history
                    .commit(&vault, &mut self.random, &mut group, &begins)
                    .await
                    .unwrap();
            }
            Step::Fold(at) => {
                let mut options = FoldOptions::default();
                options.worth = 110;
                let name = &self.machines[at].name;
                let folded = self.vault().fold(name, &options, &NoMonitor).await;
                if let Err(error) = folded {
                    // There is no point yet, or a synchronization was left.
                    let kinds = [ErrorKind::NotFound, ErrorKind::Conflict];
                    assert!(kinds.contains(&error.kind()), "{error}");
                }
            }
            Step::Rotate => {
                self.vault().rotate_key().await.unwrap();
            }
            Step::Open(id) => {
                let known = self.history.known().points;
                if let Some(kept) = known.into_iter().find(|kept| kept.id == id) {
                    let disk = StreamName::disk();
                    let image = self.vault().open(id, &disk).await.unwrap();
                    self.opened.push((kept, image));
                }
            }
            Step::Close => {
                for (kept, image) in std::mem::take(&mut self.opened) {
                    let length = image.geometry().length;
                    let read = image.read(ByteOffset(0), length).await.unwrap();
                    assert!(read[..] == kept.image[..], "{} is not what it was", kept.id);
                }
            }
            Step::Crash => self.crash().await,
            Step::Reopen => {
                self.opened.clear();
                self.vault().close().await.unwrap();
                self.crash().await;
            }
            Step::Rebuild => {
                self.vault().close().await.unwrap();
                self.rebuild().await;
                self.check().await;
            }
            Step::RebuildAfterCrash => {
                self.rebuild().await;
                self.expire_again().await;
                self.check().await;
            }
            Step::Verify => {
                let options = VerifyOptions::default();
                let report = self.vault().verify(&options, &NoMonitor).await.unwrap();
                let found = (report.damaged, report.damaged_tables, report.ranges.len());
                assert_eq!(found, (0, 0, 0), "{report:?}");
            }
            Step::Replicate(most) => self.replicate(most).await,
        }
    }

    /// The second vault holds what was copied, bit for bit, whatever became of it
    /// here.
    async fn replicate(&mut self, most: u64) {
        if self.second.is_none() {
            let store = Arc::new(InMemory::new());
            let second = DedupStore::on(store, "second").with_credential(Credential::key([8; 32]));
            let second = second.create().await.unwrap();
            self.second = Some((second, History::default()));
        }
        let Some((second, copies)) = &self.second else {
            return;
        };
        let mut options = ReplicateOptions::default();
        options.most_points = Some(most);
        let copied = self.vault().replicate(second, &options, &NoMonitor).await;
        let report = copied.unwrap();
        assert!(report.damaged.is_empty(), "{report:?}");
        let known = self.history.known().points;
        let fresh = report.points.iter().map(|(_, id)| {
            let kept = known.iter().find(|kept| kept.id == *id);
            kept.unwrap_or_else(|| panic!("{id} came from nowhere"))
                .clone()
        });
        copies.change(|copies| copies.points.extend(fresh));
        copies.check(second).await;
    }

    async fn collect(&self) {
        let report = self.history.collect(&self.vault()).await.unwrap();
        assert_eq!(report.unreadable.count, 0, "{report:?}");
    }

    async fn rebuild(&mut self) {
        self.opened.clear();
        self.vault = None;
        let options = RebuildOptions::default();
        let rebuilt = (self.builder)().rebuild(&options, &NoMonitor).await;
        let (vault, report) = rebuilt.unwrap();
        assert!(report.lost.is_empty(), "{report:?}");
        assert_eq!(report.unreadable.count, 0, "{report:?}");
        self.vault = Some(vault);
    }

    /// Points come back of which no page of the ledger tells yet that they had
    /// expired; whole or not, they go again.
    async fn expire_again(&self) {
        let known = self.history.known().points;
        for machine in &self.machines {
            let points = self.vault().points(&machine.name).await.unwrap();
            let back = points.iter().map(|point| point.id);
            let back: Vec<_> = back
                .filter(|id| known.iter().all(|kept| kept.id != *id))
                .collect();
            self.vault().expire(&back).await.unwrap();
        }
    }

    /// Checks all that was ever reported.
    pub(crate) async fn check(&self) {
        self.history.check(&self.vault()).await;
    }

    /// The same beside the owner, and ends.
    pub(crate) async fn end(self) {
        self.check().await;
        let reader = (self.builder)().open_read_only().await.unwrap();
        self.history.check(&reader).await;
    }
}
