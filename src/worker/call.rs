//! One call to an engine: for a chat or for vectors, aborted by whatever stops it.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    core::{CallRun, Core},
    handlers::requests,
    job::ClaimedJob,
    kept::CachedTask,
    outcome::{self, Meaning},
};
use crate::{
    api::{ExpertSpec, Handler, TextKind, TextRef},
    calls::{self, CallShown, CallStopped, CallTarget, HeldSlot, Waited, seconds},
    engines::{CallActivity, EngineError, EngineKind, Failure, SendableModel, engine},
    store::{BootInstant, FailedCall, ServedCall},
    tasks::{AttemptClass, QueueKey, retry::Ended},
};

/// The time between a call's own bound and its slot's: for whatever is between us and the server.
pub const SPARE: Duration = Duration::from_secs(2);
/// The leader judges a silence of `stallSeconds` by everything that it knows; a worker gives up by itself only after so many of them.
const LEADER_FIRST: u32 = 2;
/// Leases are looked at so often, also while no token comes.
const LOOK: Duration = Duration::from_secs(1);

/// What a call left behind.
pub struct Called {
    pub run: CallRun,
    pub end: TaskCallEnd,
    /// The server may still be at it: the slot lingers.
    pub lingers: bool,
    /// The next call for the same would fail too.
    pub servers_trouble: bool,
    pub shown: CallShown,
}

pub enum TaskCallEnd {
    Ended(Ended),
    Stopped(CallStopped),
}

/// The time that a call has.
#[derive(Clone, Copy)]
struct Allowed {
    timeout: Duration,
    /// The task's deadline comes before the expert's own time is over.
    cut_short: bool,
}

/// What came while a call was open.
struct Received {
    sent: Instant,
    headers: bool,
    last_byte: Option<Instant>,
    tokens: u32,
    first_token: Option<Instant>,
}

/// One call in a slot.
pub struct TaskCall<'a> {
    pub core: &'a Core,
    pub job: &'a Arc<ClaimedJob>,
    pub slot: &'a HeldSlot,
    pub target: &'a CallTarget,
    /// The server's own name.
    pub model: &'a str,
}

