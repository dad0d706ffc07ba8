//! Runs the loops of a term, each as a task of its own: one that panics is started again, and its neighbors go on.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use tokio::{task::JoinSet, time::Instant};

use super::error::panic_message;
use crate::tasks::retry::doubled;

/// The wait before a loop that panicked is started again, and the longest one: shorter than the silence that a loop may keep.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// A loop that ran this long begins with the first wait again.
const STEADY: Duration = Duration::from_secs(60);

/// The loops of one term. Dropping it aborts them.
pub struct Supervisor {
    loops: JoinSet<()>,
    first: Duration,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self { loops: JoinSet::new(), first: FIRST }
    }
}

impl Supervisor {
    /// Starts a loop; `start` makes it anew after a panic.
    pub fn run<F>(&mut self, name: impl Into<String>, start: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (first, name) = (self.first, name.into());
        self.loops.spawn(async move {
            let mut failures = 0;
            loop {
                let began = Instant::now();
                let Err(panic) = AssertUnwindSafe(async { start().await }).catch_unwind().await else { return };
                failures = if began.elapsed() > STEADY { 1 } else { failures + 1 };
                let wait = doubled(first, LONGEST, failures);
                let message = panic_message(&*panic);
                tracing::error!(name, message, seconds = wait.as_secs(), "a loop panicked; starting it again");
                tokio::time::sleep(wait).await;
            }
        });
    }

    /// Ends all loops and waits for that.
    pub async fn stop(mut self) {
        self.loops.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_loop_that_panics_is_started_again_and_its_neighbor_goes_on() {
        let (starts, beats) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let mut supervisor = Supervisor { first: Duration::from_millis(1), ..Supervisor::default() };
        let (started, beaten) = (Arc::clone(&starts), Arc::clone(&beats));
        supervisor.run("failing", move || {
            started.fetch_add(1, Ordering::SeqCst);
            async { panic!("no such row") }
        });
        supervisor.run("steady", move || {
            let beaten = Arc::clone(&beaten);
            async move {
                loop {
                    tokio::task::yield_now().await;
                    beaten.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        while starts.load(Ordering::SeqCst) < 4 {
            tokio::task::yield_now().await;
        }
        let before = beats.load(Ordering::SeqCst);
        while beats.load(Ordering::SeqCst) <= before {
            tokio::task::yield_now().await;
        }
        supervisor.stop().await;
    }
}
