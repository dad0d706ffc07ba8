//! The clock: each second it observes each schedule, plans which runs are due, and applies that: what becomes of a run is
//! recorded in the transaction that inserts its tasks. So a run is fired once, whatever restarts or fails over in between.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use crate::{
    api::{ConcurrencyPolicy, Kind, Mode, TaskScheduleSpec, number_of},
    base::tick,
    platform::Note,
    store::{DeclaredRow, Fired, Replaced, StoreClass, StoreError, TaskFilter, TaskPage, Term},
    tasks::{NewTask, TaskState, retry::doubled},
    telemetry::Beat,
};

use super::{
    super::declared::ControlPlane,
    ScheduleRuns,
    plan::{self, RunAction, RunObserved, RunOrigin, ScheduleObserved, SchedulePlan},
    timer::{ScheduleDue, ScheduleTimer, UnusableRow},
};

const PERIOD: Duration = Duration::from_secs(1);
/// The longest wait before a schedule that could not be recorded is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long a new leader waits to hear of the manifests before it goes by what earlier ones projected.
const PATIENCE: Duration = Duration::from_secs(10);
/// Batches of replaced tasks that are cancelled in one pass, so that other schedules have their turn.
const REPLACED_BATCHES: usize = 10;

/// Runs for one term.
pub async fn watch_clock(world: Arc<ControlPlane>, runs: ScheduleRuns, term: Term, beat: Beat) {
    let (timers, last) = (HashMap::new(), HashMap::new());
    let (began, read, failing, replacing) = (Instant::now(), false, HashMap::new(), HashMap::new());
    let mut clock = ScheduleClock { world, runs, term, began, timers, last, replacing, read, failing };
    loop {
        tick(PERIOD).await;
        beat.beat();
        if !clock.world.book.is_loaded() || !clock.term.still_leads() {
            continue;
        }
        if let Err(error) = clock.tick(Timestamp::now()).await {
            // What cannot be recorded is not done: it stays due.
            tracing::warn!(%error, "could not read the last runs of schedules; will retry");
        }
    }
}

struct ScheduleClock {
    world: Arc<ControlPlane>,
    runs: ScheduleRuns,
    term: Term,
    began: Instant,
    timers: HashMap<String, ScheduleTimer>,
    /// What earlier leaders, and this one, recorded.
    last: HashMap<String, Timestamp>,
    /// Runs that have yet to cancel what they replace, by the schedule's uid.
    replacing: HashMap<String, Timestamp>,
    read: bool,
    /// Schedules that could not be recorded: how often in a row, and when they are tried again.
    failing: HashMap<String, (i32, Instant)>,
}

impl ScheduleClock {
    async fn tick(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let rows = self.world.book.rows(Kind::TaskSchedule.as_str());
        if rows.is_empty() {
            self.timers.clear();
            return Ok(());
        }
        if !self.read {
            for (uid, run, replaces) in self.world.parts.store.last_runs().await? {
                if replaces {
                    self.replacing.insert(uid.clone(), run);
                }
                self.last.insert(uid, run);
            }
            self.read = true;
        }
        self.timers.retain(|uid, _| rows.iter().any(|row| row.uid == *uid));
        self.replacing.retain(|uid, _| rows.iter().any(|row| row.uid == *uid));
        self.runs.retain(|uid| rows.iter().any(|row| row.uid == uid));
        self.failing.retain(|uid, _| rows.iter().any(|row| row.uid == *uid));
        for row in rows {
            let (uid, namespace, name) = (row.uid.clone(), row.namespace.clone(), row.name.clone());
            let failures = self.failing.get(&uid).map_or(0, |(failures, _)| *failures);
            if self.failing.get(&uid).is_some_and(|(_, until)| Instant::now() < *until) || !self.is_current(&row) {
                continue;
            }
            let Err(error) = self.turn(row, now).await else {
                self.failing.remove(&uid);
                continue;
            };
            // What cannot be recorded is not done: it stays due. The others go first until then.
            let wait = doubled(PERIOD, LONGEST_WAIT, failures + 1);
            self.failing.insert(uid, (failures + 1, Instant::now() + wait));
            tracing::warn!(namespace, name, %error, wait = wait.as_secs(), "could not record a run of a schedule; will retry");
            // Each would wait for the database as long as this one did.
            if error.class() == StoreClass::Passing {
                break;
            }
        }
        Ok(())
    }

