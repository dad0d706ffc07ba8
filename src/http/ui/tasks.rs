//! Tasks by state, with filters that are in the address, and why those that wait do.

use axum::{Extension, extract::State, response::Response};
use maud::{Markup, html};

use super::{
    bits::{self, clean, prose},
    commands,
    frame::{UiPage, UiTab},
    look::{LookEnd, TaskLook, TaskSearch, look},
    overview::UiShown,
    queue,
    visit::UiVisit,
};
use crate::{
    http::{Api, ApiError, status::waiting_lines, tasks},
    store::{QueueCounts, world},
    tasks::{
        Task, TaskState,
        explain::{self, WaitingTask, World},
    },
};

/// Reasons that stand above the list.
const MOST_WAITS: usize = 8;

pub async fn page(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    let page = read(&api, &visit).await;
    visit.answer(page)
}

async fn read(api: &Api, visit: &UiVisit) -> Result<UiPage, ApiError> {
    let search: TaskSearch = visit.query_as(&["done", "count"])?;
    let state = search.state();
    let looked = look(&*api.store, &search).await?;
    let counts = tasks::queue_counts(api, visit.namespace.as_deref()).await?;
    let world = match state {
        TaskState::Pending if !looked.tasks.is_empty() => world::read(&*api.store).await?,
        _ => World::default(),
    };
    let waits = match state {
        TaskState::Pending if search.before.is_none() && !looked.tasks.is_empty() => {
            waiting_lines(api, &world, visit.namespace.as_deref()).await?
        }
        _ => Vec::new(),
    };
    let waits = waits.iter().filter(|line| search.queue.as_ref().is_none_or(|queue| line.queue == *queue));
    let qualified = looked.tasks.windows(2).any(|pair| pair[0].namespace != pair[1].namespace);
    let shown = UiShown { visit, now: api.store.now().await?, qualified };
    let may_act = visit.may(&commands::access(visit.namespace.as_deref())).await;
    let body = html! {
        h1 { "Tasks" }
        (tabs(visit, &search, &counts))
        (queue::waits(&waits.take(MOST_WAITS).collect::<Vec<_>>()))
        (filter(visit, &search))
        (list(&shown, &search, &looked, &world, may_act))
        (end(visit, &search, &looked))
    };
    Ok(UiPage { title: format!("Tasks: {}", words(state)), tab: Some(UiTab::Tasks), body })
}

pub fn words(state: TaskState) -> &'static str {
    match state {
        TaskState::Pending => "waiting",
        TaskState::InProgress => "running",
        TaskState::Completed => "done",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "cancelled",
        TaskState::DeferredToHuman => "for a human",
    }
}

fn tabs(visit: &UiVisit, search: &TaskSearch, counts: &[QueueCounts]) -> Markup {
    use TaskState::{Cancelled, Completed, DeferredToHuman, Failed, InProgress, Pending};
    let ours = counts.iter().filter(|c| search.queue.as_ref().is_none_or(|queue| c.queue == *queue));
    let ours: Vec<&QueueCounts> = ours.collect();
    let sum = |of: fn(&QueueCounts) -> i64| Some(ours.iter().map(|c| of(c)).sum::<i64>());
    let all = [
        (Pending, sum(|c| c.pending)),
        (InProgress, sum(|c| c.in_progress)),
        (DeferredToHuman, sum(|c| c.deferred_to_human)),
        (Failed, None),
        (Completed, None),
        (Cancelled, None),
    ];
    html! {
        nav.kinds aria-label="States" {
            @for (state, count) in all {
                @let fields = search.fields();
                @let query: Vec<(&str, &str)> = [("state", state.as_str())].into_iter().chain(fields).collect();
                a href=(visit.link(&["tasks"], &query)) aria-current=[(state == search.state()).then_some("page")] {
                    (words(state))
                    @if let Some(count) = count { " " (bits::count(count)) }
                }
            }
        }
    }
}

