//! Tasks that clients claim: programs of somebody's own, in any language. A claim takes a task together with a slot where its expert
//! calls a model, under the limits of our own workers; then it is theirs by heartbeats, as a task that was handed over.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    claim_types::{CallView, ClaimReply, ClaimRequest, ClaimToken, ClaimView},
    handover::{seconds_of, secret},
};
use crate::{
    api::{ClaimedBy, ExpertSpec, Kind, TaskQueueSpec, TextKind},
    calls::{self, Backend, seconds},
    http::{
        Api, ApiError, ErrorReply,
        extract::{JsonBody, Query},
        resources::InNamespace,
        services::DEFAULT_NAMESPACE,
    },
    store::{Admission, Claimed, FreeClaim, Served, Slot, SlotClaim, SlotWait, StoreError, Topics, world},
    tasks::{
        Attempt, AttemptClass, ClaimedTask, Completion, QueueKey, Verdict,
        route::{self, RouteRequest},
    },
};

/// Between two looks while nobody tells of a change: what is not due yet becomes so by itself.
const POLL: Duration = Duration::from_secs(1);
/// Changes come in swarms.
const GAP: Duration = Duration::from_millis(50);
/// The time between a call's own bound and its slot's.
const SPARE: Duration = Duration::from_secs(2);
/// The claim's own lease, until each task has one of its own.
const TAKING: Duration = Duration::from_secs(30);

/// Claims tasks of queues whose `claimedBy` is Clients, each with a slot where its expert calls a model. Without a task it waits up to
/// `waitSeconds` for one. Without `namespace` the queues are of `default`.
#[utoipa::path(post, path = "/api/v1/claims", params(InNamespace), tag = "tasks", request_body = ClaimRequest,
    responses((status = 200, body = ClaimReply), (status = 404, description = "no such queue", body = ErrorReply),
        (status = 409, description = "the queue's tasks are done by workers", body = ErrorReply)))]
pub async fn claim(
    State(api): State<Api>,
    Query(query): Query<InNamespace>,
    JsonBody(request): JsonBody<ClaimRequest>,
) -> Result<Json<ClaimReply>, ApiError> {
    let namespace = query.namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let wait = request.checked()?;
    let mut changes = api.store.follow(Topics::READY | Topics::ENDED | Topics::SLOTS | Topics::WORLD);
    let until = Instant::now() + wait;
    // A name of its own: whatever is left under it is nobody's.
    let holder = format!("claim/{}", Uuid::new_v4());
    loop {
        let queues = queues(&api, &namespace, &request.queues).await?;
        // Apart from the connection: what the database gave is not forgotten when the client goes.
        let (holder, worker) = (holder.clone(), request.worker.clone());
        let taking = Taking { api: api.clone(), holder, worker, queues, most: request.most };
        let held = tokio::spawn(taking.run()).await.map_err(|e| ApiError::Broken(e.to_string()))??;
        let left = until.saturating_duration_since(Instant::now());
        if !held.items.is_empty() || left.is_zero() {
            return Ok(Json(ClaimReply { items: held.into_views() }));
        }
        changes.changed(left.min(POLL)).await;
        tokio::time::sleep(GAP.min(left)).await;
    }
}

/// The queues with the lengths of their leases. One that is suspended or held gives nothing: the database sees to that.
async fn queues(api: &Api, namespace: &str, names: &[String]) -> Result<Vec<(QueueKey, Duration)>, ApiError> {
    let declared = api.store.declared("TaskQueue").await?;
    let one = |name: &String| {
        let row = declared
            .iter()
            .find(|row| row.namespace == namespace && row.name == *name)
            .ok_or_else(|| ApiError::NotFound(format!("{} {namespace}/{name} does not exist", Kind::TaskQueue)))?;
        let spec: TaskQueueSpec = world::spec_of(row)
            .ok_or_else(|| ApiError::Broken(format!("TaskQueue {namespace}/{name} was written by another release")))?;
        if spec.claimed_by != ClaimedBy::Clients {
            return Err(ApiError::NotHere {
                message: format!("the tasks of queue {namespace}/{name} are done by workers"),
                hint: "set claimedBy: Clients in the TaskQueue, or claim from another queue".to_owned(),
            });
        }
        Ok((QueueKey { namespace: row.namespace.clone(), name: row.name.clone() }, seconds(spec.lease_seconds)))
    };
    names.iter().map(one).collect()
}

/// A task in hand.
struct Taken {
    task: ClaimedTask,
    lease: Duration,
    token: ClaimToken,
    call: Option<CallView>,
}

/// What is given back unless it was handed on.
struct InHand {
    api: Api,
    items: Vec<Taken>,
}

