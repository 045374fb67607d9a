//! What was asked of the store is kept by month: it survives opening again, and
//! what a killed process leaves out is what came after it last kept it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Clock, ManualClock, RecoveryStore, ReplicaState, SourceName, Timestamp};
use backstop_store::{DedupStore, Operation, Requests, StoreUsage, Takeover};
use object_store::ObjectStore;
use object_store::memory::InMemory;

/// 2026-11-30T23:30:00Z.
const LATE: Timestamp = Timestamp(1_796_081_400_000);

struct Lab {
    store: Arc<dyn ObjectStore>,
    clock: Arc<ManualClock>,
}

impl Lab {
    fn new() -> Self {
        Self {
            store: Arc::new(InMemory::new()),
            clock: Arc::new(ManualClock::at(LATE)),
        }
    }

    fn at(&self) -> backstop_store::DedupStoreBuilder {
        DedupStore::on(Arc::clone(&self.store), "v")
            .with_clock(Arc::clone(&self.clock) as Arc<dyn Clock>)
    }
}

async fn change(vault: &DedupStore, name: &str) {
    let source = SourceName::new(name).unwrap();
    vault
        .set_state(&source, ReplicaState::Pending)
        .await
        .unwrap();
}

/// What is kept, by month.
async fn kept(vault: &DedupStore) -> BTreeMap<String, Requests> {
    let months = vault.usage_by_month().await.unwrap().into_iter();
    let sum = |usage: backstop_store::UsageByOperation| {
        let mut sum = Requests::default();
        for requests in usage.into_values() {
            sum += requests;
        }
        sum
    };
    months
        .map(|month| (month.month, sum(month.operations)))
        .collect()
}

fn at_most(kept: &Requests, asked: &StoreUsage) -> bool {
    asked.total().since(kept) != Requests::default()
        && kept.since(&asked.total()) == Requests::default()
}

#[tokio::test]
async fn what_was_asked_is_kept_by_month() {
    let lab = Lab::new();
    let first = lab.at().create().await.unwrap();
    change(&first, "a").await;
    assert!(
        kept(&first).await.is_empty(),
        "nothing is written for it alone"
    );
    first.close().await.unwrap();

    let second = lab.at().open().await.unwrap();
    let months = kept(&second).await;
    assert_eq!(months.keys().collect::<Vec<_>>(), ["2026-11"]);
    let november = months["2026-11"];
    // All but what the end of closing takes.
    assert!(at_most(&november, &first.usage()), "{november:?}");
    let opened = first.usage().by_operation()[&Operation::Open];
    let by_operation = second.usage_by_month().await.unwrap().remove(0).operations;
    assert_eq!(by_operation[&Operation::Open], opened);

    // In the next month.
    lab.clock.advance(Duration::from_mins(30));
    change(&second, "b").await;
    let months = kept(&second).await;
    assert_eq!(months.keys().collect::<Vec<_>>(), ["2026-11", "2026-12"]);
    assert_eq!(months["2026-11"], november);
    assert!(at_most(&months["2026-12"], &second.usage()));
    // Not again for an hour.
    lab.clock.advance(Duration::from_mins(59));
    change(&second, "c").await;
    assert_eq!(kept(&second).await, months);
    lab.clock.advance(Duration::from_mins(1));
    change(&second, "d").await;
    let later = kept(&second).await;
    assert!(later["2026-12"].count() > months["2026-12"].count());
    second.close().await.unwrap();

    let reader = lab.at().open_read_only().await.unwrap();
    let all = kept(&reader).await;
    assert!(all["2026-12"].count() > later["2026-12"].count());
    assert!(at_most(&all["2026-12"], &second.usage()));
    reader.close().await.unwrap();
    // A reader keeps nothing of its own.
    let third = lab.at().open().await.unwrap();
    assert_eq!(kept(&third).await, all);
    third.close().await.unwrap();
}

/// One that never closes, and whose last change is durable.
#[tokio::test]
async fn a_killed_owner_has_kept_what_it_had_asked_at_its_last_change_of_an_hour() {
    let lab = Lab::new();
    lab.at().create().await.unwrap().close().await.unwrap();
    let killed = lab.at().open().await.unwrap();
    let before = kept(&killed).await;
    lab.clock.advance(Duration::from_hours(2));
    let asked = killed.usage();
    change(&killed, "a").await;
    let then = killed.usage();
    change(&killed, "b").await;
    // It goes without a word.
    drop(killed);
    let takeover = lab.at().with_takeover(Takeover::Force);
    let next = takeover.open().await.unwrap();
    let after = kept(&next).await;
    assert_eq!(after["2026-11"], before["2026-11"]);
    // All up to the change that was made durable with it, but not the next.
    assert_eq!(asked.total().since(&after["2026-12"]), Requests::default());
    let more = after["2026-12"].since(&then.total());
    assert_eq!(more, Requests::default());
    next.close().await.unwrap();
}
