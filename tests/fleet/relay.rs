//! A line between agents and a server that can break.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the connections that are there are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Whole,
    /// Both ends are closed.
    Cut,
    /// Nothing passes, and nobody is told.
    Silent,
    /// Some of it waits, as for what was lost to be sent again.
    Slow(u64),
}

struct Shared {
    to: Mutex<SocketAddr>,
    /// For those that are there; each new one has a line of its own.
    line: Mutex<watch::Sender<Line>>,
    /// Bytes from agents.
    sent: watch::Sender<u64>,
}

/// Takes connections and passes on what comes.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to: Mutex::new(to),
            line: Mutex::new(watch::Sender::new(Line::Whole)),
            sent: watch::Sender::new(0),
        });
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                loop {
                    let (from, _) = listener.accept().await.unwrap();
                    tokio::spawn(pass(Arc::clone(&shared), from));
                }
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// Where the server is now.
    pub(crate) fn lead_to(&self, to: SocketAddr) {
        *self.shared.to.lock().unwrap() = to;
    }

    pub(crate) fn reset(&self) {
        self.shared.sent.send_replace(0);
    }

    /// How many bytes agents have sent.
    pub(crate) fn sent(&self) -> u64 {
        *self.shared.sent.borrow()
    }

    /// Waits until agents have sent more than so many bytes.
    pub(crate) async fn passed(&self, bytes: u64) {
        let mut sent = self.shared.sent.subscribe();
        sent.wait_for(|sent| *sent > bytes).await.unwrap();
    }

    /// What is there gets this line for good; what comes later has another.
    fn becomes(&self, line: Line) {
        let mut now = self.shared.line.lock().unwrap();
        now.send_replace(line);
        let kept = std::mem::replace(&mut *now, watch::Sender::new(Line::Whole));
        std::mem::forget(kept);
    }

    pub(crate) fn cut(&self) {
        self.becomes(Line::Cut);
    }

    pub(crate) fn silence(&self) {
        self.becomes(Line::Silent);
    }

    pub(crate) fn stutter(&self, seed: u64) {
        self.becomes(Line::Slow(seed));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(shared: Arc<Shared>, from: TcpStream) {
    let to = *shared.to.lock().unwrap();
    let Ok(to) = TcpStream::connect(to).await else {
        return;
    };
    let line = shared.line.lock().unwrap().subscribe();
    let (from_agent, to_agent) = from.into_split();
    let (from_server, to_server) = to.into_split();
    tokio::join!(
        pump(from_agent, to_server, line.clone(), Some(&shared.sent)),
        pump(from_server, to_agent, line, None),
    );
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    count: Option<&watch::Sender<u64>>,
) {
    let mut buffer = vec![0; 32 << 10];
    let mut random = fastrand::Rng::with_seed(1);
    loop {
        let now = *line.borrow_and_update();
        match now {
            Line::Whole => {}
            Line::Cut => return,
            Line::Silent => std::future::pending().await,
            Line::Slow(seed) => {
                let drawn = random.u64(..) ^ seed;
                if drawn % 10 < 3 {
                    let milliseconds = 1 + drawn / 16 % 29;
                    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                }
            }
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = line.changed() => continue,
        };
        let Ok(read @ 1..) = read else {
            return;
        };
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        if let Some(count) = count {
            count.send_modify(|sent| *sent += read as u64);
        }
    }
}
