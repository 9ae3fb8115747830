//! Work that makes more work, for several threads.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Jobs, the newest first, so that what is waiting stays little.
#[derive(Debug)]
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<J> {
    jobs: Vec<J>,
    /// How many jobs are being done, each of which may add more.
    active: usize,
    stopped: bool,
}

impl<J> Queue<J> {
    pub(super) fn new(first: J) -> Self {
        let state = State { jobs: vec![first], active: 0, stopped: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn push(&self, jobs: impl IntoIterator<Item = J>) {
        self.state().jobs.extend(jobs);
        self.changed.notify_all();
    }

    /// Lets all threads end after the jobs they are at.
    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// Does jobs until there are none left and nobody is at one that could add more.
    pub(super) fn work(&self, mut job: impl FnMut(J)) {
        while let Some(next) = self.take() {
            job(next);
            let mut state = self.state();
            state.active -= 1;
            if state.active == 0 {
                self.changed.notify_all();
            }
        }
    }

    fn take(&self) -> Option<J> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(job) = state.jobs.pop() {
                state.active += 1;
                return Some(job);
            }
            if state.active == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn every_job_is_done_once_and_all_threads_end() {
        let queue = Queue::new(12_u32);
        let done = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    queue.work(|depth| {
                        done.fetch_add(1, Ordering::Relaxed);
                        queue.push(std::iter::repeat_n(
                            depth.saturating_sub(1),
                            if depth > 0 { 2 } else { 0 },
                        ));
                    });
                });
            }
        });
        assert_eq!(done.into_inner(), (1 << 13) - 1);
    }
}
