//! What a vault is put through, step by step, beside plain images that it must
//! agree with: for random sequences and for the fuzzer's.

use backstop_core::{PointId, RecoveryStore};
use backstop_store::{DedupStore, DedupStoreBuilder};

use crate::history::History;
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
    /// The process dies, and the vault is opened again.
    Crash,
    /// The vault is closed and opened again.
    Reopen,
}

/// A vault and the machines that it protects.
pub(crate) struct Play<B> {
    builder: B,
    vault: Option<DedupStore>,
    pub(crate) history: History,
    pub(crate) random: fastrand::Rng,
    pub(crate) machines: Vec<Machine>,
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
            Step::Crash => self.crash().await,
            Step::Reopen => {
                self.vault().close().await.unwrap();
                self.crash().await;
            }
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
