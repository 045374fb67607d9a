//! Servers of ours on a socket, and images for them.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::path::PathBuf;

use backstop_core::memory::MemorySource;
use backstop_core::{ByteCount, ByteOffset};
use backstop_source_nbd::NbdServer;
use bytes::Bytes;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server on a socket in a folder of its own.
pub(crate) struct Served {
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl Served {
    pub(crate) fn new(server: NbdServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.serve_unix(listener, stopped).await;
        });
        Self {
            folder,
            stop: Some(stop),
            server: Some(server),
        }
    }

    pub(crate) fn uri(&self, export: &str) -> String {
        let socket = self.path("socket");
        format!("nbd+unix:///{export}?socket={}", socket.display())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.server.take().unwrap().await.unwrap();
    }
}

/// An image of data and holes whose length is no multiple of anything.
pub(crate) fn image(length: u64, seed: u64) -> (Vec<u8>, MemorySource) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut whole = vec![0; usize::try_from(length).unwrap()];
    let mut parts = Vec::new();
    let mut at = random.u64(..100_000).min(length);
    while at < length {
        let count = random.u64(1..400_000).min(length - at);
        let mut data = vec![0; usize::try_from(count).unwrap()];
        random.fill(&mut data);
        let start = usize::try_from(at).unwrap();
        whole[start..start + data.len()].copy_from_slice(&data);
        parts.push((ByteOffset(at), Bytes::from(data)));
        at += count + random.u64(1..3_000_000);
    }
    let source = MemorySource::sparse(ByteCount(length), parts).unwrap();
    (whole, source)
}
