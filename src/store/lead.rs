//! Keeps campaigning for the lead, renews it, and says at every moment whether this process has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{BootInstant, Fence, Store, StoreError};
use crate::telemetry::{Beat, Loops};

/// What a leader is told that somebody followed.
pub(super) fn lost(fence: &Fence) -> StoreError {
    StoreError::Fenced(format!("{} lost the lead that it had with epoch {}", fence.holder, fence.epoch))
}

/// Far longer than a store takes to give up.
const LONGEST_ANSWER: Duration = Duration::from_secs(30);

/// The times of a lease. A leader gives up at `renew_deadline`, so that what it began has `lease - renew_deadline` to end
/// before somebody else can lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimings {
    /// How long the row says so.
    pub lease: Duration,
    /// How long a leader goes on without a renewal.
    pub renew_deadline: Duration,
    /// Time between two attempts to lead, and to renew after one that failed.
    pub retry: Duration,
    /// Time between two renewals.
    pub renew: Duration,
}

impl Default for LeaseTimings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
            renew: Duration::from_secs(4),
        }
    }
}

/// Whether this process leads.
#[derive(Clone, Debug)]
pub enum LeadState {
    Leading(Term),
    Following,
}

impl LeadState {
    /// The term, while it lasts.
    pub fn term(&self) -> Option<&Term> {
        match self {
            Self::Leading(term) if term.still_leads() => Some(term),
            Self::Leading(_) | Self::Following => None,
        }
    }
}

/// One term of leading. It carries its own expiry, by a clock that goes on while the machine sleeps or the process is
/// stopped: so a leader that was stopped knows that it is none before anybody tells it.
#[derive(Clone, Debug)]
pub struct Term {
    fence: Fence,
    /// Since boot, in nanoseconds; moved on by renewals.
    expires_at: Arc<AtomicU64>,
    ended: CancellationToken,
}

impl Term {
    /// A term that lasts until `expires_at`, unless it is renewed. For tests; others get theirs from [`lead`].
    pub fn new(fence: Fence, expires_at: BootInstant) -> Self {
        let term = Self { fence, expires_at: Arc::default(), ended: CancellationToken::new() };
        term.extend(expires_at);
        term
    }

    /// What the leader's writes carry.
    pub const fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Whether acting is still allowed: to be asked before each act.
    pub fn still_leads(&self) -> bool {
        !self.ended.is_cancelled() && BootInstant::now() < self.expires_at()
    }

    /// When the term ends if it isn't renewed.
    pub fn expires_at(&self) -> BootInstant {
        BootInstant::from_boot(Duration::from_nanos(self.expires_at.load(Ordering::Acquire)))
    }

    /// Cancelled when the term has ended, for whatever reason. Acting work selects on it.
    pub const fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Ends the term: nothing of it acts from now on.
    pub fn end(&self) {
        self.ended.cancel();
    }

    fn extend(&self, expires_at: BootInstant) {
        let nanos = u64::try_from(expires_at.since_boot().as_nanos()).unwrap_or(u64::MAX);
        self.expires_at.store(nanos, Ordering::Release);
    }
}

/// The running campaign of [`lead`].
pub struct LeadWatch {
    state: watch::Receiver<LeadState>,
    runner: JoinHandle<()>,
}

impl LeadWatch {
    /// Follows the state.
    pub fn subscribe(&self) -> watch::Receiver<LeadState> {
        self.state.clone()
    }

    /// The term, if this process leads now.
    pub fn term(&self) -> Option<Term> {
        self.state.borrow().term().cloned()
    }

    /// Waits for the end of the runner: after its shutdown was asked for, until it has resigned.
    pub async fn stopped(self) {
        if let Err(error) = self.runner.await {
            tracing::error!(%error, "the leadership runner ended badly");
        }
    }
}

/// Starts to campaign as `holder` (unique for a process), until `shutdown`; then the term ends and leadership is released, so
/// that a successor need not wait for the lease. Whoever acts should have come to rest before `shutdown` is cancelled.
pub fn lead(
    store: Arc<dyn Store>,
    holder: String,
    timings: LeaseTimings,
    loops: &Loops,
    shutdown: CancellationToken,
) -> LeadWatch {
    let beat = loops.register("leadership", timings.retry + LONGEST_ANSWER);
    let (sender, state) = watch::channel(LeadState::Following);
    let runner = Runner { store, holder, timings, beat, shutdown, sender };
    LeadWatch { state, runner: tokio::spawn(runner.run()) }
}

