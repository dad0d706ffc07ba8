//! Claims: which tasks come next, and whose they are then.

use std::collections::{HashMap, VecDeque};

use sqlx::types::Json;
use sqlx::{FromRow, SqliteConnection};

use super::scheduling::move_due;
use crate::store::stamp::Stamp;
use crate::store::task_rows::ClaimedRecord;
use crate::store::{Claimed, FreeClaim, Lease, Served, StoreError};
use crate::tasks::TaskId;

/// Rows of a lane that one statement reads.
const READ_AHEAD: i64 = 32;

pub(super) async fn claim_free(
    tx: &mut SqliteConnection,
    claim: &FreeClaim,
    now: Stamp,
) -> Result<Vec<Claimed>, StoreError> {
    let mut line = Line::new(tx, &claim.queues, &[None], now).await?;
    let mut claimed = Vec::new();
    for _ in 0..claim.most {
        let Some(next) = line.next(tx, None).await? else { break };
        claimed.push(take(tx, &next, now).await?);
    }
    Ok(claimed)
}

/// What waits and could go now, in the order in which it goes.
pub(super) struct Line {
    lanes: Vec<Lane>,
    /// By namespace: who may be given tasks, and how many more; `None`: any number.
    places: HashMap<String, HashMap<String, Option<i64>>>,
    now: Stamp,
}

/// Assigned tasks of one queue that go to one model, or to none.
struct Lane {
    served: Served,
    /// Namespace and alias as the claim gave them; `None`: webhooks.
    model: Option<(String, String)>,
    read: VecDeque<Waiting>,
    /// Where reading goes on; `None`: there is nothing more.
    after: Option<(i64, TaskId)>,
}

#[derive(Clone, FromRow)]
pub(super) struct Waiting {
    id: TaskId,
    expert: String,
    rank: i64,
    priority: i32,
}

/// The next one, and the lease that it will belong to.
pub(super) struct Next {
    pub id: TaskId,
    pub model: Option<String>,
    lease: Lease,
}

/// What is in a server's memory, and how much longer others must have waited to go first all the same.
pub(super) struct Preference<'a> {
    pub loaded: &'a (String, String),
    pub millis: i64,
}

impl Line {
    pub async fn new(
        tx: &mut SqliteConnection,
        queues: &[Served],
        models: &[Option<(String, String)>],
        now: Stamp,
    ) -> Result<Self, StoreError> {
        let mut lanes = Vec::new();
        for served in queues {
            if !is_open(tx, served, now).await? {
                continue;
            }
            for model in models {
                if model.as_ref().is_none_or(|(namespace, _)| *namespace == served.queue.namespace) {
                    let after = Some((i64::MIN, 0));
                    lanes.push(Lane { served: served.clone(), model: model.clone(), read: VecDeque::new(), after });
                }
            }
        }
        move_due(tx, now).await?;
        let places = if lanes.is_empty() { HashMap::new() } else { places(tx).await? };
        Ok(Self { lanes, places, now })
    }

    /// Takes the next one out of the line.
    pub async fn next(
        &mut self,
        tx: &mut SqliteConnection,
        preference: Option<&Preference<'_>>,
    ) -> Result<Option<Next>, StoreError> {
        for lane in &mut self.lanes {
            lane.bring_forward(tx, &self.places, self.now).await?;
        }
        let heads = || self.lanes.iter().enumerate().filter_map(|(at, lane)| Some((at, lane, lane.read.front()?)));
        let order = |(_, _, head): &(usize, &Lane, &Waiting)| (head.rank, head.id);
        let Some((mut at, _, first)) = heads().min_by_key(order) else { return Ok(None) };
        if let Some(Preference { loaded, millis }) = preference {
            let preferred = heads().filter(|(_, lane, _)| lane.model.as_ref() == Some(*loaded)).min_by_key(order);
            if let Some((preferred, _, head)) = preferred
                && first.priority <= head.priority
                && head.rank.saturating_sub(first.rank) <= *millis
            {
                at = preferred;
            }
        }
        let lane = &mut self.lanes[at];
        let Some(waiting) = lane.read.pop_front() else { return Ok(None) };
        if let Some(Some(left)) =
            self.places.get_mut(&lane.served.queue.namespace).and_then(|experts| experts.get_mut(&waiting.expert))
        {
            *left -= 1;
        }
        let model = lane.model.as_ref().map(|(_, alias)| alias.clone());
        Ok(Some(Next { id: waiting.id, model, lease: lane.served.lease.clone() }))
    }
}

