//! Where chunking, hashing, compression and sealing run: off the caller's
//! async threads, on a bounded number of its blocking ones.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

use crate::{Error, Result};

/// A bound on how many pieces of CPU work run at once.
///
/// Work runs on the blocking threads of the caller's tokio runtime; Backstop
/// starts no threads of its own. Clones share the bound. Work is begun in the
/// order it was asked for. Dropping the future of [`run`](Self::run) does not
/// stop work that has begun; its result is dropped. Work that has not is not done
/// when its turn comes; until then it keeps what it holds.
#[derive(Clone, Debug)]
pub struct CpuPool {
    line: Option<Arc<Line>>,
    parallelism: usize,
}

/// Work that waits for its turn.
///
/// A thread that is done with a piece takes the next one itself: were it put to
/// sleep and another one woken instead, many schedulers would put that one on a
/// processor that is busy, and leave the other idle for milliseconds.
#[derive(Debug)]
struct Line {
    state: Mutex<LineState>,
    parallelism: usize,
}

#[derive(Debug, Default)]
struct LineState {
    waiting: VecDeque<Job>,
    /// Threads that take work, or were asked for.
    runners: usize,
}

/// A piece of work with where it was asked for.
struct Job {
    runtime: Handle,
    work: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Job {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Job").finish_non_exhaustive()
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts work in line, and gets a thread for it if there may be one more.
    fn add(self: &Arc<Self>, job: Job) {
        {
            let mut state = self.state();
            if state.runners == self.parallelism {
                state.waiting.push_back(job);
                return;
            }
            state.runners += 1;
        }
        Runner::start(Arc::clone(self), job);
    }

    /// The next piece of work, or one runner less.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.runners -= 1;
        }
        next
    }
}

/// One thread's share of the work: a first piece, and then whatever waits.
struct Runner {
    line: Arc<Line>,
    runtime: runtime::Id,
    first: Option<Job>,
}

impl Runner {
    fn start(line: Arc<Line>, job: Job) {
        let runtime = job.runtime.clone();
        let runner = Self {
            line,
            runtime: runtime.id(),
            first: Some(job),
        };
        // Of a runtime that ends, it is dropped without having run.
        drop(runtime.spawn_blocking(move || runner.run()));
    }

    fn run(mut self) {
        let mut next = self.first.take();
        while let Some(job) = next {
            if job.runtime.id() != self.runtime {
                // Its own runtime may end, and waits for this thread until then.
                Self::start(Arc::clone(&self.line), job);
                return;
            }
            // What nobody waits for may panic too, while it is dropped: the turn
            // would be lost.
            drop(catch_unwind(AssertUnwindSafe(job.work)));
            next = self.line.next();
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if self.first.take().is_none() {
            return;
        }
        // Its runtime ended before it began: work of other runtimes goes on there.
        while let Some(job) = self.line.next() {
            if job.runtime.id() != self.runtime {
                Self::start(Arc::clone(&self.line), job);
                return;
            }
        }
    }
}

impl CpuPool {
    /// At most `parallelism` pieces of work at once (at least one).
    pub fn new(parallelism: usize) -> Self {
        let parallelism = parallelism.max(1);
        Self {
            line: Some(Arc::new(Line {
                state: Mutex::default(),
                parallelism,
            })),
            parallelism,
        }
    }

    /// Runs work where it is asked for: for simulations on one thread.
    pub fn inline() -> Self {
        Self {
            line: None,
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
    /// panicked: the panic is contained; or if the runtime ends first.
    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let Some(line) = &self.line else {
            return inline(work);
        };
        let (tell, told) = oneshot::channel();
        line.add(Job {
            runtime: Handle::current(),
            work: Box::new(move || {
                // Nobody waits for it any more.
                if !tell.is_closed() {
                    drop(tell.send(inline(work)));
                }
            }),
        });
        told.await
            .unwrap_or_else(|_| Err(Error::internal("the runtime ended before CPU work did")))
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
        if self.line.is_none() {
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_panic_is_contained() {
        for pool in [CpuPool::new(1), CpuPool::inline()] {
            let error = pool.run(|| panic!("boom")).await.unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Internal);
            assert_eq!(pool.run(|| 7).await.unwrap(), 7, "there is a turn again");
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

    #[tokio::test]
    async fn at_most_so_many_run_and_begin_in_their_order() {
        for parallelism in [1, 2] {
            let pool = CpuPool::new(parallelism);
            let running = Arc::new(AtomicUsize::new(0));
            let order = Arc::new(Mutex::new(Vec::new()));
            let all = (0..100).map(|number| {
                let (running, order) = (Arc::clone(&running), Arc::clone(&order));
                pool.run(move || {
                    order.lock().unwrap().push(number);
                    let most = running.fetch_add(1, Ordering::SeqCst) + 1;
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    assert!(most <= parallelism, "{most} at once");
                    number
                })
            });
            let done = futures::future::try_join_all(all).await.unwrap();
            assert_eq!(done, (0..100).collect::<Vec<_>>());
            // Two threads may note their pieces in another order.
            assert!(parallelism > 1 || *order.lock().unwrap() == done);
        }
    }

    #[tokio::test]
    async fn work_nobody_waits_for_is_not_begun() {
        let pool = CpuPool::new(1);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let long = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move || wait.recv()).await }
        });
        tokio::task::yield_now().await;
        let mut dropped = Box::pin(pool.run(|| panic!("nobody waits")));
        assert!(futures::poll!(dropped.as_mut()).is_pending());
        drop(dropped);
        go.send(()).unwrap();
        long.await.unwrap().unwrap().unwrap();
        assert_eq!(pool.run(|| 7).await.unwrap(), 7);
    }

    #[test]
    fn a_runtime_that_ends_holds_up_no_other() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.max_blocking_threads(1).build().unwrap()
        };
        let (first, second) = (runtime(), runtime());
        let pool = CpuPool::new(1);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        // Its only blocking thread is busy, so that the runner waits.
        let busy = first.spawn_blocking(move || wait.recv());
        let lost = first.spawn({
            let pool = pool.clone();
            async move { pool.run(|| 1).await }
        });
        first.block_on(tokio::task::yield_now());
        let kept = second.spawn({
            let pool = pool.clone();
            async move { pool.run(|| 2).await }
        });
        second.block_on(tokio::task::yield_now());
        first.shutdown_background();
        go.send(()).unwrap();
        assert_eq!(second.block_on(kept).unwrap().unwrap(), 2);
        drop((busy, lost));
    }
}
