//! Which models a server has and which are in its memory, as Ollama's scheduler and mlx_lm's provider keep them. Pure:
//! times come from outside, waiting is done by the caller.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Fault,
    asked::Lenient,
    generate::Context,
    in_force::checked,
    ollama::digest,
    reply::{self, NDJSON},
    state::SimulatedState,
};
use crate::engines::{EngineKind, MLX_DEFAULT_MODEL, normalize};

/// Ollama's own: five minutes.
const USUAL_KEEP: Duration = Duration::from_secs(300);

/// How long a runner stays after its last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    For(Duration),
    Forever,
}

/// A model in memory.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelRunner {
    pub(super) model: String,
    /// Tells this runner from a later one of the same model.
    pub(super) generation: u64,
    pub(super) calls: usize,
    pub(super) keep: Keep,
    /// `None` until its first call ended.
    pub(super) expires_at: Option<Timestamp>,
    /// Until then it loads.
    pub(super) ready_at: Timestamp,
}

impl ModelRunner {
    /// As `/api/ps` says it: a runner that has not ended a call yet counts from now.
    pub(super) fn shown_expiry(&self, now: Timestamp) -> Timestamp {
        self.expires_at.unwrap_or_else(|| expiry(self.keep, now))
    }
}

fn expiry(keep: Keep, now: Timestamp) -> Timestamp {
    match keep {
        Keep::For(time) => now.checked_add(time).unwrap_or(Timestamp::MAX),
        // Ollama adds the longest duration that Go has: 292 years.
        Keep::Forever => now.checked_add(Duration::from_secs(292 * 365 * 86_400)).unwrap_or(Timestamp::MAX),
    }
}

/// What became of asking for a runner.
#[derive(Debug, PartialEq)]
pub(super) enum RunnerOffer {
    Got {
        generation: u64,
        ready_at: Timestamp,
        loaded: bool,
        evicted: Option<String>,
    },
    /// Memory is full of models with open calls.
    Wait,
}

#[derive(Debug)]
pub(super) struct Models {
    engine: EngineKind,
    installed: Vec<String>,
    /// Names that were made of others, with a context of their own.
    derived: BTreeMap<String, (String, u32)>,
    runners: Vec<ModelRunner>,
    max_loaded: usize,
    next_generation: u64,
}

impl Models {
    pub(super) fn new(engine: EngineKind, installed: &[String], max_loaded: usize) -> Self {
        let mut models = Self {
            engine,
            installed: Vec::new(),
            derived: BTreeMap::new(),
            runners: Vec::new(),
            max_loaded,
            next_generation: 0,
        };
        for name in installed {
            models.install(name);
        }
        models
    }

    pub(super) fn installed(&self) -> &[String] {
        &self.installed
    }

    /// The installed name for a name asked for.
    pub(super) fn find(&self, asked: &str) -> Option<String> {
        if self.engine == EngineKind::Mlx && asked == MLX_DEFAULT_MODEL {
            return self.installed.first().cloned();
        }
        let wanted = normalize(self.engine, asked);
        self.installed.iter().find(|name| **name == wanted).cloned()
    }

    pub(super) fn install(&mut self, name: &str) {
        let name = normalize(self.engine, name);
        if !self.installed.contains(&name) {
            self.installed.push(name);
        }
    }

    /// What a name was made of, and its context.
    pub(super) fn derived(&self, name: &str) -> Option<&(String, u32)> {
        self.derived.get(&normalize(self.engine, name))
    }

    /// Makes a name of a model that is there.
    pub(super) fn derive(&mut self, name: &str, from: &str, context: u32) -> bool {
        let Some(from) = self.find(from) else { return false };
        self.install(name);
        self.derived.insert(normalize(self.engine, name), (from, context));
        true
    }

    pub(super) fn runners(&self) -> &[ModelRunner] {
        &self.runners
    }

