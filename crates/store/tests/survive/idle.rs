//! What a vault asks of its store while nobody uses it.

use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Clock, Timestamp};
use backstop_store::{DedupStore, Operation, Requests};
use object_store::ObjectStore;
use object_store::memory::InMemory;

/// Goes on as the runtime's timers do.
#[derive(Debug)]
struct TimerClock(tokio::time::Instant);

impl Clock for TimerClock {
    fn now(&self) -> Timestamp {
        let passed = self.0.elapsed().as_millis() as i64;
        Timestamp(1_700_000_000_000 + passed)
    }
}

/// What an hour of doing nothing asks.
async fn hour(vault: &DedupStore) -> Requests {
    // What opening has left to do.
    tokio::time::sleep(Duration::from_mins(10)).await;
    let before = vault.usage();
    tokio::time::sleep(Duration::from_hours(1)).await;
    let usage = vault.usage().since(&before);
    eprintln!("{usage:?}");
    let by_operation = usage.by_operation();
    assert_eq!(by_operation.keys().collect::<Vec<_>>(), [&Operation::Idle]);
    usage.total()
}

/// The runtime's time is stopped, and goes on by itself.
#[tokio::test(start_paused = true)]
async fn an_idle_hour_costs_few_requests() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock: Arc<dyn Clock> = Arc::new(TimerClock(tokio::time::Instant::now()));
    let at = || DedupStore::on(Arc::clone(&store), "v").with_clock(Arc::clone(&clock));
    let owner = at().create().await.unwrap();
    let asked = hour(&owner).await;
    // The lease every 10 s; the collector of the catalog's garbage.
    assert!(asked.puts <= 360 && asked.lists <= 36, "{asked:?}");
    assert!(asked.reads() <= 300, "{asked:?}");
    owner.close().await.unwrap();
    let reader = at().open_read_only().await.unwrap();
    let asked = hour(&reader).await;
    // Its registration every 5 minutes, and its checkpoint as often.
    assert!(asked.writes() <= 30, "{asked:?}");
    assert!(asked.reads() <= 1300, "{asked:?}");
    reader.close().await.unwrap();
}
