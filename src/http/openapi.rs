//! The API's description of itself.

use std::sync::OnceLock;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::tasks::TaskRequest;

#[derive(OpenApi)]
#[openapi(
    info(title = "Ostler", description = "Resources with status, live facts and controls; tasks"),
    paths(
        super::calls::cancel,
        super::calls::list,
        super::causes::acknowledge,
        super::causes::list,
        super::causes::report,
        super::causes::test,
        super::controls::down,
        super::controls::pause,
        super::controls::reconcile,
        super::controls::run,
        super::controls::resume,
        super::controls::suspend,
        super::controls::unpause,
        super::events::events,
        super::events::problems,
        super::health::livez,
        super::health::metrics,
        super::health::readyz,
        super::resources::get,
        super::resources::list,
        super::services::log,
        super::services::operation,
        super::services::start,
        super::services::stop,
        super::status::status,
        super::tasks::claims::claim,
        super::tasks::command::assign,
        super::tasks::command::command,
        super::tasks::command::purge,
        super::tasks::counts::experts,
        super::tasks::counts::queues,
        super::tasks::counts::workers,
        super::tasks::events::events,
        super::tasks::handover::complete,
        super::tasks::handover::heartbeat,
        super::tasks::insert::insert,
        super::tasks::read::get,
        super::tasks::read::list,
        super::tasks::read::results,
        super::tasks::read::explain,
        super::ui::sign::create_link,
        openapi,
    ),
    components(schemas(TaskRequest, super::ErrorReply)),
    modifiers(&Bearer),
    security(("token" = []))
)]
struct Generated;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        api.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", responses((status = 200, body = Object)))]
pub(super) async fn openapi() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| description().to_string()).as_str();
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Each operation's name and group, for clients that are generated from this.
const OPERATIONS: [(&str, &str, &str, &str); 42] = [
    ("get", "/livez", "livez", "health"),
    ("get", "/readyz", "readyz", "health"),
    ("get", "/metrics", "metrics", "health"),
    ("get", "/api/v1/openapi.json", "get_description", "health"),
    ("get", "/api/v1/status", "get_status", "resources"),
    ("get", "/api/v1/events", "list_events", "resources"),
    ("get", "/api/v1/problems", "list_problems", "resources"),
    ("get", "/api/v1/causes", "list_causes", "causes"),
    ("post", "/api/v1/causes/acknowledge", "acknowledge_cause", "causes"),
    ("get", "/api/v1/report", "get_report", "causes"),
    ("post", "/api/v1/{kind}/{namespace}/{name}/test", "test_notifier", "causes"),
    ("get", "/api/v1/{kind}", "list_resources", "resources"),
    ("get", "/api/v1/{kind}/{namespace}/{name}", "get_resource", "resources"),
    ("post", "/api/v1/{kind}/{namespace}/{name}/reconcile", "reconcile_resource", "controls"),
    ("post", "/api/v1/{kind}/{namespace}/{name}/run", "run_schedule", "controls"),
    ("post", "/api/v1/{kind}/{namespace}/{name}/suspend", "suspend_resource", "controls"),
    ("post", "/api/v1/{kind}/{namespace}/{name}/resume", "resume_resource", "controls"),
    ("post", "/api/v1/links", "create_link", "controls"),
    ("post", "/api/v1/pause", "pause", "controls"),
    ("delete", "/api/v1/pause", "unpause", "controls"),
    ("post", "/api/v1/down", "down", "controls"),
    ("post", "/api/v1/services/{agent}/{service}/stop", "stop_service", "services"),
    ("post", "/api/v1/services/{agent}/{service}/start", "start_service", "services"),
    ("get", "/api/v1/services/{agent}/{service}/log", "get_log", "services"),
    ("get", "/api/v1/operations/{agent}/{id}", "get_operation", "services"),
    ("get", "/api/v1/calls", "list_calls", "calls"),
    ("post", "/api/v1/calls/{id}/cancel", "cancel_call", "calls"),
    ("get", "/api/v1/tasks", "list_tasks", "tasks"),
    ("post", "/api/v1/tasks", "submit_tasks", "tasks"),
    ("delete", "/api/v1/tasks", "purge_tasks", "tasks"),
    ("get", "/api/v1/tasks/results", "list_results", "tasks"),
    ("get", "/api/v1/tasks/events", "follow_tasks", "tasks"),
    ("post", "/api/v1/tasks/commands", "command_tasks", "tasks"),
    ("post", "/api/v1/tasks/assign", "assign_tasks", "tasks"),
    ("get", "/api/v1/tasks/queues", "list_queues", "tasks"),
    ("get", "/api/v1/tasks/experts", "list_experts", "tasks"),
    ("get", "/api/v1/tasks/workers", "list_workers", "tasks"),
    ("get", "/api/v1/tasks/{id}", "get_task", "tasks"),
    ("get", "/api/v1/tasks/{id}/explain", "explain_task", "tasks"),
    ("post", "/api/v1/claims", "claim_tasks", "tasks"),
    ("post", "/api/v1/tasks/{id}/heartbeat", "heartbeat_task", "tasks"),
    ("post", "/api/v1/tasks/{id}/complete", "complete_task", "tasks"),
];

