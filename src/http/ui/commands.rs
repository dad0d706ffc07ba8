//! What is done to tasks: to one at once, to many after a question.

use axum::{Extension, extract::State, response::Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::Value;

use super::{
    bits::{self, clean},
    frame::{UiPage, UiTab},
    visit::{UiVisit, see_other},
};
use crate::{
    api::{Kind, number_of},
    http::{
        Access, Api, ApiError, CommandRequest, Person, TaskVerb, TimeOrDuration,
        extract::{JsonBody, Query},
        resources::InNamespace,
        tasks::command,
    },
    tasks::{TaskId, TaskState},
};

/// By which a command says what it applies to.
const FILTERS: [&str; 6] = ["queue", "state", "domain", "role", "expert", "key"];

pub fn access(namespace: Option<&str>) -> Access {
    Access {
        verb: "update",
        resource: Kind::TaskQueue.plural().to_owned(),
        subresource: Some("tasks"),
        namespace: namespace.map(str::to_owned),
        name: None,
    }
}

/// What tasks of a state can be told.
pub fn verbs(state: TaskState) -> &'static [(&'static str, &'static str)] {
    match state {
        TaskState::Pending | TaskState::InProgress => &[("cancel", "Cancel")],
        TaskState::DeferredToHuman => &[("resume", "Resume"), ("close", "Close"), ("cancel", "Cancel")],
        TaskState::Completed | TaskState::Failed | TaskState::Cancelled => &[("retry", "Retry")],
    }
}

/// Below a list of tasks with boxes.
pub fn for_many(state: TaskState) -> Markup {
    html! {
        div.acts {
            @for (verb, words) in verbs(state) {
                button name="selected" value=(verb) { (words) " selected …" }
                button name="matching" value=(verb) { (words) " all that match …" }
            }
        }
    }
}

/// Asks whether that is meant.
pub async fn confirm(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    let page = ask(api, &visit).await;
    visit.answer(page)
}

async fn ask(api: Api, visit: &UiVisit) -> Result<UiPage, ApiError> {
    let mut fields = visit.query();
    let of = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let (verb, selected) = match (of("selected"), of("matching")) {
        (Some(verb), _) => (verb, true),
        (None, Some(verb)) => (verb, false),
        (None, None) => return Err(ApiError::BadRequest("no command is given: use a button of the list".to_owned())),
    };
    fields.retain(|(name, _)| if selected { name == "ids" } else { FILTERS.contains(&name.as_str()) });
    if selected && fields.is_empty() {
        return Err(ApiError::BadRequest("no task is selected: go back and check the box of each".to_owned()));
    }
    let as_of = api.store.now().await?;
    fields.push(("until".to_owned(), as_of.to_string()));
    fields.push(("command".to_owned(), verb.clone()));
    let request = CommandRequest { dry_run: true, ..request(&fields)? };
    let words = spoken(request.command);
    let count = carry_out(api, visit, request).await?;
    let session = visit.session.as_ref().ok_or_else(|| ApiError::BadRequest("nobody is signed in".to_owned()))?;
    let filters: Vec<&(String, String)> = fields.iter().filter(|(name, _)| FILTERS.contains(&name.as_str())).collect();
    let title = format!("{words} {}?", number_of(count, "task"));
    let body = html! {
        section.panel.ask {
            h1 { (title) }
            @if !selected {
                p {
                    "All that are there now"
                    @if let Some(namespace) = &visit.namespace { " in namespace " b { (clean(namespace)) } }
                    @for (name, value) in &filters { ", " (name) " " b { (clean(value)) } }
                    ". What comes later is left alone."
                }
            }
            form method="post" action=(visit.link(&["tasks", "commands"], &[])) {
                (bits::form_token(session))
                @for (name, value) in &fields { input type="hidden" name=(name) value=(value); }
                label { "Reason, kept with the tasks " input name="reason" maxlength="200" autocomplete="off"; }
                div.acts {
                    button.act disabled[count == 0] { (words) " " (number_of(count, "task")) }
                    a href=(visit.link(&["tasks"], &[])) { "Leave them" }
                }
            }
        }
    };
    Ok(UiPage { title, tab: Some(UiTab::Tasks), body })
}

/// Does it, and leads back to what it was about.
pub async fn act(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    match act_on(api, &visit).await {
        Ok(page) => see_other(&page),
        Err(error) => visit.answer(Err(error)),
    }
}

