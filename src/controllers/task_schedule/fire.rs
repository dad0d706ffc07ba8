//! The clock: looks each second which runs are due, and records what became of them in the transaction that inserts their
//! tasks. So a run is fired once, whatever restarts or fails over in between.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use crate::{
    api::{ConcurrencyPolicy, Mode, TaskScheduleSpec, number_of},
    platform::Note,
    store::{DeclaredRow, Fired, Replaced, StoreClass, StoreError, TaskFilter, TaskPage, Term},
    tasks::{NewTask, TaskState, retry::doubled},
    telemetry::Beat,
};

use super::{
    super::declared::ControlPlane,
    ScheduleRuns,
    calendar::Calendar,
    plan::{self, RunObserved, RunPlan, ScheduleDue},
    told::RunWait,
};

const PERIOD: Duration = Duration::from_secs(1);
/// The longest wait before a schedule that could not be recorded is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long a new leader waits to hear of the manifests before it goes by what earlier ones projected.
const PATIENCE: Duration = Duration::from_secs(10);
/// Batches of replaced tasks that are cancelled in one pass, so that other schedules have their turn.
const REPLACED_BATCHES: usize = 10;

/// A schedule as the clock knows it.
struct ScheduleTimer {
    /// What it was read from.
    row: DeclaredRow,
    spec: TaskScheduleSpec,
    calendar: Calendar,
    /// The last run that was fired or left out.
    base: Timestamp,
}