impl Lane {
    /// Drops from the front whose expert has no place left, and reads on when nothing is left.
    async fn bring_forward(
        &mut self,
        tx: &mut SqliteConnection,
        places: &HashMap<String, HashMap<String, Option<i64>>>,
        now: Stamp,
    ) -> Result<(), StoreError> {
        let Some(experts) = places.get(&self.served.queue.namespace) else {
            self.read.clear();
            return Ok(());
        };
        let has_place = |expert: &str| experts.get(expert).is_some_and(|left| left.is_none_or(|left| left > 0));
        loop {
            while self.read.front().is_some_and(|head| !has_place(&head.expert)) {
                self.read.pop_front();
            }
            let (true, Some(after)) = (self.read.is_empty(), self.after) else { return Ok(()) };
            let open: Vec<&str> = experts.keys().map(String::as_str).filter(|expert| has_place(expert)).collect();
            let rows = self.read_on(tx, &open, after, now).await?;
            self.after = match rows.last() {
                Some(last) if rows.len() as i64 == READ_AHEAD => Some((last.rank, last.id)),
                _ => None,
            };
            self.read.extend(rows);
        }
    }

    async fn read_on(
        &self,
        tx: &mut SqliteConnection,
        open: &[&str],
        (rank, id): (i64, TaskId),
        now: Stamp,
    ) -> Result<Vec<Waiting>, StoreError> {
        let rows = sqlx::query_as(
            "SELECT id, expert, rank, priority FROM tasks
             WHERE namespace = ?1 AND queue = ?2 AND assigned_model IS ?3 AND state = 'pending'
                AND assignment_reason IS NOT NULL AND (rank, id) > (?4, ?5)
                AND rank < 4611686018427387904 AND (deadline IS NULL OR deadline > ?6)
                AND expert IN (SELECT value FROM json_each(?7))
             ORDER BY rank, id LIMIT ?8",
        )
        .bind(&self.served.queue.namespace)
        .bind(&self.served.queue.name)
        .bind(self.model.as_ref().map(|(_, alias)| alias))
        .bind(rank)
        .bind(id)
        .bind(now)
        .bind(Json(open))
        .bind(READ_AHEAD)
        .fetch_all(tx)
        .await?;
        Ok(rows)
    }
}

/// Whether the queue gives tasks and the lease holds: whoever lost its lease may not know that yet.
async fn is_open(tx: &mut SqliteConnection, served: &Served, now: Stamp) -> Result<bool, StoreError> {
    let open = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM leases WHERE id = ?1 AND holder = ?2 AND namespace = ?3 AND queue = ?4 AND expires_at > ?5)
         AND EXISTS (SELECT 1 FROM declared WHERE kind = 'TaskQueue' AND namespace = ?3 AND name = ?4 AND gone_at IS NULL
            AND NOT suspended AND held IS NULL)",
    );
    let open = open
        .bind(served.lease.id)
        .bind(&served.lease.holder)
        .bind(&served.queue.namespace)
        .bind(&served.queue.name)
        .bind(now)
        .fetch_one(tx)
        .await?;
    Ok(open)
}

/// Counted under the lock, so no counter can be wrong.
async fn places(tx: &mut SqliteConnection) -> Result<HashMap<String, HashMap<String, Option<i64>>>, StoreError> {
    let experts: Vec<(String, String, Option<i64>)> = sqlx::query_as(
        "SELECT namespace, name, spec ->> '$.maxConcurrentTasks' - (SELECT count(*) FROM tasks
            WHERE tasks.namespace = declared.namespace AND expert = name AND state = 'in_progress')
         FROM declared WHERE kind = 'Expert' AND gone_at IS NULL AND NOT suspended",
    )
    .fetch_all(tx)
    .await?;
    let mut places: HashMap<String, HashMap<String, Option<i64>>> = HashMap::new();
    for (namespace, name, left) in experts {
        places.entry(namespace).or_default().insert(name, left);
    }
    Ok(places)
}

pub(super) async fn take(tx: &mut SqliteConnection, next: &Next, now: Stamp) -> Result<Claimed, StoreError> {
    sqlx::query(
        "UPDATE tasks SET state = 'in_progress', state_since = ?2, lease = ?3, epoch = epoch + 1 WHERE id = ?1",
    )
    .bind(next.id)
    .bind(now)
    .bind(next.lease.id)
    .execute(&mut *tx)
    .await?;
    let claimed = sqlx::query_as::<_, ClaimedRecord>(
        "SELECT id, epoch, namespace, queue, domain, role, payload, priority, deadline, key, labels, expert, assigned_model,
            attempts_used, free_requeues, cycle, attempts FROM tasks WHERE id = ?",
    );
    let record = claimed.bind(next.id).fetch_one(tx).await?;
    Ok(Claimed { task: record.into(), lease: next.lease.clone() })
}