/// The handlers' descriptions, with what holds for all of them.
pub(super) fn description() -> Value {
    let mut api = serde_json::to_value(Generated::openapi()).unwrap_or_default();
    for (method, path, id, tag) in OPERATIONS {
        let Some(operation) = api.get_mut("paths").and_then(|p| p.get_mut(path)?.get_mut(method)?.as_object_mut())
        else {
            continue;
        };
        operation.insert("operationId".to_owned(), id.into());
        operation.insert("tags".to_owned(), json!([tag]));
        if id == "submit_tasks" {
            operation.insert("requestBody".to_owned(), tasks_body());
        }
        complete(operation, path, tag);
        may_be_left_out(operation);
    }
    api
}

/// Adds the answers that every operation of its sort may give, and says in words what each answer is.
fn complete(operation: &mut Map<String, Value>, path: &str, tag: &str) {
    let has = |field: &str| operation.get(field).is_some_and(|value| !value.is_null());
    let (asks, brings) = (has("parameters") || has("requestBody"), has("requestBody"));
    let mut possible: Vec<u16> = Vec::new();
    if tag == "health" {
        operation.insert("security".to_owned(), json!([]));
    } else {
        possible.extend([401, 403, 500, 503]);
    }
    if asks {
        possible.push(400);
    }
    if brings {
        possible.extend([408, 413, 415]);
    }
    if path.contains('{') {
        possible.push(404);
    }
    if tag == "services" {
        possible.extend([409, 502]);
    }
    let Some(Value::Object(responses)) = operation.get_mut("responses") else { return };
    let error = json!({"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}});
    for status in possible {
        responses.entry(status.to_string()).or_insert_with(|| json!({"content": error}));
    }
    for (status, response) in responses {
        if let Some(response) = response.as_object_mut() {
            response.entry("description").or_insert_with(|| words(status).into());
        }
    }
}

/// A body that may be left out is described as one that may be `null`, which it may not.
fn may_be_left_out(operation: &mut Map<String, Value>) {
    let schema =
        operation.get_mut("requestBody").and_then(|body| body.pointer_mut("/content/application~1json/schema"));
    let Some(schema) = schema else { return };
    let Some(one) = schema.get("oneOf").and_then(Value::as_array).filter(|all| all.contains(&json!({"type": "null"})))
    else {
        return;
    };
    if let Some(body) = one.iter().find(|one| one.get("$ref").is_some()).cloned() {
        *schema = body;
    }
}

fn words(status: &str) -> &'static str {
    match status {
        "200" => "done",
        "201" => "created",
        "202" => "accepted: it is done soon",
        "400" => "the request is not understood: the error says what, and how to write it",
        "401" => "no token, or one that is not valid here",
        "403" => "the token's owner may not do this",
        "404" => "there is no such thing",
        "408" => "the body did not arrive in time",
        "409" => "not in this state, or not in this home (folder or cluster)",
        "413" => "the body is too large",
        "415" => "the body is of a kind that is not read, or compressed",
        "422" => "each problem by line and field; nothing was taken",
        "500" => "a defect, or rights that the controller lacks",
        "502" => "the host agent does not answer, or refuses",
        _ => "not now: the database, the API server or the leader is away, or too much is under way",
    }
}

fn tasks_body() -> Value {
    let task = json!({"$ref": "#/components/schemas/TaskRequest"});
    let lines = "a TaskRequest as JSON in each line; empty lines are skipped";
    json!({
        "required": true,
        "description": "one task, a list of them, or one a line: at most 10,000 and 32 MiB",
        "content": {
            "application/json": {"schema": {"oneOf": [task, {"type": "array", "items": task}]}},
            "application/x-ndjson": {"schema": {"type": "string", "description": lines}},
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn operations() -> Vec<(String, Value)> {
        let api = description();
        let paths = api["paths"].as_object().unwrap().clone();
        let of_path = |(path, item): (String, Value)| {
            let methods = item.as_object().unwrap().clone();
            methods.into_iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
        };
        paths.into_iter().flat_map(of_path).collect()
    }

    #[test]
    fn every_operation_has_a_name_a_group_and_described_answers() {
        let all = operations();
        assert_eq!(all.len(), OPERATIONS.len());
        let names: BTreeSet<String> = all.iter().map(|(_, o)| o["operationId"].as_str().unwrap().to_owned()).collect();
        assert_eq!(names.len(), all.len());
        for (which, operation) in all {
            let tags: Vec<&str> = operation["tags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            assert!(
                ["health", "resources", "controls", "services", "tasks", "calls", "causes"].contains(&tags[0]),
                "{which}: {tags:?}"
            );
            for (status, response) in operation["responses"].as_object().unwrap() {
                let said = response["description"].as_str().unwrap_or_default();
                assert!(!said.is_empty(), "{which}: {status}");
            }
            if tags[0] != "health" {
                assert!(operation["responses"]["401"].is_object(), "{which}");
            }
        }
    }

    #[test]
    fn a_body_is_left_out_and_not_null() {
        let api = description();
        for path in ["/api/v1/pause", "/api/v1/services/{agent}/{service}/stop", "/api/v1/tasks/{id}/heartbeat"] {
            let body = &api["paths"][path]["post"]["requestBody"];
            assert!(body["content"]["application/json"]["schema"]["$ref"].is_string(), "{path}: {body}");
            assert_ne!(body["required"], true, "{path}");
        }
    }

    #[test]
    fn a_task_is_described_with_the_fields_that_are_taken() {
        let api = description();
        let described = &api["components"]["schemas"]["TaskRequest"]["properties"];
        let names: BTreeSet<&str> = described.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, crate::http::tasks::TASK_FIELDS.into_iter().collect());
    }
}
