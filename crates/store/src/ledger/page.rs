//! What stands in the pages of the ledger: events, and summaries that take the
//! place of many.

use backstop_core::{ChunkDigest, Marks, PointId, Protection, ReplicaState, SourceName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::map::tree::digest_text;
use crate::operators::Operators;
use crate::pack::name::PackName;
use crate::record::Expiry;

/// What no point's record tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub(crate) enum Event {
    /// A point has expired, and can be brought back.
    Expired { point: PointId, expiry: Expiry },
    /// It is back.
    Undone { point: PointId },
    /// Points are gone for good.
    Removed { points: Vec<PointId> },
    /// An operator set the marks of a point.
    Marked { point: PointId, marks: Marks },
    /// A replica came into another state, otherwise than by a commit.
    State {
        source: SourceName,
        state: ReplicaState,
    },
    /// The vault is protected otherwise.
    Protected { protection: Protection },
    /// There are other operators, or another number of them is needed.
    Operators { operators: Operators },
    /// Nobody may rely on these packs any more.
    Condemned { packs: Vec<PackName> },
    /// These commits of an owner are known to have failed, though their records
    /// may stand in packs.
    Failed { epoch: u64, sequences: Vec<u64> },
    /// An owner began after one that had not ended well. What an earlier one
    /// numbered by `began` or more was not committed.
    Began { epoch: u64, began: u64 },
    /// The catalog was made anew.
    Rebuilt(Rebuilt),
}

/// What a rebuild knew. It is final: what comes to light of older catalogs
/// later, written by an owner that woke, changes nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rebuilt {
    /// Of the owner that rebuilt it, and from which it numbers.
    pub(crate) epoch: u64,
    pub(crate) began: u64,
    /// When the catalogs before it were fenced, by its clock.
    pub(crate) at: Timestamp,
    /// The older catalogs.
    pub(crate) older: Vec<Replaced>,
    /// Epoch and sequence of points of older catalogs that count whatever else
    /// is told of them: a rebuild has taken them in.
    #[serde(default)]
    pub(crate) accepted: Vec<(u64, u64)>,
    /// Epoch and sequence of points of older catalogs that came to light later and
    /// were found not to have been committed.
    #[serde(default)]
    pub(crate) refused: Vec<(u64, u64)>,
    /// What was known of the owners of older catalogs: from where they numbered,
    /// and which commits had failed.
    #[serde(default)]
    pub(crate) owners: Vec<(u64, u64)>,
    #[serde(default)]
    pub(crate) failed: Vec<(u64, u64)>,
    /// The pages that were read and counted.
    pub(crate) pages: Vec<PageName>,
}

/// A catalog that a rebuild has replaced: what was decided by that one, however
/// often the vault was rebuilt since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replaced {
    pub(crate) catalog: u32,
    /// Its last owners of which anything was seen, at most [`Replaced::OWNERS`], by
    /// epoch, each with the sequence after the highest one seen of it. What is of
    /// others, or beyond, was not seen; what is of owners before these counts as
    /// seen.
    pub(crate) seen: Vec<(u64, u64)>,
    /// When it was fenced.
    pub(crate) at: Timestamp,
}

impl Rebuilt {
    /// How many names and numbers it has.
    pub(crate) fn names(&self) -> usize {
        let numbers = [&self.accepted, &self.refused, &self.owners, &self.failed];
        let numbers = numbers.map(Vec::len).into_iter().sum::<usize>();
        let seen: usize = self.older.iter().map(|older| older.seen.len()).sum();
        self.pages.len() + numbers + seen
    }
}

impl Replaced {
    /// So many owners are told apart.
    pub(crate) const OWNERS: usize = 64;

    /// Whether what an owner numbered so was seen.
    pub(crate) fn has_seen(&self, epoch: u64, sequence: u64) -> bool {
        let Some((first, _)) = self.seen.first() else {
            return false;
        };
        match self.seen.binary_search_by_key(&epoch, |(owner, _)| *owner) {
            Ok(at) => sequence < self.seen[at].1,
            Err(_) => epoch < *first && self.seen.len() == Self::OWNERS,
        }
    }
}

/// What of the past of a vault stays true, whatever becomes of the packs that
/// told it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Past {
    /// The last rebuild.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rebuilt: Option<Rebuilt>,
    /// Owners and from where they number: those that began after one that had
    /// not ended well.
    #[serde(default)]
    pub(crate) began: Vec<(u64, u64)>,
    /// Epoch and sequence of commits that have failed, the last few thousand.
    #[serde(default)]
    pub(crate) failed: Vec<(u64, u64)>,
}

