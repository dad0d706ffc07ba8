//! Places of experts: how many tasks they may have in progress, and have.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;

use crate::store::StoreError;

/// Gives back one place for each execution that is over. Locks in the order of keys.
pub(super) async fn leave(connection: &mut PgConnection, over: Vec<(String, String)>) -> Result<(), StoreError> {
    let mut counts: BTreeMap<(String, String), i32> = BTreeMap::new();
    for key in over {
        *counts.entry(key).or_default() += 1;
    }
    if counts.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH locked AS MATERIALIZED (
            SELECT p.namespace, p.expert, w.count FROM expert_places AS p
            JOIN unnest($1::text[], $2::text[], $3::integer[]) AS w (namespace, expert, count)
                ON p.namespace = w.namespace AND p.expert = w.expert
            ORDER BY p.namespace, p.expert FOR NO KEY UPDATE OF p)
         UPDATE expert_places AS p SET running = greatest(p.running - l.count, 0) FROM locked AS l
         WHERE p.namespace = l.namespace AND p.expert = l.expert",
    )
    .bind(counts.keys().map(|(namespace, _)| namespace.as_str()).collect::<Vec<_>>())
    .bind(counts.keys().map(|(_, expert)| expert.as_str()).collect::<Vec<_>>())
    .bind(counts.values().copied().collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// How many places an expert has from now on. A new row counts what it has in progress already.
pub(super) async fn set(
    connection: &mut PgConnection,
    namespace: &str,
    expert: &str,
    places: i32,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO expert_places (namespace, expert, places, running)
         VALUES ($1, $2, $3, (SELECT count(*) FROM all_running_tasks WHERE namespace = $1 AND expert = $2))
         ON CONFLICT (namespace, expert) DO UPDATE SET places = excluded.places WHERE expert_places.places <> excluded.places",
    )
    .bind(namespace)
    .bind(expert)
    .bind(places)
    .execute(connection)
    .await?;
    Ok(())
}

/// Experts that nobody declared have no places: what names them waits.
pub(super) async fn none_for_unknown(
    connection: &mut PgConnection,
    experts: impl Iterator<Item = (String, String)>,
) -> Result<(), StoreError> {
    let (namespaces, experts): (Vec<_>, Vec<_>) =
        experts.collect::<std::collections::BTreeSet<_>>().into_iter().unzip();
    sqlx::query(
        "INSERT INTO expert_places (namespace, expert, places)
         SELECT namespace, expert, 0 FROM unnest($1::text[], $2::text[]) AS w (namespace, expert)
         WHERE NOT EXISTS (SELECT FROM expert_places AS p WHERE p.namespace = w.namespace AND p.expert = w.expert)
         ON CONFLICT DO NOTHING",
    )
    .bind(namespaces)
    .bind(experts)
    .execute(connection)
    .await?;
    Ok(())
}

/// Corrects what a count is off by. Both sides are of one snapshot first, where they agree unless a place was lost; then under
/// the lock, so that no claim or end is in between.
pub(super) async fn recount(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let off: Vec<(String, String)> = sqlx::query_as(OFF).fetch_all(&mut *connection).await?;
    let mut corrected = 0;
    for (namespace, expert) in off {
        let lock = sqlx::query("SELECT FROM expert_places WHERE namespace = $1 AND expert = $2 FOR NO KEY UPDATE");
        lock.bind(&namespace).bind(&expert).execute(&mut *connection).await?;
        let done = sqlx::query(
            "UPDATE expert_places SET running = t.count FROM (
                SELECT count(*) FROM all_running_tasks WHERE namespace = $1 AND expert = $2) AS t
             WHERE namespace = $1 AND expert = $2 AND running <> t.count",
        )
        .bind(&namespace)
        .bind(&expert)
        .execute(&mut *connection)
        .await?;
        corrected += done.rows_affected();
        if done.rows_affected() > 0 {
            tracing::warn!(namespace, expert, "the count of its tasks in progress was off; corrected");
        }
    }
    Ok(corrected)
}

pub(super) const OFF: &str = "SELECT p.namespace, p.expert FROM expert_places AS p LEFT JOIN (
        SELECT namespace, expert, count(*) FROM all_running_tasks GROUP BY 1, 2
    ) AS t ON t.namespace = p.namespace AND t.expert = p.expert WHERE p.running <> coalesce(t.count, 0)
    ORDER BY 1, 2";