impl InHand {
    fn into_views(mut self) -> Vec<ClaimView> {
        let view = |Taken { task, lease, token, call }: Taken| ClaimView {
            id: task.id,
            claim: token.text(),
            lease_seconds: seconds_of(lease),
            namespace: task.namespace,
            queue: task.queue,
            domain: task.domain,
            role: task.role,
            payload: task.payload,
            key: task.key,
            labels: task.labels,
            deadline: task.deadline,
            expert: task.expert,
            attempt: task.attempts_used + 1,
            call,
        };
        std::mem::take(&mut self.items).into_iter().map(view).collect()
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        for taken in std::mem::take(&mut self.items) {
            let api = self.api.clone();
            tokio::spawn(async move { give_back(&api, &taken).await });
        }
    }
}

/// Its client left before it was told: no attempt is used.
async fn give_back(api: &Api, Taken { task, token, .. }: &Taken) {
    const WHY: &str = "its client was gone before it had it";
    let Ok(now) = api.store.now().await else { return };
    let attempt = Attempt {
        expert: task.expert.clone(),
        backend: None,
        model: None,
        holder: token.worker.clone(),
        started_at: now,
        ended_at: now,
        first_token_at: None,
        prompt_tokens: None,
        completion_tokens: None,
        class: AttemptClass::Cancelled,
        error: Some(WHY.to_owned()),
    };
    let verdict = Verdict::Requeue { after: Duration::ZERO, reason: WHY.to_owned() };
    let completion = Completion { task: task.id, epoch: task.epoch, verdict, attempt };
    if let Err(error) = api.store.complete(&[completion]).await {
        tracing::debug!(task = task.id, %error, "a claim that nobody has lapses by itself");
    }
    if let Some(slot) = &token.slot {
        release(api, slot).await;
    }
}

/// Gives a claim's slot back.
pub async fn release(api: &Api, slot: &Slot) {
    if let Err(error) = api.store.release_slot(slot, Duration::ZERO).await {
        tracing::debug!(server = slot.server_url, %error, "a slot counts until its call must have ended");
    }
}

struct Taking {
    api: Api,
    holder: String,
    worker: String,
    queues: Vec<(QueueKey, Duration)>,
    most: i32,
}

impl Taking {
    async fn run(self) -> Result<InHand, ApiError> {
        let mut held = InHand { api: self.api.clone(), items: Vec::new() };
        let keys: Vec<QueueKey> = self.queues.iter().map(|(key, _)| key.clone()).collect();
        if !self.api.store.due(&keys).await?.now {
            return Ok(held);
        }
        let mut served = Vec::with_capacity(keys.len());
        for queue in keys {
            let lease = self.api.store.open_lease(&self.holder, &queue, TAKING).await?;
            served.push(Served { queue, lease });
        }
        let taken = self.take(&served, &mut held).await;
        // Its tasks have leases of their own by now. What an error left behind is pending again, and its slots are free.
        for Served { lease, .. } in &served {
            self.api.store.close_lease(lease).await?;
        }
        if let Err(error) = taken {
            self.api.store.free_holder_slots(&self.holder, Duration::ZERO).await?;
            // Those of what was handed on are among them.
            held.items.iter_mut().for_each(|taken| taken.token.slot = None);
            return Err(error);
        }
        Ok(held)
    }

    async fn take(&self, served: &[Served], held: &mut InHand) -> Result<(), ApiError> {
        let store = &self.api.store;
        let free = FreeClaim { queues: served.to_vec(), most: self.most };
        for claimed in store.claim_free(&free).await? {
            self.hand_on(claimed, None, held).await?;
        }
        let experts = self.experts().await?;
        let calling = || experts.iter().filter(|(_, spec)| spec.handler.calls_model());
        let Some(longest) = calling().map(|(_, spec)| seconds(spec.parameters.timeout_seconds)).max() else {
            return Ok(());
        };
        let namespace = &self.queues[0].0.namespace;
        let rows = store.backends().await?.into_iter().filter(|row| row.namespace == *namespace);
        let backends: Vec<Backend> = rows.filter_map(Backend::of).collect();
        let servers = calls::servers(&backends, &**store, |_| false).await?;
        for route in route::routes(&servers) {
            let room = self.most - i32::try_from(held.items.len()).unwrap_or(i32::MAX);
            let Some(backend) = backends.iter().find(|backend| backend.row.name == route.backend) else { continue };
            if room < 1 {
                break;
            }
            let claim = SlotClaim {
                queues: served.to_vec(),
                holder: self.holder.clone(),
                server_url: route.url.clone(),
                models: route.models.iter().map(|asked| (namespace.clone(), asked.alias.clone())).collect(),
                loaded: None,
                affinity: Duration::ZERO,
                most: i32::try_from(route.free).unwrap_or(i32::MAX).min(room),
                slot_lease: self.queues.iter().map(|(_, lease)| *lease).min().unwrap_or(TAKING),
                call_within: longest + SPARE,
            };
            for (slot, claimed) in store.claim_slots(&claim).await?.given {
                let expert = experts.iter().find(|(name, _)| *name == claimed.task.expert).map(|(_, spec)| spec);
                let call = self.call(backend, &route.models, &claimed.task, expert).await?;
                self.hand_on(claimed, Some((slot, call)), held).await?;
            }
        }
        if held.items.is_empty() {
            self.wait_for_slots(&backends).await?;
        }
        Ok(())
    }

