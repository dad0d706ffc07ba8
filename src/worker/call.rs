//! One call to an engine: for a chat or for vectors, aborted by whatever stops it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    core::{Core, Run},
    handlers::{chat, embed},
    job::{Job, Stopped},
    outcome,
    slots::HeldSlot,
    target::Target,
    world::seconds,
};
use crate::{
    api::{ExpertSpec, Handler},
    engines::{Activity, EngineError, engine},
    store::BootInstant,
    tasks::{AttemptClass, ClaimedTask, retry::Ended},
};

/// The time between a call's own bound and its slot's: for whatever is between us and the server.
pub const SPARE: Duration = Duration::from_secs(2);
/// Leases are looked at so often, also while no token comes.
const LOOK: Duration = Duration::from_secs(1);

/// What a call left behind.
pub struct Called {
    pub run: Run,
    pub end: End,
    /// The server may still be at it: the slot lingers.
    pub lingers: bool,
    /// The server is to be left alone for a moment.
    pub servers_trouble: bool,
}

pub enum End {
    Ended(Ended),
    Stopped(Stopped),
}

/// One call in a slot.
pub struct Call<'a> {
    pub core: &'a Core,
    pub job: &'a Arc<Job>,
    pub slot: &'a HeldSlot,
    pub target: &'a Target,
    /// The server's own name.
    pub model: &'a str,
}