async fn act_on(api: Api, visit: &UiVisit) -> Result<String, ApiError> {
    let request = request(&visit.form)?;
    let done = match request.command {
        TaskVerb::Cancel => "cancel",
        TaskVerb::Retry => "retry",
        TaskVerb::Resume => "resume-tasks",
        TaskVerb::Close => "close",
        TaskVerb::Reassign => return Err(ApiError::BadRequest("command: `ostler tasks reassign` has it".to_owned())),
    };
    let state = request.states.first().copied();
    let count = carry_out(api, visit, request).await?.to_string();
    let said = [("done", done), ("count", count.as_str())];
    Ok(match visit.field("back") {
        Some(task) => visit.link(&["tasks", task], &said),
        None => {
            let state = state.map(|state| ("state", state.as_str()));
            visit.link(&["tasks"], &state.into_iter().chain(said).collect::<Vec<_>>())
        }
    })
}

async fn carry_out(api: Api, visit: &UiVisit, request: CommandRequest) -> Result<i64, ApiError> {
    let person = visit.session.as_ref().map(|session| session.grant.person.clone()).unwrap_or_default();
    let query = InNamespace { namespace: visit.namespace.clone() };
    let reply = command::command(State(api), Extension(Person(person)), Query(query), JsonBody(request)).await?;
    Ok(reply.0.count)
}

fn spoken(verb: TaskVerb) -> &'static str {
    match verb {
        TaskVerb::Cancel => "Cancel",
        TaskVerb::Retry => "Retry",
        TaskVerb::Resume => "Resume",
        TaskVerb::Close => "Close",
        TaskVerb::Reassign => "Reassign",
    }
}

/// What the fields of a form say, as the API has it.
fn request(fields: &[(String, String)]) -> Result<CommandRequest, ApiError> {
    let of =
        |name: &str| fields.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, v)| v.clone());
    let bad = |name: &str, value: &str| ApiError::BadRequest(format!("{name}: {value:?} is none"));
    let verb = of("command").unwrap_or_default();
    let command = serde_json::from_value(Value::String(verb.clone())).map_err(|_| bad("command", &verb))?;
    let ids = fields.iter().filter(|(name, _)| name == "ids");
    let ids = ids.map(|(_, id)| id.parse().map_err(|_| bad("ids", id))).collect::<Result<Vec<TaskId>, _>>()?;
    let states = of("state").map(|state| TaskState::parse(&state).ok_or_else(|| bad("state", &state))).transpose()?;
    let until = of("until").map(|at| at.parse::<Timestamp>().map_err(|_| bad("until", &at))).transpose()?;
    Ok(CommandRequest {
        command,
        ids,
        queue: of("queue"),
        states: states.into_iter().collect(),
        domain: of("domain"),
        role: of("role"),
        expert: of("expert"),
        unassigned: None,
        key: of("key"),
        labels: std::collections::BTreeMap::new(),
        since: None,
        until: until.map(TimeOrDuration::At),
        all: false,
        to: None,
        reason: of("reason").unwrap_or_default(),
        dry_run: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<CommandRequest, ApiError> {
        request(&super::super::door::pairs(query))
    }

    #[test]
    fn a_form_says_what_the_api_is_asked() {
        let request =
            read("command=cancel&ids=3&ids=4&state=pending&queue=a&domain=&until=2026-03-01T12:00:00Z&reason=enough")
                .unwrap();
        assert_eq!((request.command, request.ids.as_slice()), (TaskVerb::Cancel, [3, 4].as_slice()));
        assert_eq!((request.queue.as_deref(), request.domain), (Some("a"), None));
        assert_eq!((request.states.as_slice(), request.reason.as_str()), ([TaskState::Pending].as_slice(), "enough"));
        assert!(matches!(request.until, Some(TimeOrDuration::At(_))) && !request.all && !request.dry_run);
        for bad in ["", "command=purge", "command=cancel&ids=a", "command=cancel&state=done", "command=cancel&until=1h"]
        {
            assert!(matches!(read(bad), Err(ApiError::BadRequest(_))), "{bad}");
        }
    }

    #[test]
    fn every_state_offers_what_applies_to_it() {
        for state in TaskState::ALL {
            for (verb, words) in verbs(state) {
                let known: TaskVerb = serde_json::from_value(Value::String((*verb).to_owned())).unwrap();
                assert_eq!(spoken(known), *words);
            }
        }
    }
}
