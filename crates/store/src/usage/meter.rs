//! Counts requests while they are made, by what they are made for.
//!
//! A request counts for the operation whose task makes it: each call of the
//! vault marks its task, and what it starts carries the mark on. SlateDB makes
//! its requests in tasks of its own, for whoever wrote meanwhile: these count for
//! the operation that is under way, if all that are under way are of one kind.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use metrics::{Counter, counter};

use super::{ObjectKind, Operation, Requests, StoreUsage};

tokio::task_local! {
    /// What this task works for.
    static OPERATION: Operation;
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    Upload,
    Part,
    Get,
    Head,
    List,
    Delete,
    Copy,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Put,
        Self::Upload,
        Self::Part,
        Self::Get,
        Self::Head,
        Self::List,
        Self::Delete,
        Self::Copy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Upload => "upload",
            Self::Part => "part",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Copy => "copy",
        }
    }
}

/// One kind of request, for one kind of object, in one operation.
#[derive(Default)]
struct Cell {
    count: AtomicU64,
    bytes: AtomicU64,
    /// Made when it is first needed, so that what never happens shows nowhere.
    counters: OnceLock<(Counter, Counter)>,
}

const OPERATIONS: usize = Operation::ALL.len();
const OBJECTS: usize = ObjectKind::ALL.len();
const KINDS: usize = Kind::ALL.len();

/// Counts what one open vault asks of its store.
#[derive(Default)]
pub(crate) struct Meter {
    cells: [[[Cell; KINDS]; OBJECTS]; OPERATIONS],
    /// How many operations of each kind are under way.
    active: [AtomicU32; OPERATIONS],
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

impl Meter {
    /// Counts a request.
    pub(crate) fn count(&self, object: ObjectKind, kind: Kind, bytes: u64) {
        self.count_for(self.operation(), object, kind, 1, bytes);
    }

    /// Counts several of a kind for an operation.
    pub(crate) fn count_for(
        &self,
        operation: Operation,
        object: ObjectKind,
        kind: Kind,
        count: u64,
        bytes: u64,
    ) {
        let cell = &self.cells[operation as usize][object as usize][kind as usize];
        cell.count.fetch_add(count, Ordering::Relaxed);
        cell.bytes.fetch_add(bytes, Ordering::Relaxed);
        let (requests, moved) = cell.counters.get_or_init(|| {
            let (operation, object, kind) = (operation.name(), object.name(), kind.name());
            (
                counter!("backstop_store_requests", "operation" => operation, "object" => object, "request" => kind),
                counter!("backstop_store_request_bytes", "operation" => operation, "object" => object, "request" => kind),
            )
        });
        requests.increment(count);
        if bytes > 0 {
            moved.increment(bytes);
        }
    }

    /// What a request that is made now is made for.
    pub(crate) fn operation(&self) -> Operation {
        if let Some(operation) = marked() {
            return operation;
        }
        let mut active = Operation::ALL
            .into_iter()
            .filter(|at| self.active[*at as usize].load(Ordering::Relaxed) > 0);
        match (active.next(), active.next()) {
            (None, _) => Operation::Idle,
            (Some(only), None) => only,
            (Some(_), Some(_)) => Operation::Several,
        }
    }

    /// Says that an operation is under way, until what this gives is dropped.
    pub(crate) fn begin(self: &Arc<Self>, operation: Operation) -> UnderWay {
        self.active[operation as usize].fetch_add(1, Ordering::Relaxed);
        UnderWay {
            meter: Arc::clone(self),
            operation,
        }
    }

    /// Work whose requests count for an operation. Inside another it is a part
    /// of that.
    pub(crate) async fn during<T>(
        self: &Arc<Self>,
        operation: Operation,
        work: impl Future<Output = T>,
    ) -> T {
        if marked().is_some() {
            return work.await;
        }
        self.begin(operation).mark(work).await
    }