impl Call<'_> {
    pub async fn run(&self) -> Called {
        let task = &self.job.task;
        let mut run = Run {
            backend: Some(self.target.backend.clone()),
            model: Some(self.model.to_owned()),
            started_at: Some(Timestamp::now()),
            ..Run::default()
        };
        let ended = |run, ended: Ended, servers_trouble| Called {
            run,
            end: End::Ended(ended),
            lingers: false,
            servers_trouble,
        };
        let world = self.core.world();
        let expert = world.expert(&task.namespace, &task.expert);
        let Some(expert) = expert.filter(|expert| expert.handler != Handler::Webhook) else {
            run.started_at = None;
            let why = "its expert is gone, or does no calls any more".to_owned();
            return ended(run, Ended::Unavailable { why, retry_after: None }, false);
        };
        if expert.system_prompt.is_none() && expert.system_prompt_ref.is_some() {
            let why = "its expert's system prompt is not there: see the Expert's status".to_owned();
            return ended(run, Ended::Unavailable { why, retry_after: None }, false);
        }
        let timeout = match self.timeout(&expert) {
            Ok(timeout) => timeout,
            Err(why) => return ended(run, Ended::Retryable { why, retry_after: None }, false),
        };
        let model = match self.target.sendable(self.model).await {
            Ok(model) => model,
            Err(why) => return ended(run, Ended::Unavailable { why, retry_after: None }, true),
        };
        // The last moment before something is sent.
        let may = self.core.may_run(self.job, Some(self.slot)).and_then(|()| self.slot.may_begin(BootInstant::now()));
        if let Err(why) = may {
            return Called { run, end: End::Stopped(why), lingers: false, servers_trouble: false };
        }
        let began = Instant::now();
        self.slot.begin_call();
        let mut called = match expert.handler {
            Handler::Embed => self.embed(&expert, model, timeout, run).await,
            Handler::Chat | Handler::Webhook => self.chat(&expert, model, timeout, run).await,
        };
        self.slot.end_call();
        // This clock does not count sleep, the slot's does: nobody's counts rise for that.
        if matches!(called.end, End::Stopped(Stopped::SlotEnds)) && began.elapsed() < timeout {
            called.end = End::Stopped(Stopped::SlotUnsure);
        }
        self.note(&called, began.elapsed());
        called
    }

    /// Bounded by the expert, the slot and the task's deadline.
    fn timeout(&self, expert: &ExpertSpec) -> Result<Duration, String> {
        let slot = self.slot.left(BootInstant::now()).saturating_sub(SPARE);
        let most = seconds(expert.parameters.timeout_seconds).min(slot);
        let Some(deadline) = self.job.task.deadline else { return Ok(most) };
        let left = deadline.duration_since(Timestamp::now()).max(SignedDuration::ZERO);
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => Ok(most.min(left)),
            _ => Err("its deadline passed before the call".to_owned()),
        }
    }

    async fn chat(
        &self,
        expert: &ExpertSpec,
        model: crate::engines::SendableModel,
        timeout: Duration,
        mut run: Run,
    ) -> Called {
        let task = &self.job.task;
        let keep = self.target.keep_alive(self.model, expert.parameters.keep_alive_seconds);
        let request = match chat::request(task, expert, model, keep, self.target.stall(), timeout) {
            Ok(request) => request,
            Err(why) => return permanent(run, why),
        };
        let tokens = AtomicU32::new(0);
        let first_token = std::sync::OnceLock::new();
        let mut on_activity = |activity| {
            if activity != Activity::Token {
                return;
            }
            tokens.fetch_add(1, Ordering::Relaxed);
            first_token.get_or_init(Timestamp::now);
            self.slot.byte();
            if let Err(why) = self.core.may_run(self.job, Some(self.slot)) {
                self.job.stop(why);
            }
        };
        let asked = engine(self.target.kind).infer(&self.target.endpoint, &request, &mut on_activity);
        let answered = self.unless_stopped(asked).await;
        run.first_token_at = first_token.get().copied();
        run.completion_tokens = Some(i64::from(tokens.load(Ordering::Relaxed)));
        match answered {
            Ok(Ok(answer)) => {
                run.completion_tokens = Some(i64::from(answer.tokens));
                run.prompt_tokens = answer.prompt_tokens.map(i64::from);
                self.core.stats.ended(&self.target.server_url, self.model, Some(&answer));
                Called {
                    run,
                    end: End::Ended(outcome::answered(task, &answer)),
                    lingers: false,
                    servers_trouble: false,
                }
            }
            Ok(Err(error)) => self.failed(run, task, &error),
            Err(why) => Called { run, end: End::Stopped(why), lingers: true, servers_trouble: false },
        }
    }

    async fn embed(
        &self,
        expert: &ExpertSpec,
        model: crate::engines::SendableModel,
        timeout: Duration,
        mut run: Run,
    ) -> Called {
        let task = &self.job.task;
        let keep = self.target.keep_alive(self.model, expert.parameters.keep_alive_seconds);
        let request = match embed::request(task, model, keep, timeout) {
            Ok(request) => request,
            Err(why) => return permanent(run, why),
        };
        match self.unless_stopped(engine(self.target.kind).embed(&self.target.endpoint, &request)).await {
            Ok(Ok(answer)) => {
                run.prompt_tokens = answer.prompt_tokens.map(i64::from);
                self.core.stats.ended(&self.target.server_url, self.model, None);
                Called { run, end: End::Ended(outcome::embedded(&answer)), lingers: false, servers_trouble: false }
            }
            Ok(Err(error)) => self.failed(run, task, &error),
            Err(why) => Called { run, end: End::Stopped(why), lingers: true, servers_trouble: false },
        }
    }

    /// Dropping the call closes its connection, which ends the work on the server.
    async fn unless_stopped<T>(&self, call: impl Future<Output = T>) -> Result<T, Stopped> {
        let looks = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if let Err(why) = self.core.may_run(self.job, Some(self.slot)) {
                    return why;
                }
            }
        };
        tokio::select! {
            biased;
            why = self.job.stopped() => Err(why),
            () = self.slot.lost().cancelled() => Err(Stopped::SlotLost),
            why = looks => Err(why),
            done = call => Ok(done),
        }
    }

    fn failed(&self, run: Run, task: &ClaimedTask, error: &EngineError) -> Called {
        self.core.stats.failed(&self.target.server_url, self.model);
        Called {
            run,
            end: End::Ended(outcome::failed(task, error)),
            lingers: outcome::may_still_run(&error.failure),
            servers_trouble: outcome::is_servers_trouble(&error.failure),
        }
    }

    fn note(&self, called: &Called, took: Duration) {
        let class = match &called.end {
            End::Ended(ended) => {
                if let Ended::Ok { .. } = ended {
                    self.target.took(took);
                }
                word(ended.class())
            }
            End::Stopped(Stopped::LeaseLost) => word(AttemptClass::LeaseLost),
            End::Stopped(_) => word(AttemptClass::Cancelled),
        };
        let tokens = called.run.completion_tokens.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        self.core.metrics.ended(&self.target.namespace, &self.target.backend, self.model, class, tokens, took);
    }
}

fn permanent(run: Run, why: String) -> Called {
    Called { run, end: End::Ended(Ended::Permanent { why }), lingers: false, servers_trouble: false }
}

/// As metrics have it.
fn word(class: AttemptClass) -> &'static str {
    match class {
        AttemptClass::Ok => "Ok",
        AttemptClass::Retryable => "Retryable",
        AttemptClass::Unavailable => "Unavailable",
        AttemptClass::Permanent => "Permanent",
        AttemptClass::LeaseLost => "LeaseLost",
        AttemptClass::Cancelled => "Cancelled",
    }
}
