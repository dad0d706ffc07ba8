//! Claims: which tasks come next, and whose they are then.

use std::collections::{HashMap, VecDeque};

use sqlx::types::Json;
use sqlx::{FromRow, SqliteConnection};

use super::moving::happen;
use super::scheduling::move_due;
use crate::store::stamp::Stamp;
use crate::store::words::Words;
use crate::store::{Claimed, FreeClaim, Lease, Served, StoreError};
use crate::tasks::TaskId;
use crate::tasks::machine::TaskEvent;

/// Rows of a lane that one statement reads.
const READ_AHEAD: i64 = 32;

pub(super) async fn claim_free(
    tx: &mut SqliteConnection,
    claim: &FreeClaim,
    now: Stamp,
) -> Result<Vec<Claimed>, StoreError> {
    let mut line = ClaimLine::new(tx, &claim.queues, &[None], now).await?;
    let mut claimed = Vec::new();
    while i32::try_from(claimed.len()).is_ok_and(|claimed| claimed < claim.most) {
        let Some(next) = line.claim(tx, None).await? else { break };
        claimed.push(next);
    }
    Ok(claimed)
}

/// What waits and could go now, in the order in which it goes.
pub(super) struct ClaimLine {
    lanes: Vec<Lane>,
    /// By namespace: who may be given tasks, and how many more; `None`: any number.
    places: HashMap<String, HashMap<String, Option<i64>>>,
    now: Stamp,
}

/// An expert's tasks of one queue that go to one model, or to none. Apart by expert, so that nobody walks over the tasks of one who is
/// full.
struct Lane {
    served: Served,
    expert: String,
    /// Namespace and alias as the claim gave them; `None`: webhooks.
    model: Option<(String, String)>,
    read: VecDeque<Waiting>,
    /// Where reading goes on; `None`: there is nothing more.
    after: Option<(i64, TaskId)>,
}

#[derive(Clone, FromRow)]
struct Waiting {
    id: TaskId,
    expert: String,
    rank: i64,
    priority: i32,
}

/// The next one, and the lease that it will belong to.
struct Next {
    id: TaskId,
    namespace: String,
    expert: String,
    lease: Lease,
}

/// What is in a server's memory, and how much longer others must have waited to go first all the same.
pub(super) struct Preference<'a> {
    pub loaded: &'a (String, String),
    pub millis: i64,
}

impl ClaimLine {
    pub async fn new(
        tx: &mut SqliteConnection,
        queues: &[Served],
        models: &[Option<(String, String)>],
        now: Stamp,
    ) -> Result<Self, StoreError> {
        move_due(tx, now).await?;
        let places = places(tx).await?;
        let mut lanes = Vec::new();
        for served in queues {
            let Some(experts) = places.get(&served.queue.namespace) else { continue };
            if !is_open(tx, served, now).await? {
                continue;
            }
            let ours = |model: &&Option<(String, String)>| {
                model.as_ref().is_none_or(|(namespace, _)| *namespace == served.queue.namespace)
            };
            for model in models.iter().filter(ours) {
                lanes.extend(lanes_of(tx, served, model.as_ref(), experts, now).await?);
            }
        }
        Ok(Self { lanes, places, now })
    }

    /// Claims the next one that the database lets anybody claim.
    pub async fn claim(
        &mut self,
        tx: &mut SqliteConnection,
        preference: Option<&Preference<'_>>,
    ) -> Result<Option<Claimed>, StoreError> {
        while let Some(next) = self.next(tx, preference).await? {
            let taken = take(tx, &next, self.now).await?;
            if taken.is_some() {
                return Ok(taken);
            }
            if let Some(left) = self.left(&next.namespace, &next.expert) {
                *left += 1;
            }
        }
        Ok(None)
    }

    /// How many places of an expert are left, where that is limited.
    fn left(&mut self, namespace: &str, expert: &str) -> Option<&mut i64> {
        self.places.get_mut(namespace)?.get_mut(expert)?.as_mut()
    }

    /// Takes the next one out of the line.
    async fn next(
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
        let Some(Waiting { id, expert, .. }) = lane.read.pop_front() else { return Ok(None) };
        let (namespace, lease) = (lane.served.queue.namespace.clone(), lane.served.lease.clone());
        if let Some(left) = self.left(&namespace, &expert) {
            *left -= 1;
        }
        Ok(Some(Next { id, namespace, expert, lease }))
    }
}

impl Lane {
    /// Forgets it when its expert has no place left, and reads on when nothing is left.
    async fn bring_forward(
        &mut self,
        tx: &mut SqliteConnection,
        places: &HashMap<String, HashMap<String, Option<i64>>>,
        now: Stamp,
    ) -> Result<(), StoreError> {
        if !places.get(&self.served.queue.namespace).is_some_and(|experts| has_place(experts, &self.expert)) {
            self.read.clear();
            return Ok(());
        }
        let (true, Some(after)) = (self.read.is_empty(), self.after) else { return Ok(()) };
        self.read = self.read_on(tx, after, now).await?.into();
        self.after = self.read.back().map(|last| (last.rank, last.id));
        Ok(())
    }