/// Runs for one term.
pub async fn watch_clock(world: Arc<ControlPlane>, runs: ScheduleRuns, term: Term, beat: Beat) {
    let (hands, last) = (HashMap::new(), HashMap::new());
    let (began, read, failing, replacing) = (Instant::now(), false, HashMap::new(), HashMap::new());
    let mut clock = ScheduleClock { world, runs, term, began, hands, last, replacing, read, failing };
    loop {
        tokio::time::sleep(PERIOD).await;
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
    hands: HashMap<String, ScheduleTimer>,
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
        let rows = self.world.book.rows("TaskSchedule");
        if rows.is_empty() {
            self.hands.clear();
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
        self.hands.retain(|uid, _| rows.iter().any(|row| row.uid == *uid));
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
        let Some(hand) = self.hands.get(&uid) else { return Ok(()) };
        let missed_for = SignedDuration::from_secs(hand.spec.missed_run_deadline_seconds.into());
        let waits = match plan::due(&hand.calendar, hand.base, missed_for, now) {
            ScheduleDue::Wait { .. } => None,
            ScheduleDue::Missed(run) => {
                let message = format!("the run of {run} was missed for longer than missedRunDeadlineSeconds");
                self.leave_out(&uid, run, "RunMissed", message).await?;
                None
            }
            ScheduleDue::Run(run) => self.run(&uid, run, now).await?,
        };
        let by_hand = self.heed_wish(&uid, now).await?;
        self.tell_waits(&uid, waits.or(by_hand));
        Ok(())
    }

    /// Cancels what the last run replaces, as far as one pass may. A run of an earlier leader is gone on with.
    async fn go_on_replacing(&mut self, uid: &str) -> Result<(), StoreError> {
        let (Some(run), Some(hand)) = (self.replacing.get(uid).copied(), self.hands.get(uid)) else { return Ok(()) };
        let replaces = Self::replaced_by(&hand.row, &hand.spec, run);
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

    /// Takes a row in. A new schedule, or a changed time, begins then: it makes up for nothing.
    fn set(&mut self, row: DeclaredRow, now: Timestamp) {
        let uid = row.uid.clone();
        if let Some(hand) = self.hands.get_mut(&uid)
            && hand.row.spec == row.spec
        {
            hand.row = row;
            return;
        }
        let Ok(spec) = serde_json::from_value::<TaskScheduleSpec>(row.spec.clone()) else {
            tracing::error!(schedule = row.name, "could not read a projected schedule: another release wrote it");
            return;
        };
        let Ok(calendar) = Calendar::parse(&spec.schedule, &spec.time_zone) else {
            self.hands.remove(&uid);
            return;
        };
        let begins = plan::begun(&row.spec).or_else(|| self.runs.created_at(&uid)).unwrap_or(now).min(now);
        let base = self.last.get(&uid).map_or(begins, |last| begins.max(*last));
        self.hands.insert(uid, ScheduleTimer { row, spec, calendar, base });
    }

    /// A run whose time has come. Returns why it waits.
    async fn run(&mut self, uid: &str, run: Timestamp, now: Timestamp) -> Result<Option<RunWait>, StoreError> {
        let Some(hand) = self.hands.get(uid) else { return Ok(None) };
        let (row, spec) = (hand.row.clone(), hand.spec.clone());
        let policy = spec.concurrency_policy;
        let tasks = plan::tasks(&row, &spec, &self.world.book.rows("Expert"), run, now);
        let seen = RunObserved {
            suspended: row.suspended,
            observes: spec.mode == Mode::Observe || self.world.parts.observe,
            queue_missing: !self.world.book.has("TaskQueue", &row.namespace, &spec.queue_ref.name),
            held: row.held.clone(),
            tasks: tasks.len(),
            still_running: policy == ConcurrencyPolicy::Forbid && self.is_running(&row, &spec).await?,
        };
        match plan::decide(policy, run, &seen) {
            RunPlan::Hold { reason, message } => return Ok(Some(RunWait { reason, message })),
            RunPlan::LeaveOut { reason, message } => self.leave_out(uid, run, reason, message).await?,
            RunPlan::Fire { replace } => {
                let replaces = replace.then(|| Self::replaced_by(&row, &spec, run));
                self.record(uid, run, &tasks, replaces.as_ref()).await?;
                self.fired(&row, run, tasks.len(), "by its schedule");
            }
        }
        Ok(None)
    }

    /// A person's `run`: whatever the time, and although it is suspended; not past its gate.
    async fn heed_wish(&mut self, uid: &str, now: Timestamp) -> Result<Option<RunWait>, StoreError> {
        let Some(wish) = self.runs.wish(uid) else { return Ok(None) };
        let Some(hand) = self.hands.get(uid) else { return Ok(None) };
        let (row, spec) = (hand.row.clone(), hand.spec.clone());
        let Some(at) = plan::wanted(&wish, now) else {
            let message =
                format!("run-requested-at {wish:?} is no time: write one as RFC 3339 has it, not ahead of now");
            self.runs.handled(uid, wish);
            self.say(&row, true, "RunRefused", message);
            return Ok(None);
        };
        let by_hand = format!("{uid}/run");
        if self.last.get(&by_hand).is_some_and(|last| *last >= at) {
            self.runs.handled(uid, wish);
            self.world.triggers.one("TaskSchedule", &row.namespace, &row.name);
            return Ok(None);
        }
        let tasks = plan::tasks(&row, &spec, &self.world.book.rows("Expert"), at, now);
        let seen = RunObserved {
            observes: spec.mode == Mode::Observe || self.world.parts.observe,
            queue_missing: !self.world.book.has("TaskQueue", &row.namespace, &spec.queue_ref.name),
            held: row.held.clone(),
            tasks: tasks.len(),
            ..RunObserved::default()
        };
        match plan::decide(ConcurrencyPolicy::Allow, at, &seen) {
            RunPlan::Hold { reason, message } => return Ok(Some(RunWait { reason, message })),
            RunPlan::LeaveOut { reason, message } => {
                self.record(&by_hand, at, &[], None).await?;
                self.runs.handled(uid, wish);
                self.say(&row, false, reason, message);
            }
            RunPlan::Fire { .. } => {
                self.record(&by_hand, at, &tasks, None).await?;
                self.runs.handled(uid, wish);
                self.fired(&row, at, tasks.len(), "by hand");
            }
        }
        Ok(None)
    }

    async fn leave_out(
        &mut self,
        uid: &str,
        run: Timestamp,
        reason: &'static str,
        message: String,
    ) -> Result<(), StoreError> {
        self.record(uid, run, &[], None).await?;
        if let Some(row) = self.hands.get(uid).map(|hand| hand.row.clone()) {
            self.say(&row, reason == "RunMissed", reason, message);
        }
        Ok(())
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
        if let Some(hand) = self.hands.get_mut(key) {
            hand.base = run;
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

    fn fired(&self, row: &DeclaredRow, run: Timestamp, tasks: usize, how: &str) {
        self.runs.fired(&row.uid, run, tasks);
        let run = Timestamp::from_second(run.as_second()).unwrap_or(run);
        self.say(row, false, "Fired", format!("inserted {} for the run of {run}, {how}", number_of(tasks, "task")));
    }

    fn tell_waits(&self, uid: &str, waits: Option<RunWait>) {
        if !self.runs.waits(uid, waits) {
            return;
        }
        if let Some(hand) = self.hands.get(uid) {
            self.world.triggers.one("TaskSchedule", &hand.row.namespace, &hand.row.name);
        }
    }

    fn say(&self, row: &DeclaredRow, warning: bool, reason: &str, message: String) {
        tracing::info!(schedule = row.name, namespace = row.namespace, reason, why = message, "schedule");
        if reason != "Suspended" {
            self.runs.note(&row.uid, Note { warning, reason: reason.to_owned(), action: "Fire".into(), message });
        }
        self.world.triggers.one("TaskSchedule", &row.namespace, &row.name);
    }
}
