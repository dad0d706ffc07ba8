//! Waiting for a slot: those who wait for the same servers stand in line, and the first of them asks.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    call_within,
    core::GatewayCore,
    failover::Tried,
    queues::WaitQueue,
    turns::RequestHash,
    view::{Wanted, hopeless},
};
use crate::{
    base::age,
    calls::{self, Backend, CallTarget, HeldSlot, KnownCaller},
    protocols::{Refusal, RefusalReason},
    store::{BootInstant, CallerLimit, SlotAnswer, SlotPurpose, SlotRequest, Topics},
    tasks::route,
};

/// When whoever waited in vain may come again.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// A slot for one call. It is given back once, whatever happens to the call.
pub(super) struct LentSlot {
    core: Arc<GatewayCore>,
    pub held: Arc<HeldSlot>,
    pub target: Arc<CallTarget>,
    /// What was asked for, and the engine's own name for it.
    pub alias: String,
    pub model: String,
    given_back: bool,
}

impl LentSlot {
    /// `linger`: how long the engine may still be at it.
    pub async fn give_back(mut self, linger: Duration) {
        self.given_back = true;
        self.core.slots.release(&self.held, linger).await;
        self.core.freed.notify_waiters();
    }
}

impl Drop for LentSlot {
    /// A call that panicked.
    fn drop(&mut self) {
        if self.given_back {
            return;
        }
        let (core, held) = (Arc::clone(&self.core), Arc::clone(&self.held));
        tokio::spawn(async move {
            core.slots.release(&held, core.timings.linger).await;
            core.freed.notify_waiters();
        });
    }
}

/// A call that waits counts for the servers that could take it: workers give up their slots for it, and the leader proves servers.
struct WaitTicket {
    core: Arc<GatewayCore>,
    queue: Arc<WaitQueue>,
}

impl WaitTicket {
    fn new(core: &Arc<GatewayCore>, queue: &Arc<WaitQueue>) -> Self {
        core.queues.count(queue, 1);
        core.metrics.waiting(1);
        Self { core: Arc::clone(core), queue: Arc::clone(queue) }
    }
}

impl Drop for WaitTicket {
    fn drop(&mut self) {
        self.core.queues.count(&self.queue, -1);
        self.core.metrics.waiting(-1);
    }
}

/// Why a call got no slot.
pub(super) enum LineEnd {
    Refused(Refusal),
    /// Its client left.
    Gone,
    /// All servers that it may go to were tried.
    Nowhere,
}

