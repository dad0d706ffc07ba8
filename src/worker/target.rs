//! A backend as it is called: its endpoint with credentials, what it lists, and how its calls have been lately.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rand::Rng;
use reqwest::Url;

use super::{
    secrets::Cached,
    world::{Backend, seconds},
};
use crate::{
    api::LLMBackendSpec,
    engines::{
        Endpoint, EngineKind, KeepAlive, ProbeVerdict, Secret, SendableModel, engine, model_to_send, same_model,
    },
};

/// For how long a listing proves what may be sent.
const LISTING_FRESH: Duration = Duration::from_secs(15);
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// What is in memory is asked before claims, which must not wait long for it.
const LOADED_TIMEOUT: Duration = Duration::from_secs(2);
/// After a call was refused, its server is left alone for up to so long.
const COOLING: Duration = Duration::from_secs(2);
/// Weight of the latest call in what is usual.
const LATEST: f64 = 0.3;

/// A backend to be called.
pub struct Target {
    pub backend: String,
    pub namespace: String,
    pub server_url: String,
    pub kind: EngineKind,
    pub endpoint: Endpoint,
    pub spec: Arc<LLMBackendSpec>,
    generation: i64,
    bearer: Option<Secret>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listing: Option<(Instant, Option<Vec<String>>)>,
    loaded: Option<(Instant, Option<String>)>,
    cooling_until: Option<Instant>,
    usual_call: Option<Duration>,
}

impl Target {
    /// The name to send for a model. MLX is asked what it lists first: another name would make it drop what it has loaded.
    pub async fn sendable(&self, model: &str) -> Result<SendableModel, String> {
        let listed = if self.kind == EngineKind::Mlx { self.listing().await } else { None };
        model_to_send(self.kind, model, listed.as_deref()).map_err(|error| error.to_string())
    }

    async fn listing(&self) -> Option<Vec<String>> {
        if let Some((at, listed)) = &self.lock().listing
            && at.elapsed() < LISTING_FRESH
        {
            return listed.clone();
        }
        let verdict = engine(self.kind).probe(&self.endpoint, &self.spec.probe.paths, ASK_TIMEOUT).await;
        let listed = if let ProbeVerdict::Models(listing) = verdict { Some(listing.models) } else { None };
        self.lock().listing = Some((Instant::now(), listed.clone()));
        listed
    }

    /// `preload` keeps a model in memory; a call must not change that.
    pub fn keep_alive(&self, model: &str, declared_seconds: i32) -> KeepAlive {
        let preloaded = self.spec.models.iter().any(|m| m.preload && same_model(self.kind, &m.name, model));
        if preloaded { KeepAlive::Forever } else { KeepAlive::For(seconds(declared_seconds)) }
    }

    pub fn stall(&self) -> Duration {
        seconds(self.spec.stall_seconds)
    }

    /// The alias whose model is in memory. Matters only where several take turns.
    pub async fn loaded_alias(&self) -> Option<String> {
        if self.spec.models.len() < 2 {
            return None;
        }
        if let Some((at, loaded)) = &self.lock().loaded
            && (at.elapsed() < Duration::from_secs(2) || self.kind != EngineKind::Ollama)
        {
            return loaded.clone();
        }
        let answer = engine(self.kind).loaded(&self.endpoint, LOADED_TIMEOUT).await.ok().flatten().unwrap_or_default();
        let last = self.lock().loaded.take().and_then(|(_, alias)| alias);
        let in_memory = |model: &str| answer.iter().any(|one| same_model(self.kind, &one.name, model));
        let mut aliases = self.spec.models.iter().filter(|m| in_memory(&m.name)).map(alias);
        // Of several the one that was asked last: it goes last.
        let loaded = last.filter(|last| aliases.clone().any(|a| a == *last)).or_else(|| aliases.next());
        self.lock().loaded = Some((Instant::now(), loaded.clone()));
        loaded
    }

    pub fn called(&self, alias: &str) {
        self.lock().loaded = Some((Instant::now(), Some(alias.to_owned())));
    }

    /// Leaves the server alone for a moment, and forgets what it listed.
    pub fn cool(&self) {
        let wait = COOLING.mul_f64(rand::rng().random_range(0.5..1.0));
        let mut state = self.lock();
        state.cooling_until = Some(Instant::now() + wait);
        state.listing = None;
    }

    pub fn is_cooling(&self) -> bool {
        self.lock().cooling_until.is_some_and(|until| until > Instant::now())
    }

    /// How long a call usually takes here; `None` before the first.
    pub fn usual_call(&self) -> Option<Duration> {
        self.lock().usual_call
    }

    pub fn took(&self, time: Duration) {
        let mut state = self.lock();
        let before = state.usual_call.unwrap_or(time);
        state.usual_call = Some(before.mul_f64(1.0 - LATEST) + time.mul_f64(LATEST));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn alias(model: &crate::api::Model) -> String {
    model.alias.clone().unwrap_or_else(|| model.name.clone())
}

/// The targets of a worker, made anew when their backend or its credentials change.
pub struct Targets {
    http: reqwest::Client,
    secrets: Cached,
    known: Mutex<HashMap<String, Arc<Target>>>,
}

impl Targets {
    pub fn new(http: reqwest::Client, secrets: Cached) -> Self {
        Self { http, secrets, known: Mutex::default() }
    }

    /// The error says what is missing.
    pub async fn of(&self, backend: &Backend) -> Result<Arc<Target>, String> {
        let Backend { row, spec } = backend;
        let bearer = match &spec.auth_secret_ref {
            Some(secret) => Some(Secret::new(self.secrets.text(&row.namespace, &secret.name, "token").await?)),
            None => None,
        };
        let known = self.lock().get(&row.uid).cloned();
        if let Some(target) = known.filter(|t| t.generation == row.generation && t.bearer == bearer && t.spec == *spec)
        {
            return Ok(target);
        }
        let base = Url::parse(&row.url).map_err(|error| format!("{} is no URL: {error}", row.url))?;
        let target = Arc::new(Target {
            backend: row.name.clone(),
            namespace: row.namespace.clone(),
            server_url: row.server_url.clone(),
            kind: spec.engine.into(),
            endpoint: Endpoint::new(self.http.clone(), base, bearer.clone()),
            spec: Arc::clone(spec),
            generation: row.generation,
            bearer,
            state: Mutex::default(),
        });
        self.lock().insert(row.uid.clone(), Arc::clone(&target));
        Ok(target)
    }

    /// Whether the server just refused a call of ours.
    pub fn is_cooling(&self, server_url: &str) -> bool {
        self.lock().values().any(|target| target.server_url == server_url && target.is_cooling())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Target>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