    /// Drops runners whose time is over; returns their models.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<String> {
        let over = |runner: &ModelRunner| runner.calls == 0 && runner.expires_at.is_some_and(|at| at <= now);
        let gone = self.runners.iter().filter(|r| over(r)).map(|r| r.model.clone()).collect();
        self.runners.retain(|runner| !over(runner));
        gone
    }

    /// Takes a call's place at the runner of `model`, which is loaded if need be. `keep` sticks to the runner where it is
    /// said, also for later calls that say nothing.
    pub(super) fn ask(&mut self, model: &str, keep: Option<Keep>, load: Duration, now: Timestamp) -> RunnerOffer {
        if let Some(runner) = self.runners.iter_mut().find(|runner| runner.model == model) {
            runner.calls += 1;
            runner.keep = keep.unwrap_or(runner.keep);
            return RunnerOffer::Got {
                generation: runner.generation,
                ready_at: runner.ready_at,
                loaded: false,
                evicted: None,
            };
        }
        let mut evicted = None;
        if self.runners.len() >= self.max_loaded {
            let idle = self.runners.iter().enumerate().filter(|(_, runner)| runner.calls == 0);
            let Some((place, _)) = idle.min_by_key(|(_, runner)| runner.shown_expiry(now)) else {
                return RunnerOffer::Wait;
            };
            evicted = Some(self.runners.remove(place).model);
        }
        let generation = self.next_generation;
        self.next_generation += 1;
        let ready_at = now.checked_add(load).unwrap_or(Timestamp::MAX);
        let keep = keep.unwrap_or(Keep::For(USUAL_KEEP));
        self.runners.push(ModelRunner {
            model: model.to_owned(),
            generation,
            calls: 1,
            keep,
            expires_at: None,
            ready_at,
        });
        RunnerOffer::Got { generation, ready_at, loaded: true, evicted }
    }

    /// Ends a call. The runner's time begins to run with its last call's end.
    pub(super) fn release(&mut self, generation: u64, now: Timestamp) {
        if let Some(runner) = self.runners.iter_mut().find(|runner| runner.generation == generation) {
            runner.calls = runner.calls.saturating_sub(1);
            if runner.calls == 0 {
                runner.expires_at = Some(expiry(runner.keep, now));
            }
        }
    }

    /// Drops a runner that nobody waits for any longer.
    pub(super) fn cancel_load(&mut self, generation: u64) {
        self.runners.retain(|runner| runner.generation != generation || runner.calls > 0);
    }

    /// `keep_alive: 0`: the runner goes now, or when its open calls are over.
    pub(super) fn unload(&mut self, model: &str, now: Timestamp) {
        if let Some(runner) = self.runners.iter_mut().find(|runner| runner.model == model) {
            runner.keep = Keep::For(Duration::ZERO);
            if runner.calls == 0 {
                runner.expires_at = Some(now);
            }
        }
    }

    /// What a name that mlx_lm does not know does: the loaded model is dropped before the new one is looked for.
    pub(super) fn evict_all(&mut self) -> Vec<String> {
        self.runners.drain(..).map(|runner| runner.model).collect()
    }
}

#[derive(Deserialize)]
pub(super) struct PullRequest {
    #[serde(default, alias = "name")]
    model: String,
    stream: Option<bool>,
}

const FAILED: &str = "pull model manifest: file does not exist";
const USUAL_TIME: Duration = Duration::from_millis(50);
const TOTAL: u64 = 1_000_000_000;
/// Between two lines of a pull that is stuck.
const REPEATS: Duration = Duration::from_millis(200);

pub(super) async fn pull(
    State(shared): State<Arc<SimulatedState>>,
    Extension(context): Extension<Context>,
    Lenient(request): Lenient<PullRequest>,
) -> Response {
    context.call.note(|record| record.model = Some(request.model.clone()));
    let fails = shared.has(|fault| matches!(fault, Fault::FailPull {}));
    let stuck = shared.has(|fault| matches!(fault, Fault::StuckPull {}));
    let slow = shared.fault(|fault| if let Fault::SlowPull { seconds } = fault { Some(*seconds) } else { None });
    let time = slow.map_or(USUAL_TIME, checked);
    if request.stream == Some(false) {
        tokio::time::sleep(time).await;
        if fails {
            return reply::json(500, &json!({"error": FAILED}));
        }
        shared.install(&request.model);
        return reply::json(200, &json!({"status": "success"}));
    }
    // A slow pull is steady: its lines come a second apart, where a hundred suffice.
    let parts = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).clamp(10, 100);
    let records = records(&request.model, parts, fails, stuck);
    let step = if stuck { REPEATS } else { time / parts };
    let lines = records.then(move |record| {
        let (shared, context, model) = (Arc::clone(&shared), context.clone(), request.model.clone());
        async move {
            if record.get("completed").is_some() {
                tokio::time::sleep(step).await;
            }
            if record["status"] == "success" {
                shared.install(&model);
            }
            if record["status"] == "success" || record.get("error").is_some() {
                context.call.finish();
            }
            Ok::<_, std::io::Error>(Bytes::from(format!("{record}\n")))
        }
    });
    reply::with_type(200, NDJSON, Body::from_stream(lines))
}