struct Runner {
    store: Arc<dyn Store>,
    holder: String,
    timings: LeaseTimings,
    beat: Beat,
    shutdown: CancellationToken,
    sender: watch::Sender<LeadState>,
}

/// Why a term ended.
enum End {
    Shutdown,
    Lost(String),
}

impl Runner {
    async fn run(self) {
        let mut away = false;
        while !self.shutdown.is_cancelled() {
            self.beat.beat();
            let asked = BootInstant::now();
            // Never dropped in the middle: it could have taken a lead that nobody would resign. The store bounds it.
            match self.store.campaign(&self.holder, self.timings.lease).await {
                Ok(Some(fence)) => {
                    away = false;
                    self.serve(Term::new(fence, asked + self.timings.renew_deadline)).await;
                }
                Ok(None) => away = false,
                Err(error) => {
                    if !away {
                        tracing::warn!(%error, holder = self.holder, "can't campaign for the lead; trying again");
                    }
                    away = true;
                }
            }
            self.rest(self.timings.retry).await;
        }
    }

    /// Leads until the term is over, whatever ends it.
    async fn serve(&self, term: Term) {
        // Also when this task is aborted.
        let _ends = term.ended.clone().drop_guard();
        tracing::info!(holder = term.fence.holder, epoch = term.fence.epoch, "leading");
        self.sender.send_replace(LeadState::Leading(term.clone()));
        let end = self.keep(&term).await;
        term.end();
        self.sender.send_replace(LeadState::Following);
        match end {
            End::Lost(why) => tracing::warn!(epoch = term.fence.epoch, why, "no longer leading"),
            End::Shutdown => match self.store.resign(&term.fence).await {
                Ok(()) => tracing::info!(epoch = term.fence.epoch, "resigned the lead"),
                Err(error) => tracing::warn!(%error, "can't resign: a successor has to wait for the lease"),
            },
        }
    }

    async fn keep(&self, term: &Term) -> End {
        let mut away = false;
        loop {
            self.beat.beat();
            let left = term.expires_at().since(BootInstant::now());
            let wait = if away { self.timings.retry } else { self.timings.renew };
            self.rest(wait.min(left)).await;
            if self.shutdown.is_cancelled() {
                return End::Shutdown;
            }
            let asked = BootInstant::now();
            if asked >= term.expires_at() {
                return End::Lost("not renewed in time: stopped, asleep, or the database was away".to_owned());
            }
            let renewal = self.store.renew(&term.fence, self.timings.lease);
            match tokio::time::timeout(term.expires_at().since(asked), renewal).await {
                Ok(Ok(())) => {
                    away = false;
                    term.extend(asked + self.timings.renew_deadline);
                }
                Ok(Err(StoreError::Fenced(why))) => return End::Lost(why),
                Ok(Err(error)) => {
                    if !away {
                        tracing::warn!(%error, "can't renew the lead; trying until the renew deadline");
                    }
                    away = true;
                }
                // The deadline has passed: the next turn says so.
                Err(_) => {}
            }
        }
    }

    async fn rest(&self, duration: Duration) {
        let _ = self.shutdown.run_until_cancelled(tokio::time::sleep(duration)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_ends_by_itself_when_nobody_renews_it() {
        let fence = Fence { holder: "a".to_owned(), epoch: 1 };
        let lapsed = Term::new(fence.clone(), BootInstant::from_boot(Duration::from_nanos(1)));
        assert!(!lapsed.still_leads() && !lapsed.ended().is_cancelled());
        assert!(LeadState::Leading(lapsed).term().is_none());

        let term = Term::new(fence, BootInstant::now() + Duration::from_secs(60));
        let copy = term.clone();
        assert!(copy.still_leads());
        term.end();
        assert!(!copy.still_leads() && copy.ended().is_cancelled());
    }
}
