//! The counters that a process with a recorder sees of the main job.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use backstop::{Agent, ByteCount, Changes, DedupStore, FileSource, FileTarget, ProtectionServer};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Keeps counters by name.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Kept {
    fn value(&self, name: &str) -> u64 {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counters
            .get(name)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = counters.entry(key.name().to_owned()).or_default();
        Counter::from_arc(Arc::clone(counter))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_is_counted() {
    const LENGTH: usize = 5_000_000;
    let kept = Kept::default();
    metrics::set_global_recorder(kept.clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let mut image = vec![0; LENGTH];
    fastrand::Rng::with_seed(3).fill(&mut image);
    std::fs::write(&path, &image).unwrap();

    let vault = DedupStore::create("memory://").await.unwrap();
    let server = ProtectionServer::builder().with_vault(vault.clone());
    let server = server.build().await.unwrap();
    let source = FileSource::open(&path).await.unwrap();
    let agent = Agent::new(server.service());
    let point = agent
        .protect("vm", &source, Changes::Unknown)
        .await
        .unwrap();
    let target = FileTarget::create(folder.path().join("back.img"));
    let report = server
        .restore(point.id, target.await.unwrap())
        .await
        .unwrap();
    assert_eq!(report.data_bytes, ByteCount(LENGTH as u64));
    vault.close().await.unwrap();

    for exact in [
        "backstop_agent_read_bytes",
        "backstop_server_restored_bytes",
    ] {
        assert_eq!(kept.value(exact), LENGTH as u64, "{exact}");
    }
    assert_eq!(kept.value("backstop_server_synchronizations"), 1);
    assert_eq!(kept.value("backstop_store_points"), 1);
    assert_eq!(kept.value("backstop_store_packs"), 2);
    assert_eq!(kept.value("backstop_store_bad_frames"), 0);
    // It is random and can't be compressed.
    for more in [
        "backstop_agent_sent_bytes",
        "backstop_store_pack_bytes",
        "backstop_store_read_bytes",
    ] {
        let value = kept.value(more);
        assert!(
            value >= LENGTH as u64 && value < 2 * LENGTH as u64,
            "{more}: {value}"
        );
    }
    assert!(kept.value("backstop_store_frames") > 20);
    assert!(kept.value("backstop_store_reads") > 0);
}