impl TaskCall<'_> {
    pub async fn run(&self) -> Called {
        let task = &self.job.task;
        let mut run = CallRun {
            backend: Some(self.target.backend.clone()),
            model: Some(self.model.to_owned()),
            started_at: Some(self.core.clock.now()),
            ..CallRun::default()
        };
        let ended = |run, ended: Ended, servers_trouble| Called {
            run,
            end: TaskCallEnd::Ended(ended),
            lingers: false,
            servers_trouble,
            shown: CallShown::Nothing,
        };
        let world = self.core.world();
        let expert = world.expert(&task.namespace, &task.expert);
        let Some(expert) = expert.filter(|expert| expert.handler.calls_model()) else {
            run.started_at = None;
            let why = "its expert is gone, or does no calls any more".to_owned();
            return ended(run, Ended::Unavailable { why, retry_after: None }, false);
        };
        let expert = match self.with_prompt(expert).await {
            Ok(expert) => expert,
            Err(why) => return ended(run, Ended::Unavailable { why, retry_after: None }, false),
        };
        let allowed = match self.allowed(&expert) {
            Ok(allowed) => allowed,
            Err(why) => return ended(run, Ended::Retryable { why, retry_after: None }, false),
        };
        let model = match self.target.sendable(self.model).await {
            Ok(model) => model,
            Err(why) => {
                self.target.lacked(self.model);
                return ended(run, Ended::Unavailable { why, retry_after: None }, true);
            }
        };
        let queue = QueueKey { namespace: task.namespace.clone(), name: task.queue.clone() };
        let cache = world.queues.get(&queue).and_then(|queue| queue.cache.as_ref());
        let cached = cache.and_then(|cache| CachedTask::new(cache, task, &expert, self.model));
        if let Some(cached) = &cached
            && let Some(result) = cached.find(&*self.core.store).await
        {
            run.backend = None;
            return ended(run, Ended::Ok { result }, false);
        }
        // The last moment before something is sent.
        let may = self.core.may_run(self.job, Some(self.slot)).and_then(|()| self.slot.may_begin(BootInstant::now()));
        if let Err(why) = may {
            return Called { lingers: false, ..stopped(run, why) };
        }
        // MLX reads a prompt to its end whether or not somebody listens.
        self.slot.begin_call(self.target.kind == EngineKind::Mlx);
        if !self.core.slots.announce_call(self.slot).await {
            self.slot.end_call(false);
            return Called { lingers: false, ..stopped(run, CallStopped::SlotUnsure) };
        }
        let (began, began_at) = (Instant::now(), Timestamp::now());
        let mut called = match expert.handler {
            Handler::Embed => self.embed(&expert, model, allowed, run).await,
            _ => self.chat(&expert, model, allowed, run).await,
        };
        self.slot.end_call(called.lingers);
        // This clock does not count sleep, the slot's does: nobody's counts rise for that.
        if matches!(called.end, TaskCallEnd::Stopped(CallStopped::SlotEnds)) && began.elapsed() < allowed.timeout {
            called.end = TaskCallEnd::Stopped(CallStopped::SlotUnsure);
        }
        self.note(&called, began_at, began.elapsed());
        if let (Some(cached), TaskCallEnd::Ended(Ended::Ok { result })) = (cached, &called.end) {
            cached.keep(&self.core.store, result);
        }
        called
    }

    /// The expert with its system prompt. That of a Secret is read here only: it is in the database sealed, or not at all.
    async fn with_prompt(&self, expert: Arc<ExpertSpec>) -> Result<Arc<ExpertSpec>, String> {
        let reference = expert.system_prompt_ref.as_ref().filter(|_| expert.system_prompt.is_none());
        let Some(TextRef { kind, name, key }) = reference else { return Ok(expert) };
        if *kind == TextKind::ConfigMap {
            return Err("its expert's system prompt is not there: see the Expert's status".to_owned());
        }
        let text = self.core.secrets.text(&self.job.task.namespace, name, key).await?;
        Ok(Arc::new(ExpertSpec { system_prompt: Some(text), ..(*expert).clone() }))
    }

    /// Bounded by the expert, the slot and the task's deadline.
    fn allowed(&self, expert: &ExpertSpec) -> Result<Allowed, String> {
        let slot = self.slot.left(BootInstant::now()).saturating_sub(SPARE);
        let most = seconds(expert.parameters.timeout_seconds).min(slot);
        let Some(deadline) = self.job.task.deadline else {
            return Ok(Allowed { timeout: most, cut_short: false });
        };
        let left = deadline.duration_since(self.core.clock.now()).max(SignedDuration::ZERO);
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => Ok(Allowed { timeout: most.min(left), cut_short: left < most }),
            _ => Err("its deadline passed before the call".to_owned()),
        }
    }

    async fn chat(&self, expert: &ExpertSpec, model: SendableModel, allowed: Allowed, mut run: CallRun) -> Called {
        let task = &self.job.task;
        let keep = self.target.keep_alive(self.model, expert.parameters.keep_alive_seconds);
        let request =
            match requests::chat(task, expert, model, keep, self.target.stall() * LEADER_FIRST, allowed.timeout) {
                Ok(request) => request,
                Err(why) => return permanent(run, why),
            };
        let bytes = request.messages.iter().map(|message| message.content.len()).sum();
        if let Some(why) = self.target.too_long(self.model, bytes) {
            return permanent(run, why);
        }
        let mut received = Received::nothing();
        let mut on_activity = |activity| {
            if !received.takes(activity) {
                return;
            }
            if activity == CallActivity::Token {
                self.target.contact.answers();
                self.slot.token();
            } else {
                self.slot.byte();
            }
            if let Err(why) = self.core.may_run(self.job, Some(self.slot)) {
                self.job.stop(why);
            }
        };
        let asked = engine(self.target.kind).infer(&self.target.endpoint, &request, &mut on_activity);
        let answered = self.unless_stopped(asked).await;
        run.first_token_at = received.first_token.and_then(|at| self.core.clock.now().checked_sub(at.elapsed()).ok());
        run.completion_tokens = Some(i64::from(received.tokens));
        match answered {
            Ok(Ok(answer)) => {
                run.completion_tokens = Some(i64::from(answer.tokens));
                run.prompt_tokens = answer.prompt_tokens.map(i64::from);
                if let Some(counted) = answer.prompt_tokens {
                    self.target.counted(self.model, bytes, counted.into());
                }
                self.core.stats.ended(&self.target.server_url, self.model, Some(&answer));
                served(run, outcome::answered(task, &answer).await)
            }
            Ok(Err(error)) => self.failed(run, &error, &received, allowed),
            Err(why) => stopped(run, why),
        }
    }

    async fn embed(&self, expert: &ExpertSpec, model: SendableModel, allowed: Allowed, mut run: CallRun) -> Called {
        let keep = self.target.keep_alive(self.model, expert.parameters.keep_alive_seconds);
        let request = match requests::embed(&self.job.task, model, keep, allowed.timeout) {
            Ok(request) => request,
            Err(why) => return permanent(run, why),
        };
        let received = Received::nothing();
        match self.unless_stopped(engine(self.target.kind).embed(&self.target.endpoint, &request)).await {
            Ok(Ok(answer)) => {
                run.prompt_tokens = answer.prompt_tokens.map(i64::from);
                self.core.stats.ended(&self.target.server_url, self.model, None);
                served(run, outcome::embedded(&answer))
            }
            Ok(Err(error)) => self.failed(run, &error, &received, allowed),
            Err(why) => stopped(run, why),
        }
    }

    /// Dropping the call closes its connection, which ends the work on the server. While the server would not notice that, the answer to
    /// a task that is not ours any more is read on: its slot counts as long as the server is at it.
    async fn unless_stopped<T>(
        &self,
        call: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<Result<T, EngineError>, CallStopped> {
        let looks = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if let Err(why) = self.core.may_run(self.job, Some(self.slot)) {
                    return why;
                }
            }
        };
        let mut call = pin!(call);
        let why = tokio::select! {
            biased;
            why = self.job.stopped() => why,
            () = self.slot.lost().cancelled() => CallStopped::SlotLost,
            why = looks => why,
            done = &mut call => return Ok(done),
        };
        if matches!(why, CallStopped::NotOurs | CallStopped::LeaseLost) {
            tokio::select! {
                biased;
                () = self.closing_is_noticed() => {}
                done = call => if done.is_ok() { self.slot.token() },
            }
        }
        Err(why)
    }

    /// Resolves once the server would notice that its client leaves, or nothing is gained by waiting for that.
    async fn closing_is_noticed(&self) {
        let waits = || !self.core.draining.is_cancelled() && self.slot.may_run(BootInstant::now()).is_ok();
        while self.slot.life().outlives_client && waits() {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn failed(&self, run: CallRun, error: &EngineError, received: &Received, allowed: Allowed) -> Called {
        let waited = Waited {
            silent: received.last_byte.unwrap_or(received.sent).elapsed(),
            bytes: received.last_byte.is_some(),
            tokens: received.tokens > 0,
            others_served: self.target.contact.answered_since(received.sent),
            cut_short: allowed.cut_short,
            stall: self.target.stall(),
        };
        let Meaning { ended, shown, servers_trouble } = outcome::failed(&self.job.task, error, waited);
        if let Failure::ModelMissing { .. } = error.failure {
            self.target.lacked(self.model);
        } else if servers_trouble {
            let retry_after = if let Ended::Unavailable { retry_after, .. } = &ended { *retry_after } else { None };
            self.target.failed(retry_after);
        }
        let lingers = calls::may_still_run(&error.failure);
        Called { run, end: TaskCallEnd::Ended(ended), lingers, servers_trouble, shown }
    }

    fn note(&self, called: &Called, began_at: Timestamp, took: Duration) {
        self.report(&called.shown, began_at);
        let class = match &called.end {
            TaskCallEnd::Ended(ended) => {
                if let Ended::Ok { .. } = ended {
                    self.target.took(took);
                }
                ended.class().as_str()
            }
            TaskCallEnd::Stopped(CallStopped::LeaseLost) => AttemptClass::LeaseLost.as_str(),
            TaskCallEnd::Stopped(_) => AttemptClass::Cancelled.as_str(),
        };
        let tokens = called.run.completion_tokens.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        self.core.metrics.ended(&self.target.namespace, &self.target.backend, self.model, class, tokens, took);
    }

    /// The leader judges the server by it, and moves its limit.
    fn report(&self, shown: &CallShown, began_at: Timestamp) {
        let ended_at = Timestamp::now().max(began_at);
        let (model, request) = (self.model.to_owned(), format!("task {}", self.job.task.id));
        match shown {
            CallShown::Nothing => {}
            CallShown::Served => {
                self.target.contact.served();
                let call = ServedCall { model, began_at, ended_at, request };
                self.core.evidence.served(&self.target.server_url, call);
            }
            CallShown::Failed { fault, message } => {
                self.core.stats.failed(&self.target.server_url, self.model);
                let (fault, message) = (*fault, message.clone());
                let call = FailedCall { model, began_at, ended_at, request, fault, message };
                self.core.evidence.failed(&self.target.server_url, call);
            }
        }
    }
}

impl Received {
    fn nothing() -> Self {
        Self { sent: Instant::now(), headers: false, last_byte: None, tokens: 0, first_token: None }
    }

    /// Whether it belongs to the answer. Headers don't: some servers send them at once, also while the call waits inside them.
    fn takes(&mut self, activity: CallActivity) -> bool {
        match activity {
            CallActivity::Bytes if !self.headers => {
                self.headers = true;
                return false;
            }
            CallActivity::Bytes => {}
            CallActivity::Token => {
                self.tokens += 1;
                self.first_token.get_or_insert_with(Instant::now);
            }
        }
        self.last_byte = Some(Instant::now());
        true
    }
}

/// The server did its part, whatever the answer is worth.
fn served(run: CallRun, ended: Ended) -> Called {
    Called { run, end: TaskCallEnd::Ended(ended), lingers: false, servers_trouble: false, shown: CallShown::Served }
}

fn permanent(run: CallRun, why: String) -> Called {
    let end = TaskCallEnd::Ended(Ended::Permanent { why });
    Called { run, end, lingers: false, servers_trouble: false, shown: CallShown::Nothing }
}

/// A call that we stopped shows nothing of its server, which may be at it for a moment.
fn stopped(run: CallRun, why: CallStopped) -> Called {
    Called { run, end: TaskCallEnd::Stopped(why), lingers: true, servers_trouble: false, shown: CallShown::Nothing }
}