    async fn read_on(
        &self,
        tx: &mut SqliteConnection,
        (rank, id): (i64, TaskId),
        now: Stamp,
    ) -> Result<Vec<Waiting>, StoreError> {
        let rows = sqlx::query_as(READ_ON)
            .bind(&self.served.queue.namespace)
            .bind(&self.served.queue.name)
            .bind(self.model.as_ref().map(|(_, alias)| alias))
            .bind(&self.expert)
            .bind(rank)
            .bind(id)
            .bind(now)
            .bind(READ_AHEAD)
            .fetch_all(tx)
            .await?;
        Ok(rows)
    }
}

pub(super) const READ_ON: &str = "SELECT id, expert, rank, priority FROM tasks
    WHERE namespace = ?1 AND queue = ?2 AND assigned_model IS ?3 AND expert = ?4 AND state = 'pending'
        AND assignment_reason IS NOT NULL AND (rank, id) > (?5, ?6)
        AND rank < 4611686018427387904 AND (deadline IS NULL OR deadline > ?7)
    ORDER BY rank, id LIMIT ?8";

fn has_place(experts: &HashMap<String, Option<i64>>, expert: &str) -> bool {
    experts.get(expert).is_some_and(|left| left.is_none_or(|left| left > 0))
}

/// One for each expert with places, with the first task of each.
async fn lanes_of(
    tx: &mut SqliteConnection,
    served: &Served,
    model: Option<&(String, String)>,
    experts: &HashMap<String, Option<i64>>,
    now: Stamp,
) -> Result<Vec<Lane>, StoreError> {
    let open: Vec<&str> = experts.keys().map(String::as_str).filter(|expert| has_place(experts, expert)).collect();
    let heads: Vec<Waiting> = sqlx::query_as(HEADS)
        .bind(&served.queue.namespace)
        .bind(&served.queue.name)
        .bind(model.map(|(_, alias)| alias))
        .bind(now)
        .bind(Json(open))
        .fetch_all(tx)
        .await?;
    let lane = |head: Waiting| Lane {
        served: served.clone(),
        expert: head.expert.clone(),
        model: model.cloned(),
        after: Some((head.rank, head.id)),
        read: VecDeque::from([head]),
    };
    Ok(heads.into_iter().map(lane).collect())
}

/// From expert to expert in the index, however many tasks each has.
pub(super) const HEADS: &str = "WITH RECURSIVE experts (expert) AS (
        SELECT min(expert) FROM tasks WHERE namespace = ?1 AND queue = ?2 AND assigned_model IS ?3 AND state = 'pending'
            AND assignment_reason IS NOT NULL AND rank < 4611686018427387904
        UNION ALL
        SELECT (SELECT min(t.expert) FROM tasks AS t WHERE t.namespace = ?1 AND t.queue = ?2 AND t.assigned_model IS ?3
            AND t.state = 'pending' AND t.assignment_reason IS NOT NULL AND t.rank < 4611686018427387904
            AND t.expert > experts.expert)
        FROM experts WHERE experts.expert IS NOT NULL
    )
    SELECT t.id, t.expert, t.rank, t.priority FROM experts AS e JOIN tasks AS t ON t.id = (
        SELECT h.id FROM tasks AS h WHERE h.namespace = ?1 AND h.queue = ?2 AND h.assigned_model IS ?3 AND h.state = 'pending'
            AND h.assignment_reason IS NOT NULL AND h.rank < 4611686018427387904 AND h.expert = e.expert
            AND (h.deadline IS NULL OR h.deadline > ?4)
        ORDER BY h.rank, h.id LIMIT 1)
    WHERE e.expert IN (SELECT value FROM json_each(?5))";

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

/// `None`: the database refuses it.
async fn take(tx: &mut SqliteConnection, next: &Next, now: Stamp) -> Result<Option<Claimed>, StoreError> {
    let taken = sqlx::query(
        "UPDATE tasks SET state = 'in_progress', state_since = ?2, lease = ?3, epoch = epoch + 1 WHERE id = ?1",
    )
    .bind(next.id)
    .bind(now)
    .bind(next.lease.id)
    .execute(&mut *tx)
    .await;
    match taken.map_err(StoreError::from) {
        Ok(_) => {}
        Err(refusal @ StoreError::Refused(_)) => {
            let words = Words::of_refused_claim(next.id, &next.expert, &next.lease, &refusal, now.into());
            match happen(tx, next.id, TaskEvent::ClaimRefused, words, now).await {
                // Not even that may be written: it is stepped over.
                Ok(_) | Err(StoreError::Refused(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(error) => return Err(error),
    }
    let claimed = sqlx::query_as(
        "SELECT id, epoch, namespace, queue, domain, role, payload, priority, deadline, key, labels, expert, assigned_model,
            attempts_used, free_requeues, cycle, attempts FROM tasks WHERE id = ?",
    );
    Ok(Some(Claimed { task: claimed.bind(next.id).fetch_one(tx).await?, lease: next.lease.clone() }))
}
