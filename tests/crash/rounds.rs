//! One round of each command: what makes it worth running, the run, and what
//! must hold afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::{ChunkDigest, Maintenance, PointId};
use serde_json::Value;

use crate::done::{Command, Done};
use crate::keeping::Slots;
use crate::lab::{Ended, Lab, Run};
use crate::vaults::{self, Found, Vault, ids};

/// The points that are to be kept where points expire.
const KEPT: usize = 3;

const OTHER: [&str; 4] = ["--other", "second", "--other-key-file", "second.key"];

/// Two vaults, and what was done to them.
pub(crate) struct Rounds {
    lab: Lab,
    random: fastrand::Rng,
    main: Vault,
    second: Vault,
    slots: Slots,
    /// What the image was when a synchronization was killed: a rebuild may find
    /// it whole.
    attempts: Vec<ChunkDigest>,
    usual: BTreeMap<Command, Duration>,
    kills_readers: bool,
    pub(crate) done: Done,
}

impl Rounds {
    pub(crate) fn new(mut random: fastrand::Rng, kills_readers: bool) -> Self {
        let lab = Lab::new(&mut random);
        let (main, second) = (Vault::new("vault", 42), Vault::new("second", 43));
        for vault in [&main, &second] {
            std::fs::write(lab.path(&format!("{}.key", vault.name)), vault.key()).unwrap();
        }
        std::fs::write(lab.path("hurt.key"), main.key()).unwrap();
        let mut rounds = Self {
            lab,
            random,
            main,
            second,
            slots: Slots::default(),
            attempts: Vec::new(),
            usual: BTreeMap::new(),
            kills_readers,
            done: Done::default(),
        };
        for name in ["vault", "second"] {
            rounds.to_its_end(name, &["init"]);
        }
        rounds.slots = Slots::first(&rounds.to_its_end("vault", &["key", "list"]));
        rounds.protect_whole();
        rounds
    }

    /// Runs a command as its user does, to its end.
    fn to_its_end(&self, vault: &str, arguments: &[&str]) -> Value {
        let ended = self.lab.run(&Run {
            vault,
            arguments,
            kill_after: None,
            codes: &[],
        });
        ended.told().unwrap().clone()
    }

    /// Runs a command that may be killed. The first time it is not, so that it
    /// is known how long it takes.
    fn run(&mut self, command: Command, vault: &str, arguments: &[&str], codes: &[i32]) -> Ended {
        let usual = self.usual.get(&command).copied();
        let reads = matches!(command, Command::Replicate | Command::Heal);
        let may_die = self.kills_readers || !reads;
        let kill = usual.filter(|_| may_die && self.random.u8(..5) != 0);
        let kill_after = kill.map(|usual| usual.mul_f64(self.random.f64() * 1.2));
        let ended = self.lab.run(&Run {
            vault,
            arguments,
            kill_after,
            codes,
        });
        let counts = self.done.of(command);
        match &ended {
            Ended::Killed => counts.killed += 1,
            Ended::Told(_, took) => {
                counts.finished += 1;
                if kill_after.is_none() {
                    let usual = self.usual.entry(command).or_insert(*took);
                    *usual = (*usual + *took) / 2;
                }
            }
        }
        ended
    }

    /// A killed run had done its work.
    fn was_done(&mut self, command: Command, ended: &Ended) {
        if matches!(ended, Ended::Killed) {
            self.done.of(command).done += 1;
        }
    }

    async fn look(&self) -> Vec<Found> {
        self.main.look(self.lab.path("").as_path()).await
    }

    /// A round: the command, and then both vaults are what they must be.
    pub(crate) async fn go(&mut self, command: Command) {
        match command {
            Command::Protect => self.protect().await,
            Command::Expire => self.expire().await,
            Command::Collect => self.collect(),
            Command::Fold => self.fold(),
            Command::Verify => self.verify(),
            Command::Rebuild => self.rebuild().await,
            Command::Replicate => self.replicate().await,
            Command::Heal => self.heal().await,
            Command::Rotate => drop(self.run(command, "vault", &["key", "rotate"], &[])),
            Command::Reseal => self.reseal(),
            Command::Retire => self.retire(),
            Command::Undo => self.undo().await,
            Command::SetProtection => {
                let days = if self.random.bool() { "1" } else { "0" };
                let words = ["protection", "set", "--undo", days];
                self.run(command, "vault", &words, &[]);
            }
            Command::AddKey => self.add_key(),
            Command::RemoveKey => self.remove_key(),
        }
        let folder = self.lab.path("");
        self.main.is_as_known(&folder).await;
        self.second.is_as_known(&folder).await;
        self.slots.open(&folder.join("vault")).await;
    }