    /// One schedule: what of it is due, and what a person asked for.
    async fn turn(&mut self, row: DeclaredRow, now: Timestamp) -> Result<(), StoreError> {
        let uid = row.uid.clone();
        self.set(row, now);
        self.go_on_replacing(&uid).await?;
        let Some(timer) = self.timers.get(&uid) else { return Ok(()) };
        let observed = self.observe(timer, now).await?;
        let (row, plan) = (timer.row.clone(), plan::plan(timer, &observed, now));
        self.apply(row, plan).await
    }

    /// What a run of this schedule depends on now.
    async fn observe(&self, timer: &ScheduleTimer, now: Timestamp) -> Result<ScheduleObserved, StoreError> {
        let ScheduleTimer { row, spec, .. } = timer;
        let forbids = spec.concurrency_policy == ConcurrencyPolicy::Forbid;
        let is_due = matches!(timer.due(now), ScheduleDue::Run(_));
        let request = self.runs.request(&row.uid);
        let runs = is_due || request.is_some();
        Ok(ScheduleObserved {
            run: RunObserved {
                suspended: row.suspended,
                observes: spec.mode == Mode::Observe || self.world.parts.observe,
                queue_missing: !self.world.book.has(Kind::TaskQueue, &row.namespace, &spec.queue_ref.name),
                held: row.held.clone(),
                tasks: 0,
                still_running: forbids && is_due && self.is_running(row, spec).await?,
            },
            experts: if runs { self.world.book.rows(Kind::Expert.as_str()) } else { Vec::new() },
            request,
            last_requested: self.last.get(&RunOrigin::Request.key(&row.uid)).copied(),
        })
    }

    async fn apply(&mut self, row: DeclaredRow, plan: SchedulePlan) -> Result<(), StoreError> {
        for step in plan.steps {
            let origin = step.origin;
            match step.action {
                RunAction::Acknowledge => {}
                RunAction::Refuse { message } => self.say(&row, true, "RunRefused", message),
                RunAction::LeaveOut { run, reason, message } => {
                    self.record(&origin.key(&row.uid), run, &[], None).await?;
                    self.say(&row, reason == "RunMissed", reason, message);
                }
                RunAction::Fire { run, tasks, replace } => {
                    let spec = self.timers.get(&row.uid).filter(|_| replace).map(|timer| &timer.spec);
                    let replaces = spec.map(|spec| Self::replaced_by(&row, spec, run));
                    self.record(&origin.key(&row.uid), run, &tasks, replaces.as_ref()).await?;
                    self.runs.fired(&row.uid, run, tasks.len());
                    let (number, run) = (number_of(tasks.len(), "task"), plan::second(run));
                    self.say(
                        &row,
                        false,
                        "Fired",
                        format!("inserted {number} for the run of {run}, {}", origin.told()),
                    );
                }
            }
            if origin == RunOrigin::Request {
                self.runs.handled(&row.uid);
                self.world.trigger(&row);
            }
        }
        if self.runs.waits(&row.uid, plan.waits) {
            self.world.trigger(&row);
        }
        Ok(())
    }

    /// Cancels what the last run replaces, as far as one pass may. A run of an earlier leader is gone on with.
    async fn go_on_replacing(&mut self, uid: &str) -> Result<(), StoreError> {
        let (Some(run), Some(timer)) = (self.replacing.get(uid).copied(), self.timers.get(uid)) else { return Ok(()) };
        let replaces = Self::replaced_by(&timer.row, &timer.spec, run);
        for _ in 0..REPLACED_BATCHES {
            if self.world.parts.store.replace_more(self.term.fence(), uid, run, &replaces).await? {
                self.replacing.remove(uid);
                break;
            }
        }
        Ok(())
    }

