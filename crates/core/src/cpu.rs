//! Where chunking, hashing, compression and sealing run: off the caller's
//! async threads, on a bounded number of its blocking ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{Error, Result};

/// A bound on how many pieces of CPU work run at once.
///
/// Work runs on the blocking threads of the caller's tokio runtime; Backstop
/// starts no threads of its own. Clones share the bound. Dropping the future
/// of [`run`](Self::run) does not stop work that has begun; its result is
/// dropped.
#[derive(Clone, Debug)]
pub struct CpuPool {
    permits: Option<Arc<Semaphore>>,
    parallelism: usize,
}

impl CpuPool {
    /// At most `parallelism` pieces of work at once (at least one).
    pub fn new(parallelism: usize) -> Self {
        let parallelism = parallelism.max(1);
        Self {
            permits: Some(Arc::new(Semaphore::new(parallelism))),
            parallelism,
        }
    }

    /// Runs work where it is asked for: for simulations on one thread.
    pub fn inline() -> Self {
        Self {
            permits: None,
            parallelism: 1,
        }
    }

    /// How many pieces of work may run at once.
    pub fn parallelism(&self) -> usize {
        self.parallelism
    }

    /// Runs one piece of work, waiting for its turn.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if the work
    /// panicked: the panic is contained.
    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let Some(permits) = &self.permits else {
            return inline(work);
        };
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
            return Err(Error::internal("the CPU pool was closed"));
        };
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        task.await
            .map_err(|error| Error::internal("CPU work panicked").with_source(error))
    }

    /// Runs work of a few milliseconds that others wait for, such as sealing
    /// what stands in line for one pack, without waiting for a turn: the bound
    /// is passed for that long.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_brief<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if self.permits.is_none() {
            return inline(work);
        }
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::internal("CPU work panicked").with_source(error))
    }
}

fn inline<T>(work: impl FnOnce() -> T) -> Result<T> {
    // What the work owned is gone, as after a panic on another thread.
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Error::internal("CPU work panicked"))
}

impl Default for CpuPool {
    /// As many as the host has cores.
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, usize::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_contained() {
        for pool in [CpuPool::new(1), CpuPool::inline()] {
            let error = pool.run(|| panic!("boom")).await.unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Internal);
            assert_eq!(pool.run(|| 7).await.unwrap(), 7, "the permit came back");
            let error = pool.run_brief(|| panic!("boom")).await.unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Internal);
        }
    }

    #[tokio::test]
    async fn brief_work_waits_for_no_turn() {
        let pool = CpuPool::new(1);
        let (go, wait) = std::sync::mpsc::channel();
        let long = pool.run(move || wait.recv());
        let brief = async {
            assert_eq!(pool.run_brief(|| 7).await.unwrap(), 7);
            go.send(()).unwrap();
        };
        let (long, ()) = tokio::join!(long, brief);
        long.unwrap().unwrap();
    }
}