    fn protect_whole(&mut self) {
        self.lab.change(&mut self.random);
        let told = self.to_its_end("vault", &["protect", "vm", "--image", "image"]);
        self.main.points.insert(id_of(&told), self.lab.digest());
        self.lab.dirty = Some(Vec::new());
    }

    /// After all of it, what is old is given back: killed readers are not waited for.
    pub(crate) async fn end(&mut self) {
        for _ in 0..2 {
            self.protect_whole();
        }
        self.to_its_end("vault", &["protection", "set", "--undo", "0"]);
        let folder = self.lab.path("");
        let before = ids(&self.main.look(&folder).await);
        let kept = KEPT.to_string();
        let words = ["expire", "vm", "--keep-last", &kept, "--min-age", "0s"];
        self.to_its_end("vault", &words);
        let old = before.len().saturating_sub(KEPT);
        self.main.lose(&before[..old]);
        let report = self.to_its_end("vault", &["collect", "--most-dead", "0"]);
        let count = |what: &str| report[what]["count"].as_u64().unwrap();
        assert_eq!(count("waiting"), 0, "nobody reads: {report}");
        self.done.work.deleted += count("deleted");
        self.main.is_as_known(&folder).await;
    }

    async fn protect(&mut self) {
        self.lab.change(&mut self.random);
        let mut arguments = vec!["protect", "vm", "--image", "image"];
        if self.random.u8(..8) != 0 && self.lab.write_extents() {
            arguments.extend(["--extents", "extents"]);
        }
        let ended = self.run(Command::Protect, "vault", &arguments, &[]);
        let holds = self.lab.digest();
        if let Some(point) = ended.told() {
            self.main.points.insert(id_of(point), holds);
        }
        // A point may have been committed without its report reaching us.
        let found = self.look().await;
        let new: Vec<Found> = found
            .into_iter()
            .filter(|(id, _)| !self.main.points.contains_key(id))
            .collect();
        assert!(new.len() <= usize::from(ended.told().is_none()), "{new:?}");
        for (id, holds_now) in &new {
            assert_eq!(*holds_now, Some(holds), "{id} is half made");
            self.main.points.insert(*id, holds);
            self.was_done(Command::Protect, &ended);
        }
        if ended.told().is_some() || !new.is_empty() {
            self.lab.dirty = Some(Vec::new());
        } else {
            self.attempts.push(holds);
        }
    }

    /// Removes all but the newest points of one of the vaults.
    async fn expire(&mut self) {
        let in_second = self.random.u8(..3) == 0;
        let name = if in_second { "second" } else { "vault" };
        let folder = self.lab.path("");
        let vault = if in_second { &self.second } else { &self.main };
        let before = ids(&vault.look(&folder).await);
        let kept = KEPT.to_string();
        let words = ["expire", "vm", "--keep-last", &kept, "--min-age", "0s"];
        // The second vault may hold nothing yet.
        let ended = self.run(Command::Expire, name, &words, &[4]);
        let vault = if in_second {
            &mut self.second
        } else {
            &mut self.main
        };
        let now = ids(&vaults::look(vault.at(&folder)).await);
        let (old, kept) = before.split_at(before.len().saturating_sub(KEPT));
        assert!(
            now == before || now == kept,
            "half an expiry: {before:?} to {now:?}"
        );
        if ended.told().is_some() {
            assert_eq!(now, kept);
        }
        if now != before {
            vault.lose(old);
            self.was_done(Command::Expire, &ended);
        }
    }

