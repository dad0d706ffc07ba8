//! Tasks come in: all of a call or none.

use std::collections::HashMap;

use sqlx::postgres::PgConnection;

use crate::store::stamp::Stamp;
use crate::store::text::json_text;
use crate::store::text::text;
use crate::store::{Inserted, StoreError};
use crate::tasks::{NewTask, TaskId};

pub(super) async fn insert(connection: &mut PgConnection, tasks: &[NewTask]) -> Result<Vec<Inserted>, StoreError> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let count = i64::try_from(tasks.len()).unwrap_or(i64::MAX);
    let ids: Vec<TaskId> = sqlx::query_scalar("SELECT nextval('tasks_id_seq') FROM generate_series(1, $1)")
        .bind(count)
        .fetch_all(&mut *connection)
        .await?;
    let mut inserted: Vec<Inserted> = ids.into_iter().map(|id| Inserted { id, existed: false }).collect();
    if tasks.iter().any(|task| task.key.is_some()) {
        take_keys(connection, tasks, &mut inserted).await?;
    }
    let new: Vec<(TaskId, &NewTask)> = inserted
        .iter()
        .zip(tasks)
        .filter(|(inserted, _)| !inserted.existed)
        .map(|(inserted, task)| (inserted.id, task))
        .collect();
    write(connection, &new).await?;
    Ok(inserted)
}

/// Keys are taken in their order, so that two calls don't wait for one another; of equal ones in a call the first gets it.
async fn take_keys(
    connection: &mut PgConnection,
    tasks: &[NewTask],
    inserted: &mut [Inserted],
) -> Result<(), StoreError> {
    let mut keyed: Vec<(usize, [String; 3])> = Vec::new();
    for (at, task) in tasks.iter().enumerate() {
        let clean = |word: &str| text(word).into_owned();
        keyed.extend(task.key.as_deref().map(|key| (at, [clean(&task.namespace), clean(&task.queue), clean(key)])));
    }
    let column = |of: usize| keyed.iter().map(|(_, key)| key[of].as_str()).collect::<Vec<_>>();
    // The second statement sees what the first one waited for, unless it was purged in between: then the first takes it.
    let mut owners: HashMap<[String; 3], TaskId> = HashMap::new();
    while owners.len() < keyed.iter().map(|(_, key)| key).collect::<std::collections::HashSet<_>>().len() {
        sqlx::query(
            "INSERT INTO task_keys (namespace, queue, key, id)
             SELECT namespace, queue, key, min(id) FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
                AS w (namespace, queue, key, id)
             GROUP BY namespace, queue, key ORDER BY namespace, queue, key ON CONFLICT DO NOTHING",
        )
        .bind(column(0))
        .bind(column(1))
        .bind(column(2))
        .bind(keyed.iter().map(|(at, _)| inserted[*at].id).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
        let found: Vec<(String, String, String, TaskId)> = sqlx::query_as(
            "SELECT DISTINCT k.namespace, k.queue, k.key, k.id FROM task_keys AS k
             JOIN unnest($1::text[], $2::text[], $3::text[]) AS w (namespace, queue, key)
                ON k.namespace = w.namespace AND k.queue = w.queue AND k.key = w.key",
        )
        .bind(column(0))
        .bind(column(1))
        .bind(column(2))
        .fetch_all(&mut *connection)
        .await?;
        owners = found.into_iter().map(|(namespace, queue, key, id)| ([namespace, queue, key], id)).collect();
    }
    for (at, key) in keyed {
        if let Some(owner) = owners.get(&key).filter(|owner| **owner != inserted[at].id) {
            inserted[at] = Inserted { id: *owner, existed: true };
        }
    }
    Ok(())
}

/// A queue's deadline counts from when the task may first run.
async fn write(connection: &mut PgConnection, new: &[(TaskId, &NewTask)]) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let tasks = || new.iter().map(|(_, task)| *task);
    sqlx::query(
        "INSERT INTO tasks (id, namespace, queue, domain, role, payload, model, priority, run_after, deadline, key, labels,
            created_at, state_since, rank, bytes, expert)
         SELECT w.id, w.namespace, w.queue, w.domain, w.role, w.payload::json, w.model, w.priority, w.run_after,
            coalesce(w.deadline, greatest(c.now, w.run_after) + make_interval(secs =>
                nullif((q.spec ->> 'deadlineSeconds')::double precision, 0))),
            w.key, w.labels::json, c.now, c.now, task_rank(c.now, w.run_after, w.priority, c.now), octet_length(w.payload), w.expert
         FROM (SELECT clock_timestamp() AS now) AS c, unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[],
            $6::text[], $7::text[], $8::integer[], $9::timestamptz[], $10::timestamptz[], $11::text[], $12::text[],
            $13::text[]) AS w (id, namespace, queue, domain, role, payload, model, priority, run_after, deadline, key,
            labels, expert)
         LEFT JOIN declared AS q ON q.kind = 'TaskQueue' AND q.namespace = w.namespace AND q.name = w.queue
            AND q.gone_at IS NULL",
    )
    .bind(new.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(tasks().map(|task| text(&task.namespace)).collect::<Vec<_>>())
    .bind(tasks().map(|task| text(&task.queue)).collect::<Vec<_>>())
    .bind(tasks().map(|task| text(&task.domain)).collect::<Vec<_>>())
    .bind(tasks().map(|task| text(&task.role)).collect::<Vec<_>>())
    .bind(tasks().map(|task| json_text(&task.payload)).collect::<Vec<_>>())
    .bind(tasks().map(|task| task.model.as_deref().map(text)).collect::<Vec<_>>())
    .bind(tasks().map(|task| task.priority).collect::<Vec<_>>())
    .bind(tasks().map(|task| task.run_after.map(Stamp::from)).collect::<Vec<_>>())
    .bind(tasks().map(|task| task.deadline.map(Stamp::from)).collect::<Vec<_>>())
    .bind(tasks().map(|task| task.key.as_deref().map(text)).collect::<Vec<_>>())
    .bind(tasks().map(|task| json_text(&task.labels)).collect::<Vec<_>>())
    .bind(tasks().map(|task| task.expert.as_deref().map(text)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