fn records(model: &str, parts: u32, fails: bool, stuck: bool) -> stream::BoxStream<'static, Value> {
    let status = |status: &str| json!({"status": status});
    let first = stream::iter([status("pulling manifest")]);
    if fails {
        return first.chain(stream::iter([json!({"error": FAILED})])).boxed();
    }
    let digest = digest(model);
    let completed = move |bytes: u64| {
        let status = format!("pulling {}", &digest[..12]);
        json!({"status": status, "digest": format!("sha256:{digest}"), "total": TOTAL, "completed": bytes})
    };
    if stuck {
        return first.chain(stream::repeat(completed(TOTAL / 100 * 99))).boxed();
    }
    let layers = stream::iter((1..=parts).map(move |part| completed(TOTAL * u64::from(part) / u64::from(parts))));
    let last = ["verifying sha256 digest", "writing manifest", "success"].map(status);
    first.chain(layers).chain(stream::iter(last)).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn ollama(max_loaded: usize) -> Models {
        Models::new(EngineKind::Ollama, &["a".into(), "b:1".into(), "c".into()], max_loaded)
    }

    fn got(asked: RunnerOffer) -> u64 {
        match asked {
            RunnerOffer::Got { generation, .. } => generation,
            RunnerOffer::Wait => panic!("had to wait"),
        }
    }

    fn ask(models: &mut Models, model: &str, keep: Option<Keep>, second: i64) -> u64 {
        got(models.ask(model, keep, Duration::ZERO, at(second)))
    }

    #[test]
    fn a_runner_goes_five_minutes_after_its_last_call() {
        let mut models = ollama(3);
        let runner = ask(&mut models, "a:latest", None, 0);
        assert_eq!(models.expire(at(10_000)), Vec::<String>::new(), "a call is open");
        models.release(runner, at(10));
        assert!(models.expire(at(309)).is_empty());
        assert_eq!(models.expire(at(310)), ["a:latest"]);
    }

    #[test]
    fn a_keep_alive_sticks_for_later_calls_that_name_none() {
        let mut models = ollama(3);
        let keep = Some(Keep::For(Duration::from_secs(40)));
        let runner = ask(&mut models, "a:latest", keep, 0);
        models.release(runner, at(1));
        ask(&mut models, "a:latest", None, 2);
        assert_eq!(models.runners()[0].shown_expiry(at(2)), at(41), "it does not move while a call runs");
        models.release(runner, at(3));
        assert_eq!(models.runners()[0].shown_expiry(at(3)), at(43));
        ask(&mut models, "a:latest", Some(Keep::Forever), 4);
        models.release(runner, at(5));
        assert!(models.expire(at(1_000_000_000)).is_empty());
    }

    #[test]
    fn unloading_waits_for_open_calls() {
        let mut models = ollama(3);
        let runner = ask(&mut models, "a:latest", None, 0);
        models.unload("a:latest", at(1));
        assert!(models.expire(at(1)).is_empty());
        models.release(runner, at(2));
        assert_eq!(models.expire(at(2)), ["a:latest"]);
        let next = ask(&mut models, "a:latest", None, 3);
        assert_ne!(next, runner);
        models.release(next, at(3));
        models.unload("a:latest", at(4));
        assert_eq!(models.expire(at(4)), ["a:latest"]);
    }

    #[test]
    fn a_full_memory_evicts_the_idle_one_that_goes_soonest_or_waits() {
        let mut models = ollama(2);
        let a = ask(&mut models, "a:latest", Some(Keep::Forever), 0);
        let b = ask(&mut models, "b:1", None, 0);
        assert_eq!(models.ask("c:latest", None, Duration::ZERO, at(0)), RunnerOffer::Wait);
        models.release(a, at(0));
        models.release(b, at(1));
        let RunnerOffer::Got { evicted, loaded, .. } = models.ask("c:latest", None, Duration::ZERO, at(2)) else {
            panic!()
        };
        assert_eq!((evicted.as_deref(), loaded), (Some("b:1"), true));
    }

    #[test]
    fn mlx_knows_its_default_and_drops_its_model_for_a_name_it_does_not_know() {
        let mut models = Models::new(EngineKind::Mlx, &["m/a".into()], 1);
        assert_eq!(models.find("default_model").as_deref(), Some("m/a"));
        assert_eq!(models.find("m/b"), None);
        ask(&mut models, "m/a", None, 0);
        assert_eq!(models.evict_all(), ["m/a"]);
        assert!(models.runners().is_empty());
    }

    #[test]
    fn ollama_finds_a_model_with_or_without_its_tag() {
        let models = ollama(1);
        assert_eq!(models.installed(), ["a:latest", "b:1", "c:latest"]);
        assert_eq!(models.find("a").as_deref(), Some("a:latest"));
        assert_eq!(models.find("b"), None);
        assert_eq!(models.find("default_model"), None);
    }
}
