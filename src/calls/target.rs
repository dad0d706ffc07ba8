//! A backend as it is called: its endpoint with credentials, what it lists, and how its calls have been lately.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::Url;

use super::{
    contact::Contact,
    declared::{Backend, seconds},
    secrets::CachedSecrets,
};
use crate::{
    api::{LLMBackendSpec, Model},
    engines::{
        Endpoint, EngineKind, KeepAlive, ProbeVerdict, Secret, SendableModel, engine, model_to_send, same_model,
    },
    net::HttpClient,
    protocols::USUAL_BYTES_PER_TOKEN,
};

/// For how long a listing proves what may be sent.
const LISTING_FRESH: Duration = Duration::from_secs(15);
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// What is in memory is asked before claims, which must not wait long for it.
const LOADED_TIMEOUT: Duration = Duration::from_secs(2);
/// A model that the server lacks is not asked for again before this.
const LACKED: Duration = Duration::from_secs(15);
/// Weight of the latest call in what is usual.
const LATEST: f64 = 0.3;

/// A backend to be called.
pub struct CallTarget {
    pub backend: String,
    pub namespace: String,
    pub server_url: String,
    pub kind: EngineKind,
    pub endpoint: Endpoint,
    pub spec: Arc<LLMBackendSpec>,
    pub contact: Arc<Contact>,
    generation: i64,
    bearer: Option<Secret>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listing: Option<(Instant, Option<Vec<String>>)>,
    loaded: Option<(Instant, Option<String>)>,
    usual_call: Option<Duration>,
    /// Bytes of a prompt to one token, by model.
    bytes_per_token: HashMap<String, f64>,
    /// Until when models are not asked for that the server lacks.
    lacked: HashMap<String, Instant>,
}

impl CallTarget {
    /// The name to send for a model. MLX is asked what it lists first: another name would make it drop what it has loaded.
    pub async fn sendable(&self, model: &str) -> Result<SendableModel, String> {
        let listed = if self.kind == EngineKind::Mlx { self.listing().await } else { None };
        sendable(self.kind, &self.spec.models, model, listed.as_deref())
    }

    async fn listing(&self) -> Option<Vec<String>> {
        if let Some((at, listed)) = &self.state.lock().listing
            && at.elapsed() < LISTING_FRESH
        {
            return listed.clone();
        }
        let verdict = engine(self.kind).probe(&self.endpoint, &self.spec.probe.paths, ASK_TIMEOUT).await;
        let listed = if let ProbeVerdict::Models(listing) = verdict { Some(listing.models) } else { None };
        self.state.lock().listing = Some((Instant::now(), listed.clone()));
        listed
    }

    /// `preload` keeps a model in memory; a call must not change that.
    pub fn keep_alive(&self, model: &str, declared_seconds: i32) -> KeepAlive {
        let preloaded =
            self.spec.models.iter().any(|m| m.preload && same_model(self.kind, &m.own_name(self.kind), model));
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
        if let Some((at, loaded)) = &self.state.lock().loaded
            && (at.elapsed() < Duration::from_secs(2) || self.kind != EngineKind::Ollama)
        {
            return loaded.clone();
        }
        let answer = engine(self.kind).loaded(&self.endpoint, LOADED_TIMEOUT).await.ok().flatten().unwrap_or_default();
        let last = self.state.lock().loaded.take().and_then(|(_, alias)| alias);
        let in_memory = |model: &str| answer.iter().any(|one| same_model(self.kind, &one.name, model));
        let mut aliases =
            self.spec.models.iter().filter(|m| in_memory(&m.own_name(self.kind))).map(|m| m.asked_as().to_owned());
        // Of several the one that was asked last: it goes last.
        let loaded = last.filter(|last| aliases.clone().any(|a| a == *last)).or_else(|| aliases.next());
        self.state.lock().loaded = Some((Instant::now(), loaded.clone()));
        loaded
    }

    pub fn called(&self, alias: &str) {
        self.state.lock().loaded = Some((Instant::now(), Some(alias.to_owned())));
    }

    /// Leaves the server alone for a moment, and forgets what it listed.
    pub fn failed(&self, retry_after: Option<Duration>) {
        self.contact.failed(retry_after);
        self.state.lock().listing = None;
    }

