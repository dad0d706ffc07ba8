//! The life of one call: a slot, an attempt, and what comes after one that failed.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use jiff::Timestamp;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tracing::{Instrument, field};

use super::{
    attempt::{self, AttemptEnd, Failed},
    cache::{CacheWish, CachedCall},
    client::Client,
    core::GatewayCore,
    failover::{self, Next, Tried, Trouble},
    line::{self, LineEnd},
    sessions,
    view::Wanted,
};
use crate::{
    calls,
    engines::words_of,
    protocols::{Ask, Load, Refusal, RefusalReason, loaded},
};

/// A request, whole.
pub(super) struct CallRequest {
    pub body: Bytes,
    /// Those that the engine gets.
    pub headers: HeaderMap,
    pub cache: CacheWish,
    /// As its client names its conversation.
    pub session: Option<String>,
    /// Its part of what all bodies may take.
    pub _room: OwnedSemaphorePermit,
}

/// Counts a call for as long as it is under way.
struct InFlight(Arc<GatewayCore>, Arc<Client>);

impl InFlight {
    fn new(core: &Arc<GatewayCore>, client: &Arc<Client>) -> Self {
        core.in_flight.fetch_add(1, Ordering::Relaxed);
        core.metrics.in_flight(1);
        core.open.add(client);
        Self(Arc::clone(core), Arc::clone(client))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.in_flight(-1);
        self.0.open.remove(&self.1.id);
    }
}

/// Serves a call to its end.
pub(super) async fn run(core: Arc<GatewayCore>, request: CallRequest, client: Arc<Client>) {
    let _in_flight = InFlight::new(&core, &client);
    // It may have been withdrawn since it came to the door.
    if let Err(refusal) = core.view().may_go_on(&client.asker) {
        return refuse(&core, &client, &refusal).await;
    }
    let span = tracing::info_span!("call", id = client.id, path = client.operation.path(), model = field::Empty);
    tokio::select! {
        () = serve(&core, &request, &client).instrument(span) => {}
        never = client.keep_alive() => match never {},
    }
    tracing::debug!(call = client.id, path = client.operation.path(), took = ?client.waited(), "a call ended");
}

async fn serve(core: &Arc<GatewayCore>, request: &CallRequest, client: &Client) {
    let ask = match Ask::read(client.operation, &request.body) {
        Ok(ask) => ask,
        Err(error) => {
            let refusal = Refusal { field: error.field, ..Refusal::new(RefusalReason::Invalid, error.message) };
            return refuse(core, client, &refusal).await;
        }
    };
    let caller = &*client.asker.caller;
    core.until_declared(&caller.namespace).await;
    let alias = core.view().alias(caller, &ask.model).unwrap_or_else(|| caller.alias_of(&ask.model).to_owned());
    client.asks(&alias, ask.streams);
    tracing::Span::current().record("model", alias.as_str());
    if ask.load == Some(Load::Out) {
        // Others use it.
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        client.answer(StatusCode::OK, headers, None, loaded(client.operation, &alias, Timestamp::now()).into());
        return;
    }
    let usual = if ask.streams { core.timings.wait_streamed } else { core.timings.wait_whole };
    let wait = caller.spec.max_wait_seconds.map_or(usual, calls::seconds);
    let deadline = Instant::now() + wait;
    let images = ask.has_images();
    let told = request.session.as_deref().map(|told| vec![told]).or_else(|| ask.conversation());
    let session = told.map(|told| sessions::key(&caller.id(), &alias, told));
    let wanted = Wanted {
        operation: ask.operation,
        namespace: &caller.namespace,
        alias: &alias,
        images,
        prompt: (!images).then(|| ask.prompt_bytes()),
        local_only: caller.spec.local_only,
        session,
        body: &request.body,
    };
    let cached = CachedCall::of(core, caller, &ask, &alias, request.cache);
    if let Some(cached) = &cached
        && cached.answer(core, client).await
    {
        return;
    }
    let mut tried = Tried::default();
    let mut failed: Option<Failed> = None;
    loop {
        let began = Instant::now();
        let standing = line::stand(core, (caller, wanted), &tried, deadline, &client.gone);
        let lent = match standing.instrument(tracing::info_span!("wait")).await {
            Ok(lent) => lent,
            Err(LineEnd::Gone) => return,
            Err(LineEnd::Refused(refusal)) => return refuse(core, client, &refusal).await,
            Err(LineEnd::Nowhere) => {
                let nothing = || Failed {
                    trouble: Trouble::SlotLost,
                    backend: String::new(),
                    headers: HeaderMap::new(),
                    body: Bytes::new(),
                };
                let failed = failed.unwrap_or_else(nothing);
                let next = failover::last(&failed.trouble);
                return end(core, client, &failed, next).await;
            }
        };
        core.metrics.waited(began.elapsed());
        client.has_slot(&lent.target.backend);
        let server = lent.target.server_url.clone();
        let operation = ask.operation.gen_ai_name();
        let span = tracing::info_span!(
            "attempt",
            otel.name = format!("{operation} {alias}"),
            otel.kind = "client",
            backend = lent.target.backend,
            gen_ai.operation.name = operation,
            gen_ai.provider.name = lent.target.kind.gen_ai_name(),
            gen_ai.request.model = alias,
            gen_ai.response.model = lent.model,
            gen_ai.request.stream = ask.streams,
            server.address = lent.target.server_url,
            gen_ai.usage.input_tokens = field::Empty,
            gen_ai.usage.output_tokens = field::Empty,
            error.type = field::Empty,
        );
        let (ended, linger) = attempt::attempt(core, &ask, &request.headers, &lent, client).instrument(span).await;
        lent.give_back(linger).await;
        client.has_no_slot();
        match ended {
            AttemptEnd::Done => {
                if let Some(cached) = cached {
                    cached.keep(core, client);
                }
                return;
            }
            AttemptEnd::Refused(refusal) => return refuse(core, client, &refusal).await,
            AttemptEnd::Failed(one) => {
                tracing::info!(call = client.id, backend = one.backend, trouble = ?one.trouble, "an attempt failed");
                match tried.next(&server, &one.trouble) {
                    Next::Again => failed = Some(one),
                    next => return end(core, client, &one, next).await,
                }
            }
        }
    }
}

/// The last word of a call that no engine served.
async fn end(core: &GatewayCore, client: &Client, failed: &Failed, next: Next) {
    let refusal = match next {
        Next::PassOn(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            let (headers, backend) = (failed.headers.clone(), Some(failed.backend.as_str()));
            if client.answer(status, headers, backend, failed.body.clone()) {
                return;
            }
            Refusal::new(RefusalReason::EngineFailed, words_of(&failed.body))
        }
        Next::Refuse(reason, why) => Refusal::new(reason, why),
        Next::Again => Refusal::new(RefusalReason::Unavailable, "no server is left to ask"),
    };
    refuse(core, client, &refusal).await;
}

async fn refuse(core: &GatewayCore, client: &Client, refusal: &Refusal) {
    core.metrics.refused(refusal.reason.as_str());
    client.refuse(refusal).await;
}