impl Past {
    /// So many failed commits are kept.
    const FAILED: usize = 8 << 10;

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Notes commits that have failed.
    pub(crate) fn fail(&mut self, epoch: u64, sequences: &[u64]) {
        let failed = sequences.iter().map(|sequence| (epoch, *sequence));
        self.failed.extend(failed);
        let first = self.failed.len().saturating_sub(Self::FAILED);
        self.failed.drain(..first);
    }
}

/// An event and its place among all events and points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LedgerEntry {
    pub(crate) sequence: u64,
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// All that there was when the next point or event would have had `sequence`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) sequence: u64,
    /// Of several pages, which; they count only together.
    pub(crate) part: u32,
    pub(crate) parts: u32,
    /// The vault's time.
    #[serde(default)]
    pub(crate) time: Option<Timestamp>,
    #[serde(default)]
    pub(crate) protection: Option<Protection>,
    #[serde(default)]
    pub(crate) operators: Option<Operators>,
    /// All points that were, expired ones that could be brought back among them.
    pub(crate) points: Vec<PointId>,
    #[serde(default)]
    pub(crate) expired: Vec<(PointId, Expiry)>,
    /// Those of them that were marked.
    pub(crate) marks: Vec<(PointId, Marks)>,
    pub(crate) states: Vec<(SourceName, ReplicaState)>,
    pub(crate) condemned: Vec<PackName>,
    #[serde(default, skip_serializing_if = "Past::is_empty")]
    pub(crate) past: Past,
}

/// The name of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PageName {
    #[serde(with = "digest_text")]
    pub(crate) frame: Option<ChunkDigest>,
}

impl From<ChunkDigest> for PageName {
    fn from(digest: ChunkDigest) -> Self {
        Self {
            frame: Some(digest),
        }
    }
}

/// What a frame of the ledger holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Page {
    Entries(Vec<LedgerEntry>),
    Summary(Box<Summary>),
}

/// The plain bytes of such a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PageRecord {
    /// Of the owner that wrote it, and from which it numbers.
    pub(crate) epoch: u64,
    pub(crate) began: u64,
    pub(crate) page: Page,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    fn point(number: usize) -> PointId {
        PointId::from_bytes((number as u128).to_le_bytes())
    }

    #[test]
    fn pages_round_trip() {
        let entry = |sequence, event| LedgerEntry { sequence, event };
        let marks = Marks {
            pinned: true,
            holds: ["a lawsuit".to_owned()].into(),
        };
        let source = SourceName::new("vm").unwrap();
        let entries = Page::Entries(vec![
            entry(
                1,
                Event::Removed {
                    points: vec![point(1), point(2)],
                },
            ),
            entry(
                2,
                Event::Marked {
                    point: point(3),
                    marks: marks.clone(),
                },
            ),
            entry(
                9,
                Event::State {
                    source: source.clone(),
                    state: ReplicaState::Consistent,
                },
            ),
            entry(
                10,
                Event::Condemned {
                    packs: vec![PackName::generate(3).unwrap()],
                },
            ),
            entry(
                11,
                Event::Failed {
                    epoch: 4,
                    sequences: vec![7, 8],
                },
            ),
            entry(12, Event::Began { epoch: 5, began: 9 }),
            entry(
                13,
                Event::Rebuilt(Rebuilt {
                    epoch: 1 << 32,
                    began: 1 << 32,
                    at: Timestamp(8),
                    older: vec![Replaced {
                        catalog: 0,
                        seen: vec![(3, 9), (4, 13)],
                        at: Timestamp(8),
                    }],
                    accepted: vec![(3, 9)],
                    refused: vec![(3, 10)],
                    owners: vec![(4, 10)],
                    failed: vec![(4, 12)],
                    pages: vec![ChunkDigest::of(b"a page").into()],
                }),
            ),
        ]);
        let summary = Page::Summary(Box::new(Summary {
            sequence: 12,
            part: 0,
            parts: 1,
            time: Some(Timestamp(7)),
            protection: Some(Protection::default()),
            operators: None,
            points: vec![point(3)],
            expired: vec![(
                point(3),
                Expiry {
                    at: Timestamp(5),
                    until: Timestamp(6),
                },
            )],
            marks: vec![(point(3), marks)],
            states: vec![(source, ReplicaState::Consistent)],
            condemned: vec![PackName::generate(4).unwrap()],
            past: Past {
                rebuilt: Some(Rebuilt::default()),
                began: vec![(5, 9)],
                failed: vec![(4, 7)],
            },
        }));
        for page in [entries, summary] {
            let page = PageRecord {
                epoch: 5,
                began: 9,
                page,
            };
            let bytes = record::encode(&page).unwrap();
            assert_eq!(
                record::decode::<PageRecord>("a page", &bytes).unwrap(),
                page
            );
        }
    }
}