    /// The server does not have this model, which says nothing about its other ones.
    pub fn lacked(&self, model: &str) {
        let mut state = self.state.lock();
        state.listing = None;
        state.lacked.insert(model.to_owned(), Instant::now() + LACKED);
    }

    pub fn lacks(&self, model: &str) -> bool {
        let mut state = self.state.lock();
        state.lacked.retain(|_, until| *until > Instant::now());
        state.lacked.contains_key(model)
    }

    /// Why a prompt of so many bytes is not sent to a model: it is longer than the declared context.
    pub fn too_long(&self, model: &str, bytes: usize) -> Option<String> {
        let declared = self.spec.models.iter().find(|declared| declared.own_name(self.kind) == model)?;
        too_long(declared, self.least_tokens(model, bytes))
    }

    /// Tokens that a prompt has at least, as far as its bytes tell: by the leanest that the model has counted lately. So a prompt that fits is
    /// refused for no other's sake.
    pub fn least_tokens(&self, model: &str, bytes: usize) -> u64 {
        let ratio = self.state.lock().bytes_per_token.get(model).copied().unwrap_or(USUAL_BYTES_PER_TOKEN);
        (bytes as f64 / ratio) as u64
    }

    /// A model counted so many tokens of a prompt that it read whole.
    pub fn counted(&self, model: &str, bytes: usize, tokens: u64) {
        let mut state = self.state.lock();
        let known = state.bytes_per_token.entry(model.to_owned()).or_insert(USUAL_BYTES_PER_TOKEN);
        *known = learned(*known, bytes, tokens);
    }

    /// How long a call usually takes here; `None` before the first.
    pub fn usual_call(&self) -> Option<Duration> {
        self.state.lock().usual_call
    }

    pub fn took(&self, time: Duration) {
        let mut state = self.state.lock();
        let before = state.usual_call.unwrap_or(time);
        state.usual_call = Some(before.mul_f64(1.0 - LATEST) + time.mul_f64(LATEST));
    }
}

/// The words that clients look for, with their numbers, come first.
fn too_long(model: &Model, tokens: u64) -> Option<String> {
    let most = model.context_tokens.filter(|_| model.is_too_long(tokens))?;
    Some(format!(
        "prompt is too long: {tokens} tokens > {most} maximum, by an estimate of its bytes; {most} is the context length of {:?} \
         (contextTokens): send less of the conversation",
        model.asked_as()
    ))
}

/// Bytes to a token after one more prompt: more at once, fewer slowly. Short prompts tell of their template alone.
fn learned(known: f64, bytes: usize, tokens: u64) -> f64 {
    const SHORT: usize = 2_000;
    const MOST: f64 = 16.0;
    if bytes < SHORT || tokens == 0 {
        return known;
    }
    let seen = (bytes as f64 / tokens as f64).clamp(1.0, MOST);
    if seen > known { seen } else { known + (seen - known) * 0.05 }
}

/// An MLX server that lists nothing (its model is not in the hub's cache) still serves what it was started with, under a name
/// of its own: that is meant where a single model is declared.
fn sendable(
    kind: EngineKind,
    declared: &[Model],
    wanted: &str,
    listed: Option<&[String]>,
) -> Result<SendableModel, String> {
    let error = match model_to_send(kind, wanted, listed) {
        Ok(model) => return Ok(model),
        Err(error) => error,
    };
    if listed.is_some_and(|listed| !listed.is_empty()) {
        return Err(error.to_string());
    }
    if declared.len() == 1 {
        return Ok(SendableModel::mlx_default());
    }
    Err(format!(
        "cannot tell which of the {} declared models the MLX server has loaded, because it lists none, so model {wanted:?} is not \
         sent; declare a single model, or put the model into the cache folder of the server's user so that /v1/models lists it",
        declared.len()
    ))
}

/// The targets of a worker, made anew when their backend or its credentials change.
pub struct Targets {
    http: HttpClient,
    secrets: CachedSecrets,
    known: Mutex<HashMap<String, Arc<CallTarget>>>,
    contacts: Mutex<HashMap<String, Arc<Contact>>>,
}