    /// Whether a row says what its manifest says: a successor's first look may be at what was projected before the manifest was
    /// changed, or deleted. While the API server is away, the rows are what there is.
    fn is_current(&self, row: &DeclaredRow) -> bool {
        let feed = &self.world.feeds.schedules;
        if !feed.is_complete() {
            return self.began.elapsed() >= PATIENCE;
        }
        // Whether its manifest is still there is unknown, and that of its namespace too.
        if !feed.knows(&row.namespace) {
            return false;
        }
        let object = feed.objects.get(&ObjectRef::new(&row.name).within(&row.namespace));
        object.is_some_and(|object| {
            object.uid().as_deref() == Some(&row.uid)
                && object.metadata.generation.unwrap_or_default() <= row.generation
        })
    }

    /// Takes a row in.
    fn set(&mut self, row: DeclaredRow, now: Timestamp) {
        if let Some(timer) = self.timers.get_mut(&row.uid)
            && timer.row.spec == row.spec
        {
            timer.row = row;
            return;
        }
        let (uid, name) = (row.uid.clone(), row.name.clone());
        match ScheduleTimer::new(row, self.runs.created_at(&uid), self.last.get(&uid).copied(), now) {
            Ok(timer) => _ = self.timers.insert(uid, timer),
            Err(UnusableRow::Unreadable) => {
                tracing::error!(schedule = name, "could not read a projected schedule: another release wrote it");
            }
            Err(UnusableRow::NoCalendar) => _ = self.timers.remove(&uid),
        }
    }

    /// In one transaction: that this run is dealt with, its tasks, and the end of what it replaces.
    async fn record(
        &mut self,
        key: &str,
        run: Timestamp,
        tasks: &[NewTask],
        replaces: Option<&Replaced>,
    ) -> Result<(), StoreError> {
        match self.world.parts.store.fire(self.term.fence(), key, run, tasks, replaces).await? {
            // Perhaps by this process, which lost the answer: then it may have to go on.
            Fired::Before => {
                tracing::info!(schedule = key, %run, "run was fired before");
                if replaces.is_some() {
                    self.replacing.insert(key.to_owned(), run);
                }
            }
            Fired::Now { replaced: true } => {}
            Fired::Now { replaced: false } => _ = self.replacing.insert(key.to_owned(), run),
        }
        self.last.insert(key.to_owned(), run);
        if let Some(timer) = self.timers.get_mut(key) {
            timer.base = run;
        }
        Ok(())
    }

    fn of_earlier_runs(row: &DeclaredRow, spec: &TaskScheduleSpec) -> TaskFilter {
        TaskFilter {
            namespace: Some(row.namespace.clone()),
            queue: Some(spec.queue_ref.name.clone()),
            states: vec![TaskState::Pending, TaskState::InProgress, TaskState::DeferredToHuman],
            labels: [(plan::SCHEDULE.to_owned(), row.name.clone())].into(),
            ..TaskFilter::default()
        }
    }

    async fn is_running(&self, row: &DeclaredRow, spec: &TaskScheduleSpec) -> Result<bool, StoreError> {
        let one = TaskPage { before: None, limit: 1, brief: true };
        Ok(!self.world.parts.store.tasks(&Self::of_earlier_runs(row, spec), &one).await?.is_empty())
    }

    fn replaced_by(row: &DeclaredRow, spec: &TaskScheduleSpec, run: Timestamp) -> Replaced {
        let reason = format!("replaced by the run of {run} of TaskSchedule {}", row.name);
        Replaced { filter: Self::of_earlier_runs(row, spec), reason }
    }

    fn say(&self, row: &DeclaredRow, warning: bool, reason: &str, message: String) {
        tracing::info!(schedule = row.name, namespace = row.namespace, reason, why = message, "schedule");
        if reason != "Suspended" {
            self.runs.note(&row.uid, Note { warning, reason: reason.to_owned(), action: "Fire".into(), message });
        }
        self.world.trigger(row);
    }
}