    /// Of servers that interactive calls have, tasks get their share when somebody says that they wait. It lapses by itself.
    async fn wait_for_slots(&self, backends: &[Backend]) -> Result<(), StoreError> {
        let ours = |url: &str| backends.iter().any(|backend| backend.row.server_url == url);
        let servers = self.api.store.servers().await?;
        let shared = servers.iter().filter(|now| now.interactive > 0 && now.row.admission != Admission::Closed);
        let waits: Vec<SlotWait> =
            shared.filter(|now| ours(&now.row.url)).map(|now| SlotWait::of_tasks(&now.row.url)).collect();
        if waits.is_empty() {
            return Ok(());
        }
        self.api.store.wait_for_slots(&self.holder, &waits).await
    }

    async fn experts(&self) -> Result<Vec<(String, Arc<ExpertSpec>)>, StoreError> {
        let namespace = &self.queues[0].0.namespace;
        let rows = self.api.store.declared("Expert").await?.into_iter().filter(|row| row.namespace == *namespace);
        Ok(rows.filter_map(|row| Some((row.name.clone(), Arc::new(world::spec_of(&row)?)))).collect())
    }

    /// What the client is to call.
    async fn call(
        &self,
        backend: &Backend,
        models: &[RouteRequest],
        task: &ClaimedTask,
        expert: Option<&Arc<ExpertSpec>>,
    ) -> Result<CallView, ApiError> {
        let alias = task.assigned_model.as_deref().unwrap_or_default();
        let model = models.iter().find(|asked| asked.alias == alias).map_or(alias, |asked| asked.model.as_str());
        let prompt = match expert {
            Some(expert) => self.prompt(&task.namespace, expert).await?,
            None => None,
        };
        let parameters = expert.map(|expert| expert.parameters.clone()).unwrap_or_default();
        Ok(CallView {
            backend: backend.row.name.clone(),
            engine: backend.row.engine.clone(),
            url: backend.row.url.clone(),
            model: model.to_owned(),
            system_prompt: prompt,
            timeout_seconds: parameters.timeout_seconds,
            parameters: serde_json::to_value(&parameters).unwrap_or_default(),
        })
    }

    /// That of a ConfigMap stands in what is projected; that of a Secret is read here.
    async fn prompt(&self, namespace: &str, expert: &ExpertSpec) -> Result<Option<String>, ApiError> {
        let reference = expert.system_prompt_ref.as_ref().filter(|reference| reference.kind == TextKind::Secret);
        let Some(reference) = reference.filter(|_| expert.system_prompt.is_none()) else {
            return Ok(expert.system_prompt.clone());
        };
        let data = secret(&self.api, namespace, &reference.name).await?.unwrap_or_default();
        let text = data.get(&reference.key).and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.map(|text| Some(text.to_owned())).ok_or_else(|| {
            ApiError::Busy(format!(
                "the system prompt of a task's expert is not there: Secret {namespace}/{}",
                reference.name
            ))
        })
    }

    /// Gives a task a lease of its own, which its heartbeats extend.
    async fn hand_on(
        &self,
        claimed: Claimed,
        with: Option<(Slot, CallView)>,
        held: &mut InHand,
    ) -> Result<(), ApiError> {
        let task = claimed.task;
        let key = (task.namespace.as_str(), task.queue.as_str());
        let lease = self.queues.iter().find(|(queue, _)| (queue.namespace.as_str(), queue.name.as_str()) == key);
        let lease = lease.map_or(TAKING, |(_, lease)| *lease);
        let (slot, call) = with.unzip();
        match self.api.store.hand_over(task.id, task.epoch, lease).await {
            // Somebody cancelled it just now.
            Err(StoreError::Fenced(_)) => {
                if let Some(slot) = &slot {
                    release(&self.api, slot).await;
                }
                return Ok(());
            }
            other => drop(other?),
        }
        let token = ClaimToken {
            epoch: task.epoch,
            worker: self.worker.clone(),
            backend: call.as_ref().map(|call| call.backend.clone()),
            model: call.as_ref().map(|call| call.model.clone()),
            slot,
        };
        held.items.push(Taken { task, lease, token, call });
        Ok(())
    }
}
