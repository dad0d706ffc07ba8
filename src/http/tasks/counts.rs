//! Queues, experts and workers by numbers.

use axum::{Json, extract::State};
use serde_json::Value;

use super::types::{ExpertList, ExpertView, QueueList, WorkerList, WorkerView};
use crate::{
    http::{Api, ApiError, extract::Query, resources::InNamespace},
    store::{DeclaredRow, ExpertLoad, QueueCounts},
};

/// How many tasks of each queue are in which state; queues that have none, too.
#[utoipa::path(get, path = "/api/v1/tasks/queues", params(InNamespace), tag = "tasks", responses((status = 200, body = QueueList)))]
pub async fn queues(State(api): State<Api>, Query(query): Query<InNamespace>) -> Result<Json<QueueList>, ApiError> {
    let items = queue_counts(&api, query.namespace.as_deref()).await?;
    Ok(Json(QueueList { now: api.store.now().await?, items }))
}

/// Counts of every queue that is declared or has tasks, by namespace and name.
pub async fn queue_counts(api: &Api, namespace: Option<&str>) -> Result<Vec<QueueCounts>, ApiError> {
    let mut counts = api.store.queue_counts().await?;
    for row in api.store.declared("TaskQueue").await? {
        if !counts.iter().any(|c| c.namespace == row.namespace && c.queue == row.name) {
            counts.push(QueueCounts::none(&row.namespace, &row.name));
        }
    }
    counts.retain(|c| namespace.is_none_or(|wanted| c.namespace == wanted));
    counts.sort_by(|a, b| (&a.namespace, &a.queue).cmp(&(&b.namespace, &b.queue)));
    Ok(counts)
}

/// Experts with their loads; those that are gone and still have tasks, too.
#[utoipa::path(get, path = "/api/v1/tasks/experts", params(InNamespace), tag = "tasks", responses((status = 200, body = ExpertList)))]
pub async fn experts(State(api): State<Api>, Query(query): Query<InNamespace>) -> Result<Json<ExpertList>, ApiError> {
    let mut items = views(&api.store.declared("Expert").await?, &api.store.expert_loads().await?);
    items.retain(|e| query.namespace.as_ref().is_none_or(|wanted| e.namespace == *wanted));
    Ok(Json(ExpertList { items }))
}

fn views(declared: &[DeclaredRow], loads: &[ExpertLoad]) -> Vec<ExpertView> {
    let load = |namespace: &str, name: &str| loads.iter().find(|l| l.namespace == namespace && l.expert == name);
    let mut views: Vec<ExpertView> = declared
        .iter()
        .map(|row| {
            let load = load(&row.namespace, &row.name);
            ExpertView {
                namespace: row.namespace.clone(),
                name: row.name.clone(),
                declared: true,
                suspended: row.suspended,
                domains: texts(&row.spec, "domains"),
                roles: texts(&row.spec, "roles"),
                model: model_of(row),
                handler: row.spec.get("handler").and_then(Value::as_str).unwrap_or("Chat").to_owned(),
                pending: load.map_or(0, |l| l.pending),
                in_progress: load.map_or(0, |l| l.in_progress),
                max_concurrent: row.spec.get("maxConcurrentTasks").and_then(Value::as_i64),
            }
        })
        .collect();
    let gone = |l: &&ExpertLoad| !declared.iter().any(|row| row.namespace == l.namespace && row.name == l.expert);
    views.extend(loads.iter().filter(gone).map(|l| ExpertView {
        namespace: l.namespace.clone(),
        name: l.expert.clone(),
        declared: false,
        suspended: false,
        domains: Vec::new(),
        roles: Vec::new(),
        model: None,
        handler: String::new(),
        pending: l.pending,
        in_progress: l.in_progress,
        max_concurrent: None,
    }));
    views.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    views
}

/// The alias that an expert asks for; none where it calls none.
pub fn model_of(row: &DeclaredRow) -> Option<String> {
    if matches!(row.spec.get("handler").and_then(Value::as_str), Some("Webhook" | "External")) {
        return None;
    }
    row.spec.get("model").and_then(Value::as_str).map(str::to_owned)
}

pub fn texts(spec: &Value, field: &str) -> Vec<String> {
    let list = spec.get(field).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Worker processes as they last reported themselves.
#[utoipa::path(get, path = "/api/v1/tasks/workers", params(InNamespace), tag = "tasks", responses((status = 200, body = WorkerList)))]
pub async fn workers(State(api): State<Api>, Query(query): Query<InNamespace>) -> Result<Json<WorkerList>, ApiError> {
    let rows = api.store.workers().await?;
    let items = rows
        .into_iter()
        // A gateway's: it belongs to no pool, and does no tasks.
        .filter(|row| !row.report.pool.is_empty())
        .filter(|row| query.namespace.as_ref().is_none_or(|wanted| row.report.namespace == *wanted))
        .map(|row| WorkerView { report: row.report, age_seconds: i64::try_from(row.age.as_secs()).unwrap_or(i64::MAX) })
        .collect();
    Ok(Json(WorkerList { items }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(name: &str, spec: Value) -> DeclaredRow {
        DeclaredRow {
            uid: name.into(),
            kind: "Expert".into(),
            namespace: "default".into(),
            name: name.into(),
            generation: 1,
            labels: Default::default(),
            spec,
            suspended: false,
            held: None,
        }
    }

    #[test]
    fn experts_show_their_load_and_those_gone_stay_while_they_have_tasks() {
        let declared = [
            row("vera", json!({"handler": "Webhook", "model": "small"})),
            row(
                "igor",
                json!({"domains": ["backend"], "roles": ["engineer"], "model": "small", "maxConcurrentTasks": 5}),
            ),
        ];
        let load = |expert: &str| ExpertLoad {
            namespace: "default".into(),
            expert: expert.into(),
            pending: 3,
            in_progress: 1,
        };
        let views = views(&declared, &[load("igor"), load("boris")]);
        let told: Vec<_> = views.iter().map(|v| (v.name.as_str(), v.declared, v.model.as_deref(), v.pending)).collect();
        assert_eq!(told, [("boris", false, None, 3), ("igor", true, Some("small"), 3), ("vera", true, None, 0)]);
        assert_eq!(
            (views[1].max_concurrent, views[1].domains.as_slice()),
            (Some(5), ["backend".to_owned()].as_slice())
        );
    }
}