    /// What was counted so far.
    pub(crate) fn usage(&self) -> StoreUsage {
        let mut usage = StoreUsage::default();
        for (operation, objects) in Operation::ALL.into_iter().zip(&self.cells) {
            for (object, kinds) in ObjectKind::ALL.into_iter().zip(objects) {
                let mut requests = Requests::default();
                for (kind, cell) in Kind::ALL.into_iter().zip(kinds) {
                    let bytes = cell.bytes.load(Ordering::Relaxed);
                    *counted(&mut requests, kind) = cell.count.load(Ordering::Relaxed);
                    match kind {
                        Kind::Get => requests.bytes_received += bytes,
                        _ => requests.bytes_sent += bytes,
                    }
                }
                usage.add(operation, object, requests);
            }
        }
        usage
    }
}

fn counted(requests: &mut Requests, kind: Kind) -> &mut u64 {
    match kind {
        Kind::Put => &mut requests.puts,
        Kind::Upload => &mut requests.uploads,
        Kind::Part => &mut requests.parts,
        Kind::Get => &mut requests.gets,
        Kind::Head => &mut requests.heads,
        Kind::List => &mut requests.lists,
        Kind::Delete => &mut requests.deletes,
        Kind::Copy => &mut requests.copies,
    }
}

/// The mark of this task.
fn marked() -> Option<Operation> {
    OPERATION.try_with(|operation| *operation).ok()
}

/// Work whose requests count for an operation.
pub(crate) async fn marked_as<T>(operation: Operation, work: impl Future<Output = T>) -> T {
    OPERATION.scope(operation, work).await
}

/// Work for a task of its own, with the mark of this one.
pub(crate) fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let operation = marked();
    async move {
        match operation {
            Some(operation) => marked_as(operation, work).await,
            None => work.await,
        }
    }
}

/// An operation that is under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    meter: Arc<Meter>,
    operation: Operation,
}

impl UnderWay {
    /// Work whose requests count for it, whatever else is under way.
    pub(crate) async fn mark<T>(&self, work: impl Future<Output = T>) -> T {
        marked_as(marked().unwrap_or(self.operation), work).await
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.meter.active[self.operation as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What counts, and for whom, in the order in which it was asked.
    #[tokio::test]
    async fn requests_count_for_who_makes_them_or_for_all_that_are_under_way() {
        let meter = Arc::new(Meter::default());
        let ask = || meter.count(ObjectKind::Catalog, Kind::Get, 7);
        ask();
        let first = meter.begin(Operation::Synchronize);
        let second = meter.begin(Operation::Synchronize);
        ask();
        let third = meter.begin(Operation::Collect);
        ask();
        let work = async {
            ask();
            // A part of it, and a task that it starts.
            meter.during(Operation::List, async { ask() }).await;
            let meter = Arc::clone(&meter);
            let task = async move { meter.count(ObjectKind::Other, Kind::Put, 5) };
            tokio::spawn(carried(task)).await.unwrap();
        };
        meter.during(Operation::Restore, work).await;
        drop((first, second));
        ask();
        drop(third);
        ask();
        let gets = |count| Requests {
            gets: count,
            bytes_received: 7 * count,
            ..Requests::default()
        };
        let mut expected = StoreUsage::default();
        for (operation, count) in [
            (Operation::Idle, 2),
            (Operation::Synchronize, 1),
            (Operation::Several, 1),
            (Operation::Restore, 2),
            (Operation::Collect, 1),
        ] {
            expected.add(operation, ObjectKind::Catalog, gets(count));
        }
        let put = Requests {
            puts: 1,
            bytes_sent: 5,
            ..Requests::default()
        };
        expected.add(Operation::Restore, ObjectKind::Other, put);
        assert_eq!(meter.usage(), expected);
    }

    #[test]
    fn each_kind_has_its_own_place() {
        let meter = Meter::default();
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
            meter.count_for(
                Operation::Open,
                ObjectKind::Other,
                kind,
                10u64.pow(u32::try_from(at).unwrap()),
                0,
            );
        }
        for (at, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, at);
        }
        for (at, object) in ObjectKind::ALL.into_iter().enumerate() {
            assert_eq!(object as usize, at);
        }
        let total = meter.usage().total();
        assert_eq!((total.puts, total.uploads, total.parts), (1, 10, 100));
        assert_eq!(
            (total.gets, total.heads, total.lists),
            (1_000, 10_000, 100_000)
        );
        assert_eq!((total.deletes, total.copies), (1_000_000, 10_000_000));
    }
}