impl Targets {
    pub fn new(http: HttpClient, secrets: CachedSecrets) -> Self {
        Self { http, secrets, known: Mutex::default(), contacts: Mutex::default() }
    }

    /// Why a backend is not asked for an alias with a prompt of so many bytes.
    pub fn too_long(&self, backend: &Backend, alias: &str, bytes: usize) -> Option<String> {
        let model = backend.spec.models.iter().find(|model| model.asked_as() == alias)?;
        let tokens = match self.known.lock().get(&backend.row.uid) {
            Some(target) => target.least_tokens(&model.own_name(target.kind), bytes),
            None => (bytes as f64 / USUAL_BYTES_PER_TOKEN) as u64,
        };
        too_long(model, tokens)
    }

    /// The error says what is missing.
    pub async fn of(&self, backend: &Backend) -> Result<Arc<CallTarget>, String> {
        let Backend { row, spec } = backend;
        let bearer = match &spec.auth_secret_ref {
            Some(secret) => Some(Secret::new(self.secrets.text(&row.namespace, &secret.name, "token").await?)),
            None => None,
        };
        let known = self.known.lock().get(&row.uid).cloned();
        if let Some(target) = known.filter(|t| t.generation == row.generation && t.bearer == bearer && t.spec == *spec)
        {
            return Ok(target);
        }
        let base = Url::parse(&row.url).map_err(|error| format!("{} is no URL: {error}", row.url))?;
        let target = Arc::new(CallTarget {
            backend: row.name.clone(),
            namespace: row.namespace.clone(),
            server_url: row.server_url.clone(),
            kind: spec.engine,
            endpoint: Endpoint::new(self.http.clone(), base, bearer.clone()),
            spec: Arc::clone(spec),
            contact: self.contact(&row.server_url),
            generation: row.generation,
            bearer,
            state: Mutex::default(),
        });
        self.known.lock().insert(row.uid.clone(), Arc::clone(&target));
        Ok(target)
    }

    /// What is known of a server, whichever backends it has.
    pub fn contact(&self, server_url: &str) -> Arc<Contact> {
        let mut contacts = self.contacts.lock();
        Arc::clone(contacts.entry(server_url.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_to_a_token_are_learned_quickly_where_a_prompt_would_be_refused() {
        let lean = learned(4.0, 60_000, 10_000);
        assert!((lean - 6.0).abs() < 1e-9, "{lean}");
        let after = learned(lean, 20_000, 10_000);
        assert!(after < lean && after > 5.7, "one odd prompt changes little: {after}");
        let many = (0..200).fold(lean, |known, _| learned(known, 30_000, 10_000));
        assert!((many - 3.0).abs() < 0.1, "many do: {many}");
        assert_eq!((learned(4.0, 1_999, 1), learned(4.0, 9_000, 0)), (4.0, 4.0));
    }

    fn declared(names: &[&str]) -> Vec<Model> {
        let model = |name: &&str| serde_json::from_value(serde_json::json!({"name": name})).expect("a model");
        names.iter().map(model).collect()
    }

    #[test]
    fn mlx_is_sent_its_default_where_that_must_be_what_was_declared() {
        let listed = ["other".to_owned()];
        let (listed, nothing) = (Some(&listed[..]), Some(&[][..]));
        for (names, wanted, listed, sent) in [
            (&["default_model"][..], "default_model", listed, Ok("default_model")),
            (&["other"], "other", listed, Ok("other")),
            (&["mine"], "mine", nothing, Ok("default_model")),
            (&["mine"], "mine", None, Ok("default_model")),
            (&["mine"], "mine", listed, Err("does not list it")),
            (&["mine", "more"], "mine", nothing, Err("cannot tell which of the 2 declared models")),
            (&["mine", "default_model"], "default_model", nothing, Ok("default_model")),
        ] {
            let found = sendable(EngineKind::Mlx, &declared(names), wanted, listed);
            match sent {
                Ok(name) => assert_eq!(found.as_ref().map(SendableModel::as_str), Ok(name), "{names:?} {listed:?}"),
                Err(words) => assert!(found.as_ref().is_err_and(|why| why.contains(words)), "{names:?}: {found:?}"),
            }
        }
    }
}