    fn collect(&mut self) {
        let in_second = self.random.u8(..3) == 0;
        let name = if in_second { "second" } else { "vault" };
        let words = ["collect", "--most-dead", "3"];
        let ended = self.run(Command::Collect, name, &words, &[]);
        self.done.work.deleted += number(&ended, "/deleted/count");
    }

    fn fold(&mut self) {
        let words = ["fold", "vm", "--worth", "101"];
        let ended = self.run(Command::Fold, "vault", &words, &[]);
        self.done.work.folded += number(&ended, "/0/folded");
    }

    fn verify(&mut self) {
        let words = ["verify", "--parts", "2"];
        let ended = self.run(Command::Verify, "vault", &words, &[]);
        assert_eq!(number(&ended, "/damaged"), 0, "{ended:?}");
    }

    /// Points come back of which no page of the ledger tells yet that they had
    /// expired, and those that were whole when their synchronization was killed.
    async fn rebuild(&mut self) {
        let ended = self.run(Command::Rebuild, "vault", &["rebuild"], &[8]);
        let mut again = Vec::new();
        for (id, holds) in self.look().await {
            if self.main.points.contains_key(&id) {
                continue;
            }
            self.was_done(Command::Rebuild, &ended);
            if let Some(was) = self.main.gone.get(&id) {
                assert!(
                    holds.is_none_or(|holds| holds == *was),
                    "{id} came back wrong"
                );
                again.push(id);
            } else {
                let holds = holds.unwrap_or_else(|| panic!("{id} came from nowhere"));
                assert!(self.attempts.contains(&holds), "{id} is half made");
                self.main.points.insert(id, holds);
            }
        }
        if ended.told().is_some() {
            self.attempts.clear();
        }
        let vault = self.main.at(&self.lab.path("")).open().await.unwrap();
        vault.expire(&again).await.unwrap();
        vault.close().await.unwrap();
    }

    async fn replicate_all(&mut self) {
        let words: Vec<&str> = ["replicate"].into_iter().chain(OTHER).collect();
        self.to_its_end("vault", &words);
        self.done.work.replicated += self.settle_second().await;
    }

    async fn replicate(&mut self) {
        let words: Vec<&str> = ["replicate"].into_iter().chain(OTHER).collect();
        let ended = self.run(Command::Replicate, "vault", &words, &[]);
        self.done.work.replicated += self.settle_second().await;
        if let Some(told) = ended.told() {
            let newest = self.look().await.last().unwrap().0;
            assert!(self.second.points.contains_key(&newest), "{told}");
        }
    }

    /// Finds out which points the second vault has now; they hold what they
    /// hold here.
    async fn settle_second(&mut self) -> u64 {
        let found = self.second.look(&self.lab.path("")).await;
        let mut new = 0;
        for (id, holds) in found {
            if !self.second.points.contains_key(&id) {
                let here = self.main.points.get(&id).copied();
                assert!(here.is_some() && holds == here, "{id} is half copied");
                self.second.points.extend(holds.map(|holds| (id, holds)));
                new += 1;
            }
        }
        new
    }

    /// A copy of the vault is damaged and healed from the second one.
    async fn heal(&mut self) {
        self.replicate_all().await;
        self.lab.copy("vault", "hurt");
        self.lab.scratch("hurt");
        // What nothing needs is nowhere else: it stays damaged.
        let words: Vec<&str> = ["heal"].into_iter().chain(OTHER).collect();
        let ended = self.run(Command::Heal, "hurt", &words, &[8]);
        self.done.work.healed += number(&ended, "/healed/healed");
        if ended.told().is_none() {
            let ended = self.lab.run(&Run {
                vault: "hurt",
                arguments: &words,
                kill_after: None,
                codes: &[8],
            });
            self.done.work.healed += number(&ended, "/healed/healed");
        }
        let hurt = vaults::at(&self.lab.path("hurt"), self.main.key());
        let found: BTreeMap<_, _> = vaults::look(hurt).await.into_iter().collect();
        for (id, holds) in &self.main.points {
            if self.second.points.contains_key(id) {
                assert_eq!(found.get(id), Some(&Some(*holds)), "{id} is not healed");
            }
        }
        let _ = std::fs::remove_dir_all(self.lab.path("hurt"));
    }

