//! A connection to a server: many requests at once, each answered by its
//! cookie.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstop_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::assembly::{Answer, Assembly, Wanted};
use super::receive::Receiver;
use crate::protocol::numbers::{CMD_BLOCK_STATUS, CMD_DISC, CMD_READ};
use crate::protocol::requests::Request;
use crate::wire::lost;

/// How many requests may wait to be sent.
const QUEUE: usize = 64;

/// An open connection. Dropping it leaves the server.
#[derive(Debug)]
pub(super) struct Connection {
    requests: mpsc::Sender<Bytes>,
    pending: Arc<Pending>,
    memory: Arc<Semaphore>,
    /// The most that is held at once, in bytes.
    most: u32,
    receiving: JoinHandle<()>,
}

/// The requests that were not answered yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_cookie: u64,
    open: HashMap<u64, Open>,
    /// Why the connection is of no use any more.
    failed: Option<String>,
}

/// A request that was not answered yet.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) assembly: Assembly,
    /// Nobody may be waiting any more; the replies come all the same.
    pub(super) answer: oneshot::Sender<Result<Answer>>,
    _room: OwnedSemaphorePermit,
}

impl Connection {
    /// Starts the two tasks that send and receive.
    pub(super) fn start<S>(stream: S, most: u32, structured: bool) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        let (requests, queue) = mpsc::channel(QUEUE);
        let pending = Arc::new(Pending::default());
        // Ends when the connection is dropped, after what was queued.
        drop(tokio::spawn(send(writer, queue, Arc::clone(&pending))));
        let receiver = Receiver::new(reader, Arc::clone(&pending), structured);
        let receiving = tokio::spawn(receiver.run());
        Self {
            requests,
            pending,
            memory: Arc::new(Semaphore::new(most as usize)),
            most,
            receiving,
        }
    }

    /// Sends a request and waits for its answer. `flags` are the command's.
    ///
    /// Dropping the future lets the answer be passed over when it comes.
    ///
    /// # Errors
    /// What the server answers; [`Unavailable`](ErrorKind::Unavailable) if the
    /// connection is lost or the server broke the protocol, now or before.
    pub(super) async fn ask(&self, wanted: Wanted, flags: u16) -> Result<Answer> {
        let (command, range) = match wanted {
            Wanted::Read(range) => (CMD_READ, range),
            Wanted::Status { range, .. } => (CMD_BLOCK_STATUS, range),
        };
        let length = u32::try_from(range.length().0)
            .map_err(|_| Error::internal(format!("a request of {range} is too long")))?;
        let held = match wanted {
            Wanted::Read(_) => length.clamp(1, self.most),
            Wanted::Status { .. } => 1,
        };
        let room = Arc::clone(&self.memory).acquire_many_owned(held).await;
        let room = room.map_err(|_| Error::internal("an NBD connection has no memory"))?;
        // Waited for before the request is known, so that one that is known
        // is sent, whoever goes away.
        let Ok(slot) = self.requests.reserve().await else {
            return Err(self.pending.failure());
        };
        let (answer, answered) = oneshot::channel();
        let assembly = Assembly::new(wanted);
        let cookie = self.pending.open(Open {
            assembly,
            answer,
            _room: room,
        })?;
        let request = Request {
            flags,
            command,
            cookie,
            offset: range.offset().0,
            length,
        };
        slot.send(request.encode().into());
        answered
            .await
            .unwrap_or_else(|_| Err(self.pending.failure()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.receiving.abort();
    }
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request; gives its cookie.
    fn open(&self, open: Open) -> Result<u64> {
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            return Err(Error::unavailable(failed.clone()));
        }
        state.last_cookie = state.last_cookie.wrapping_add(1);
        let cookie = state.last_cookie;
        state.open.insert(cookie, open);
        Ok(cookie)
    }

    /// Takes the request of this cookie out, to work on it.
    pub(super) fn take(&self, cookie: u64) -> Option<Open> {
        self.lock().open.remove(&cookie)
    }

    /// Puts a request back, of which more is to come.
    pub(super) fn put_back(&self, cookie: u64, open: Open) {
        self.lock().open.insert(cookie, open);
    }

    /// Ends all requests, and all that come.
    pub(super) fn fail(&self, error: &Error) {
        let mut state = self.lock();
        let failed = state
            .failed
            .get_or_insert_with(|| error.to_string())
            .clone();
        let open = std::mem::take(&mut state.open);
        drop(state);
        for open in open.into_values() {
            let error = Error::new(ErrorKind::Unavailable, failed.clone());
            // Who went away wants no answer.
            let _ = open.answer.send(Err(error));
        }
    }

    fn failure(&self) -> Error {
        let failed = self.lock().failed.clone();
        Error::unavailable(failed.unwrap_or_else(|| "the NBD connection is closed".to_owned()))
    }
}

/// Sends what is queued, and takes leave in the end.
async fn send<S: AsyncWrite>(
    mut writer: WriteHalf<S>,
    mut queue: mpsc::Receiver<Bytes>,
    pending: Arc<Pending>,
) {
    while let Some(bytes) = queue.recv().await {
        if let Err(error) = writer.write_all(&bytes).await {
            return pending.fail(&lost(error));
        }
        // What is queued goes together.
        if queue.is_empty()
            && let Err(error) = writer.flush().await
        {
            return pending.fail(&lost(error));
        }
    }
    let leave = Request {
        flags: 0,
        command: CMD_DISC,
        cookie: 0,
        offset: 0,
        length: 0,
    };
    // The server may be gone already.
    let _ = writer.write_all(&leave.encode()).await;
    let _ = writer.shutdown().await;
}