/// Waits for a slot of a server that can take the call, in the order of priority and spill.
pub(super) async fn stand(
    core: &Arc<GatewayCore>,
    (caller, wanted): (&KnownCaller, Wanted<'_>),
    tried: &Tried,
    deadline: Instant,
    gone: &CancellationToken,
) -> Result<LentSlot, LineEnd> {
    let candidates = candidates(core, caller, wanted)?;
    let servers = candidates.iter().map(|backend| backend.row.server_url.clone()).collect();
    let queue = core.queues.of(caller, servers);
    let request = || -> RequestHash {
        Sha256::new_with_prefix(wanted.operation.path())
            .chain_update(wanted.alias)
            .chain_update(wanted.body)
            .finalize()
            .into()
    };
    // Whoever comes when nobody waits is the first at once, and may find a slot.
    let turn = queue.join(request);
    let near = wanted.session.and_then(|session| core.sessions.server(&session, Instant::now()));
    let near_until = Instant::now() + core.timings.session_wait;
    let mut ticket: Option<WaitTicket> = None;
    let mut changes = core.store.follow(Topics::WORLD | Topics::SLOTS);
    loop {
        if gone.is_cancelled() {
            turn.keep(request(), Instant::now() + core.timings.turn_kept);
            return Err(LineEnd::Gone);
        }
        if core.closing.is_cancelled() {
            return Err(closing());
        }
        let freed = core.freed.notified();
        // One that was kept for another may come before this one.
        let is_first = turn.is_first();
        if is_first {
            let near = near.as_deref().map(|near| (near, Instant::now() < near_until));
            if let Some(lent) = look(core, (caller, wanted), tried, &queue, near).await? {
                if let Some(session) = wanted.session {
                    core.sessions.served(session, &lent.target.server_url, Instant::now());
                }
                return Ok(lent);
            }
        }
        if Instant::now() >= deadline {
            return Err(full(&queue));
        }
        if ticket.is_none() {
            ticket = Some(WaitTicket::new(core, &queue));
        }
        tokio::select! {
            () = gone.cancelled() => {}
            () = core.closing.cancelled() => {}
            () = sleep_until(deadline) => {}
            () = turn.comes() => {}
            () = freed, if is_first => {}
            _ = changes.changed(core.timings.look), if is_first => {}
        }
    }
}

/// The backends that can take a call. What is declared may change while one waits.
fn candidates(core: &GatewayCore, caller: &KnownCaller, wanted: Wanted<'_>) -> Result<Vec<Backend>, LineEnd> {
    let refused = |reason, why| LineEnd::Refused(Refusal { field: Some("model"), ..Refusal::new(reason, why) });
    let view = core.view();
    let aliases = view.aliases(caller);
    if !aliases.contains(wanted.alias) {
        let all: Vec<&str> = aliases.into_iter().collect();
        let why = format!("no server serves {:?}; there are: {}", wanted.alias, listed(&all));
        return Err(refused(RefusalReason::UnknownModel, why));
    }
    let able = view.candidates(wanted).map_err(|why| refused(RefusalReason::Invalid, why))?;
    let too_long = |backend: &Backend| core.targets.too_long(backend, wanted.alias, wanted.prompt?);
    let Some(first) = able.first() else { return Ok(able) };
    let why = too_long(first);
    let candidates: Vec<Backend> = able.into_iter().filter(|backend| too_long(backend).is_none()).collect();
    if candidates.is_empty() {
        // It would be cut, or refused after it had waited.
        let why = why.unwrap_or_else(|| "prompt is too long".to_owned());
        return Err(LineEnd::Refused(Refusal::new(RefusalReason::PromptTooLong, why)));
    }
    match hopeless(&candidates) {
        Some(why) => Err(refused(RefusalReason::Unavailable, why)),
        None => Ok(candidates),
    }
}

fn listed(aliases: &[&str]) -> String {
    if aliases.is_empty() { "none".to_owned() } else { aliases.join(", ") }
}

/// One look. Nothing of it is dropped on the way: what the database gives is ours. `near`: the server that has the conversation, and whether
/// it is still waited for.
async fn look(
    core: &Arc<GatewayCore>,
    (caller, wanted): (&KnownCaller, Wanted<'_>),
    tried: &Tried,
    queue: &WaitQueue,
    near: Option<(&str, bool)>,
) -> Result<Option<LentSlot>, LineEnd> {
    let candidates = candidates(core, caller, wanted)?;
    let cooling = |url: &str| tried.excludes(url) || core.targets.contact(url).is_waiting();
    let servers = match calls::servers(&candidates, &*core.store, cooling).await {
        Ok(servers) => servers,
        Err(error) => {
            tracing::debug!(%error, "no slot is asked for while the database is away");
            return Ok(None);
        }
    };
    let serving = route::serving(&servers, wanted.namespace, wanted.alias);
    let allowed = route::allowed(&serving);
    if !allowed.is_empty() && allowed.iter().all(|server| tried.excludes(&server.url)) {
        return Err(LineEnd::Nowhere);
    }
    let near_url = near.map(|(url, _)| url).filter(|url| !tried.excludes(url));
    let waits = near.is_some_and(|(_, waits)| waits);
    for (server, _) in route::open_near(&serving, near_url, waits) {
        let backend = candidates.iter().find(|backend| backend.row.name == server.name);
        let (Some(backend), Some(model)) = (backend, server.model(wanted.alias)) else { continue };
        let target = match core.targets.of(backend).await {
            Ok(target) => target,
            Err(why) => {
                tracing::warn!(backend = server.name, why, "a backend can't be called");
                continue;
            }
        };
        if target.lacks(model) {
            continue;
        }
        let answer = ask(core, caller, &server.url, wanted.alias).await;
        core.queues.limit(queue, matches!(answer, Some(Err(CallerLimit::Concurrent))));
        match answer {
            // Others go first there: it is its turn soon.
            None if waits && near_url == Some(server.url.as_str()) => return Ok(None),
            None => {}
            Some(Ok(held)) => {
                target.contact.tried();
                target.called(wanted.alias);
                let (core, alias, model) = (Arc::clone(core), wanted.alias.to_owned(), model.to_owned());
                return Ok(Some(LentSlot { core, held, target, alias, model, given_back: false }));
            }
            Some(Err(CallerLimit::Tokens { for_ })) => return Err(spent(caller, for_)),
            // It is so at every server.
            Some(Err(CallerLimit::Concurrent)) => return Ok(None),
        }
    }
    Ok(None)
}

/// Asks for a slot; an error is a limit of the caller's own.
async fn ask(
    core: &GatewayCore,
    caller: &KnownCaller,
    server_url: &str,
    alias: &str,
) -> Option<Result<Arc<HeldSlot>, CallerLimit>> {
    let _asks = core.asking.read().await;
    let request = SlotRequest {
        server_url: server_url.to_owned(),
        holder: core.holder.clone(),
        purpose: SlotPurpose::Call,
        class: Some(caller.class()),
        caller: Some(caller.for_slots()),
        model: Some(alias.to_owned()),
        lease: core.timings.slot_lease,
        call_within: call_within(core),
    };
    let asked_at = BootInstant::now();
    match core.store.take_slot(&request).await {
        Ok(SlotAnswer::Given(slot)) => Some(Ok(core.slots.add_lasting(slot, asked_at, request.call_within))),
        Ok(SlotAnswer::Limited(limit)) => Some(Err(limit)),
        Ok(SlotAnswer::Full { .. } | SlotAnswer::Closed | SlotAnswer::Spent) => None,
        Err(error) => {
            tracing::debug!(server = server_url, %error, "no slot");
            // It may have been given all the same.
            core.slots.doubt();
            None
        }
    }
}

fn full(queue: &WaitQueue) -> LineEnd {
    let why = match queue.is_limited() {
        true => {
            "as many calls of this caller run as may at once (maxConcurrent), and did for as long as a call waits: ask again later"
        }
        false => {
            "every server that can serve this is full or away, and was for as long as a call waits: ask again later"
        }
    };
    LineEnd::Refused(Refusal { retry_after: Some(RETRY_AFTER), ..Refusal::new(RefusalReason::Full, why) })
}

fn spent(caller: &KnownCaller, for_: Duration) -> LineEnd {
    let most = caller.spec.tokens_per_day.unwrap_or_default();
    let why = format!(
        "the tokens of this day are used: Caller {} has {most} (tokensPerDay), and again in {} at 00:00 UTC",
        caller.id(),
        age(i64::try_from(for_.as_secs()).unwrap_or(i64::MAX))
    );
    LineEnd::Refused(Refusal { retry_after: Some(for_), ..Refusal::new(RefusalReason::Spent, why) })
}

fn closing() -> LineEnd {
    let why = "the gateway ends: ask again";
    let retry_after = Some(Duration::from_secs(1));
    LineEnd::Refused(Refusal { retry_after, ..Refusal::new(RefusalReason::Unavailable, why) })
}
