//! What was run, how often it was killed, and what it did.

use std::collections::BTreeMap;
use std::fmt;

use crate::rounds::Rounds;

/// What is run and killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Command {
    Protect,
    Expire,
    Collect,
    Fold,
    Verify,
    Rebuild,
    Replicate,
    Heal,
    Rotate,
    Reseal,
    Retire,
    Undo,
    SetProtection,
    AddKey,
    RemoveKey,
}

pub(crate) const ALL: [Command; 15] = [
    Command::Protect,
    Command::Expire,
    Command::Collect,
    Command::Fold,
    Command::Verify,
    Command::Rebuild,
    Command::Replicate,
    Command::Heal,
    Command::Rotate,
    Command::Reseal,
    Command::Retire,
    Command::Undo,
    Command::SetProtection,
    Command::AddKey,
    Command::RemoveKey,
];

/// How often runs of a command ended in which way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) finished: u32,
    pub(crate) killed: u32,
    /// Of the killed ones, those whose work was done.
    pub(crate) done: u32,
}

/// What the runs did, as they told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    pub(crate) deleted: u64,
    pub(crate) folded: u64,
    pub(crate) replicated: u64,
    pub(crate) healed: u64,
    pub(crate) resealed: u64,
    pub(crate) retired: u64,
    pub(crate) undone: u64,
}

/// All of that.
#[derive(Debug, Default)]
pub(crate) struct Done {
    counts: BTreeMap<Command, Counts>,
    pub(crate) work: Work,
}

impl Done {
    pub(crate) fn of(&mut self, command: Command) -> &mut Counts {
        self.counts.entry(command).or_default()
    }

    /// Adds what one pair of vaults went through.
    pub(crate) fn end_life(&mut self, rounds: Option<Rounds>) {
        let Some(Rounds { done, .. }) = rounds else {
            return;
        };
        for (command, counts) in done.counts {
            let mine = self.of(command);
            mine.finished += counts.finished;
            mine.killed += counts.killed;
            mine.done += counts.done;
        }
        let (mine, theirs) = (&mut self.work, done.work);
        mine.deleted += theirs.deleted;
        mine.folded += theirs.folded;
        mine.replicated += theirs.replicated;
        mine.healed += theirs.healed;
        mine.resealed += theirs.resealed;
        mine.retired += theirs.retired;
        mine.undone += theirs.undone;
    }

    /// Checks that every command was killed, and was finished, and that the runs
    /// were about something.
    pub(crate) fn has_everything(&mut self) {
        for command in ALL {
            let counts = *self.of(command);
            let missed = counts.killed == 0 || counts.finished == 0;
            assert!(!missed, "the kills of {command:?} miss their aim: {self}");
        }
        let work = self.work;
        let all = [
            work.deleted,
            work.folded,
            work.replicated,
            work.healed,
            work.resealed,
            work.retired,
            work.undone,
        ];
        assert!(all.iter().all(|done| *done > 0), "too little: {self}");
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (command, counts) in &self.counts {
            writeln!(f, "{command:?}: {counts:?}")?;
        }
        write!(f, "{:?}", self.work)
    }
}