    fn reseal(&mut self) {
        let words = ["collect", "--reseal", "--most-dead", "100"];
        let ended = self.run(Command::Reseal, "vault", &words, &[]);
        self.done.work.resealed += number(&ended, "/resealed/count");
    }

    fn retire(&mut self) {
        let words = ["collect", "--reseal", "--most-dead", "100"];
        self.to_its_end("vault", &words);
        let ended = self.run(Command::Retire, "vault", &["key", "retire"], &[]);
        let retired = ended.told().and_then(|told| told["retired"].as_array());
        self.done.work.retired += retired.map_or(0, |keys| keys.len() as u64);
    }

    /// Lets points expire that can come back, and brings some back.
    async fn undo(&mut self) {
        while self.main.points.len() < 2 {
            self.protect_whole();
        }
        self.to_its_end("vault", &["protection", "set", "--undo", "1"]);
        let before = ids(&self.look().await);
        let words = ["expire", "vm", "--keep-last", "1", "--min-age", "0s"];
        self.to_its_end("vault", &words);
        self.main.lose(&before[..before.len() - 1]);
        let told = self.to_its_end("vault", &["points", "vm", "--expired"]);
        let mut back: Vec<PointId> = told.as_array().unwrap().iter().map(id_of).collect();
        self.random.shuffle(&mut back);
        back.truncate(self.random.usize(1..=3));
        let texts: Vec<String> = back.iter().map(ToString::to_string).collect();
        let mut words = vec!["undo"];
        words.extend(texts.iter().map(String::as_str));
        let ended = self.run(Command::Undo, "vault", &words, &[]);
        let found: BTreeMap<_, _> = self.look().await.into_iter().collect();
        let there = back.iter().filter(|id| found.contains_key(id)).count();
        assert!(
            there == 0 || there == back.len(),
            "half an undoing: {there}"
        );
        assert!(there > 0 || ended.told().is_none(), "nothing is back");
        if there > 0 {
            self.was_done(Command::Undo, &ended);
            self.done.work.undone += there as u64;
            for id in back {
                let holds = self.main.gone.remove(&id).unwrap();
                assert_eq!(found[&id], Some(holds), "{id} came back wrong");
                self.main.points.insert(id, holds);
            }
        }
    }

    fn add_key(&mut self) {
        let mut key = [0; 32];
        self.random.fill(&mut key);
        std::fs::write(self.lab.path("new.key"), key).unwrap();
        let words = ["key", "add", "--new-key-file", "new.key"];
        let ended = self.run(Command::AddKey, "vault", &words, &[]);
        if let Some(told) = ended.told() {
            self.slots.added(told, key);
        }
        let listed = self.to_its_end("vault", &["key", "list"]);
        if self.slots.adopt(&listed, key) {
            self.was_done(Command::AddKey, &ended);
        }
    }

    fn remove_key(&mut self) {
        if self.slots.extra().is_empty() {
            let mut key = [0; 32];
            self.random.fill(&mut key);
            std::fs::write(self.lab.path("new.key"), key).unwrap();
            let words = ["key", "add", "--new-key-file", "new.key"];
            let told = self.to_its_end("vault", &words);
            self.slots.added(&told, key);
        }
        let extra = self.slots.extra();
        let slot = extra[self.random.usize(..extra.len())].clone();
        let words = ["key", "remove", &slot];
        let ended = self.run(Command::RemoveKey, "vault", &words, &[]);
        let listed = self.to_its_end("vault", &["key", "list"]);
        let is_gone = self.slots.settle_removal(&listed, &slot);
        assert!(is_gone || ended.told().is_none(), "{slot} is still there");
        if is_gone {
            self.was_done(Command::RemoveKey, &ended);
        }
    }
}

fn id_of(point: &Value) -> PointId {
    point["id"].as_str().unwrap().parse().unwrap()
}

/// A number that a run told, if it told anything.
fn number(ended: &Ended, pointer: &str) -> u64 {
    let told = ended.told().map(|told| told.pointer(pointer));
    told.map_or(0, |number| number.and_then(Value::as_u64).unwrap())
}