fn filter(visit: &UiVisit, search: &TaskSearch) -> Markup {
    let fields = [
        ("queue", "Queue", &search.queue),
        ("domain", "Domain", &search.domain),
        ("role", "Role", &search.role),
        ("expert", "Expert", &search.expert),
        ("key", "Key", &search.key),
    ];
    html! {
        form.filter method="get" action="/ui/tasks" {
            @if let Some(namespace) = &visit.namespace { input type="hidden" name="namespace" value=(namespace); }
            input type="hidden" name="state" value=(search.state().as_str());
            @for (name, label, value) in fields {
                label { (label) " " input name=(name) value=[value.as_deref()] autocomplete="off" spellcheck="false"; }
            }
            button { "Filter" }
            @if !search.fields().is_empty() {
                a href=(visit.link(&["tasks"], &[("state", search.state().as_str())])) { "Clear" }
            }
        }
    }
}

fn list(shown: &UiShown<'_>, search: &TaskSearch, looked: &TaskLook, world: &World, may_act: bool) -> Markup {
    let rows = html! {
        ul.lines.panel data-rows {
            @for task in &looked.tasks { (row(shown, task, world, may_act)) }
        }
    };
    html! {
        @if looked.tasks.is_empty() {
            p.empty { "No task is " (words(search.state())) @if !search.fields().is_empty() { " and matches" } "." }
        } @else if may_act {
            form method="get" action="/ui/tasks/confirm" {
                @if let Some(namespace) = &shown.visit.namespace { input type="hidden" name="namespace" value=(namespace); }
                input type="hidden" name="state" value=(search.state().as_str());
                @for (name, value) in search.fields() { input type="hidden" name=(name) value=(value); }
                (rows)
                (commands::for_many(search.state()))
            }
        } @else { (rows) }
    }
}

fn row(shown: &UiShown<'_>, task: &Task, world: &World, may_act: bool) -> Markup {
    let why = match task.state {
        TaskState::Pending => Some(explain::why(&WaitingTask::of(task), world, shown.now).in_words()),
        TaskState::InProgress => None,
        _ => task.reason.clone(),
    };
    let id = task.id.to_string();
    let href = super::visit::link(&["tasks", &id], shown.visit.namespace.as_deref().map(|n| ("namespace", n)));
    html! {
        li.line id={ "task." (id) } {
            p.head {
                @if may_act { input type="checkbox" name="ids" value=(id) aria-label={ "Select task " (id) }; }
                a href=(href) { "Task " (id) }
                span.state { @if shown.qualified { (clean(&task.namespace)) "/" } (clean(&task.queue)) }
                @for part in [&task.domain, &task.role] { @if !part.is_empty() { span.state { (clean(part)) } } }
                span.note {
                    @if let Some(expert) = &task.expert { (clean(expert)) ", " }
                    (bits::since(task.state_since, shown.now))
                    @if task.state.is_terminal() { " ago" }
                }
            }
            @if why.is_some() || task.key.is_some() {
                p.detail {
                    @if let Some(why) = &why { (prose(why)) " " }
                    @if let Some(key) = &task.key { code { (clean(key)) } }
                }
            }
        }
    }
}

fn end(visit: &UiVisit, search: &TaskSearch, looked: &TaskLook) -> Markup {
    let onward = |before: i64| {
        let before = before.to_string();
        let mut query = vec![("state", search.state().as_str())];
        query.extend(search.fields());
        query.push(("before", before.as_str()));
        visit.link(&["tasks"], &query)
    };
    html! {
        p.more {
            @match looked.end {
                LookEnd::All => { @if !looked.tasks.is_empty() { "That is all of them." } },
                LookEnd::Full(next) => a href=(onward(next)) { "Older ones" },
                LookEnd::Tired(id, at) => {
                    "Looked back to task " (id) ", " (bits::moment(at)) ". "
                    a href=(onward(id)) { "Look further" }
                },
            }
        }
    }
}
