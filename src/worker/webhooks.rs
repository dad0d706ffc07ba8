//! Tasks of webhook experts: sent to somebody's own agent, and handed over when it takes its time.

use std::sync::Arc;

use jiff::SignedDuration;

use super::{
    core::{CallRun, Core, WorkerPlace},
    handlers::webhook::{self, Sent},
    job::ClaimedJob,
};
use crate::{
    api::{Handler, Webhook},
    calls::{CallStopped, seconds},
    host::SigningSecret,
    store::StoreError,
    tasks::{QueueKey, retry::Ended},
};

/// Does one task, and frees the place.
pub async fn run(core: Arc<Core>, job: Arc<ClaimedJob>, place: WorkerPlace) {
    if let Err(why) = core.may_run(&job, None) {
        return core.stopped(&job, CallRun::default(), why);
    }
    let run = CallRun { started_at: Some(core.clock.now()), ..CallRun::default() };
    let sent = tokio::select! {
        biased;
        why = job.stopped() => return core.stopped(&job, run, why),
        why = lapsed(&core, &job) => return core.stopped(&job, run, why),
        sent = send(&core, &job) => sent,
    };
    match sent {
        Sent::Ended(ended) => drop(core.end(&job, run, ended)),
        Sent::TakenOver => hand_over(&core, &job).await,
    }
    drop(place);
}

async fn lapsed(core: &Core, job: &ClaimedJob) -> CallStopped {
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        if let Err(why) = core.may_run(job, None) {
            return why;
        }
    }
}

async fn send(core: &Core, job: &ClaimedJob) -> Sent {
    let task = &job.task;
    let world = core.world();
    let expert = world.expert(&task.namespace, &task.expert);
    let unavailable = |why: String| Sent::Ended(Ended::Unavailable { why, retry_after: None });
    let Some(expert) = expert.filter(|expert| expert.handler == Handler::Webhook) else {
        return unavailable("its expert is gone, or has no webhook any more".into());
    };
    let Some(Webhook { url, secret_ref }) = &expert.webhook else {
        return unavailable("its expert has no webhook".into());
    };
    let secret = match secret_ref {
        None => None,
        Some(secret) => {
            let text = core.secrets.text(&task.namespace, &secret.name, "signingSecret").await;
            match text.and_then(|text| SigningSecret::parse(&text).map_err(|error| error.to_string())) {
                Ok(secret) => Some(secret),
                Err(why) => return unavailable(why),
            }
        }
    };
    let mut timeout = seconds(expert.parameters.timeout_seconds);
    if let Some(deadline) = task.deadline {
        let left = deadline.duration_since(core.clock.now()).max(SignedDuration::ZERO);
        timeout = timeout.min(std::time::Duration::try_from(left).unwrap_or_default());
    }
    webhook::send(&core.http, url, secret.as_ref(), task, lease_of(core, job), timeout).await
}

/// The agent keeps it by heartbeats from now on; this worker has nothing more to do with it.
async fn hand_over(core: &Core, job: &Arc<ClaimedJob>) {
    let (task, epoch) = (job.task.id, job.task.epoch);
    match core.store.hand_over(task, epoch, lease_of(core, job)).await {
        Ok(_) => tracing::debug!(task, epoch, "an agent took a task over"),
        Err(StoreError::Fenced(why)) => tracing::info!(task, epoch, why, "a task was taken over too late"),
        // If it is not, the task goes with this worker's own lease, and is sent again: the agent sees another epoch.
        Err(error) => {
            job.lease.doubt();
            tracing::warn!(task, epoch, %error, "nobody knows whether a hand-over is recorded");
        }
    }
    core.jobs.remove(job);
}

fn lease_of(core: &Core, job: &ClaimedJob) -> std::time::Duration {
    let key = QueueKey { namespace: job.task.namespace.clone(), name: job.task.queue.clone() };
    core.world().queues.get(&key).map_or(std::time::Duration::from_secs(90), |queue| queue.lease)
}
