//! The first page: is everything fine, what is being done, what waits.

use axum::{Extension, extract::State, response::Response};
use jiff::Timestamp;
use maud::{Markup, html};

use super::{
    bits::{self, clean, line_text, prose},
    frame::{UiPage, UiTab},
    verdict::{OverallVerdict, verdict},
    visit::UiVisit,
};
use crate::{
    api::{Kind, number_of},
    http::{
        Access, Api, ApiError, BackendLine, CauseView, Event, Problem, QueueLine, ResourceLine,
        events::{self, EventQuery},
        extract::Query,
        resources::InNamespace,
        status::{self, Level, Overview, PauseView},
    },
};

/// Events that stand below all else.
const LATELY: u32 = 6;

pub async fn page(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    let page = read(api, &visit).await;
    visit.answer(page)
}

async fn read(api: Api, visit: &UiVisit) -> Result<UiPage, ApiError> {
    let namespace = visit.namespace.clone();
    let asked = Query(InNamespace { namespace: namespace.clone() });
    let read = async { status::status(State(api.clone()), asked).await.map(|overview| overview.0) };
    let overview = visit.door.snapshots.get(namespace.as_deref(), read).await?;
    let lately = EventQuery { namespace, limit: Some(LATELY), ..EventQuery::default() };
    let lately = events::events(State(api), Query(lately)).await?.0.items;
    let verdict = verdict(&overview);
    let may = UiMay {
        pause: visit.may(&on_pauses("create")).await,
        acknowledge: visit.may(&on_causes(visit.namespace.clone())).await,
    };
    let shown = UiShown { visit, now: Timestamp::now(), qualified: overview.several_namespaces() };
    let sign = match verdict.level {
        Level::Ok => "✓",
        Level::Warning => "!",
        Level::Bad => "✗",
    };
    Ok(UiPage {
        title: format!("{sign} {}", verdict.headline),
        tab: Some(UiTab::Overview),
        body: body(&shown, &overview, &verdict, &lately, may),
    })
}

fn on_pauses(verb: &'static str) -> Access {
    Access { verb, resource: "pauses".to_owned(), subresource: None, namespace: None, name: None }
}

fn on_causes(namespace: Option<String>) -> Access {
    let resource = Kind::LLMBackend.plural().to_owned();
    Access { verb: "patch", resource, subresource: None, namespace, name: None }
}

/// Which buttons the page has.
#[derive(Clone, Copy)]
struct UiMay {
    pause: bool,
    acknowledge: bool,
}

/// What all parts of the page need.
pub struct UiShown<'a> {
    pub visit: &'a UiVisit,
    pub now: Timestamp,
    /// Names stand with their namespaces.
    pub qualified: bool,
}

fn body(shown: &UiShown<'_>, overview: &Overview, verdict: &OverallVerdict, lately: &[Event], may: UiMay) -> Markup {
    let UiShown { visit, now, .. } = shown;
    let all = [
        ("Containers", Kind::ContainerHealthCheck, &overview.containers),
        ("Agents", Kind::HostAgent, &overview.agents),
        ("Pools", Kind::WorkerPool, &overview.pools),
        ("Experts", Kind::Expert, &overview.experts),
        ("Schedules", Kind::TaskSchedule, &overview.schedules),
        ("Notifiers", Kind::Notifier, &overview.notifiers),
    ];
    // Of these, those that are well are only counted: there may be many.
    let is_quiet = |kind: Kind| matches!(kind, Kind::WorkerPool | Kind::Expert | Kind::TaskSchedule | Kind::Notifier);
    let others = all.map(|(heading, kind, lines)| {
        let shown = lines.iter().filter(|line| !is_quiet(kind) || line.level != Level::Ok);
        (heading, kind, shown.collect::<Vec<_>>())
    });
    let well = all.into_iter().filter(|(_, kind, _)| is_quiet(*kind)).filter_map(|(_, kind, lines)| {
        let count = lines.iter().filter(|line| line.level == Level::Ok).count();
        (count > 0).then_some((kind, count))
    });
    let well: Vec<(Kind, usize)> = well.collect();
    html! {
        section #verdict class={ "verdict " (bits::class(verdict.level)) } {
            h1 { (bits::mark(verdict.level)) (clean(&verdict.headline)) }
            @if let Some(tasks) = &verdict.tasks { p { a href=(visit.link(&["tasks"], &[])) { (tasks) } } }
            @if let Some(namespace) = &visit.namespace {
                p.scope { "Namespace " b { (clean(namespace)) } ". " a href="/ui" { "Show all" } }
            }
        }
        @if let Some(pause) = &overview.pause { (paused(visit, pause, *now, may.pause)) }
        @if !overview.problems.is_empty() { (problems(&overview.problems)) }
        (causes(shown, &overview.causes, may.acknowledge))
        div.columns {
            @if !overview.backends.is_empty() {
                section.panel aria-labelledby="backends" {
                    h2 #backends { "Backends" }
                    ul.lines data-rows { @for line in &overview.backends { (backend(shown, line)) } }
                }
            }
            div {
                @if !overview.queues.is_empty() {
                    section.panel aria-labelledby="queues" {
                        h2 #queues { "Queues" }
                        ul.lines data-rows { @for line in &overview.queues { (queue(shown, line)) } }
                    }
                }
                @if !lately.is_empty() {
                    section.panel.lately aria-labelledby="lately" {
                        h2 #lately { "Lately" }
                        (super::events::list(shown, lately))
                        p.more { a href=(visit.link(&["events"], &[])) { "All events" } }
                    }
                }
            }
        }
        div.columns {
            @for (heading, kind, lines) in others {
                @if !lines.is_empty() { (resources(shown, heading, kind, &lines)) }
            }
        }
        @if !well.is_empty() {
            p.ready {
                (bits::mark(Level::Ok)) " "
                @for (index, (kind, count)) in well.iter().enumerate() {
                    @if index > 0 { ", " }
                    a href=(visit.link(&[kind.plural()], &[])) { (number_of(count, kind.as_str())) }
                }
                " ready"
            }
        }
        @if overview.pause.is_none() && may.pause { (pause_form(visit)) }
    }
}

fn paused(visit: &UiVisit, pause: &PauseView, now: Timestamp, may_end: bool) -> Markup {
    html! {
        section.notice {
            p {
                b { "Paused by " (clean(&pause.by)) } " for " (bits::since(pause.since, now))
                @if let Some(until) = pause.until { ", for " (bits::until(until, now)) " more" }
                ": nothing is restarted, unloaded or pulled. Probes and tasks go on."
            }
            @if may_end && let Some(session) = &visit.session {
                (bits::button(session, "/ui/unpause", &[], "End the pause", "act"))
            }
        }
    }
}

fn pause_form(visit: &UiVisit) -> Markup {
    html! {
        @if let Some(session) = &visit.session {
            details.quiet #pause {
                summary { "Pause recovery" }
                p { "Until the pause ends nothing is restarted, unloaded or pulled, anywhere. Probes and tasks go on." }
                form.row method="post" action="/ui/pause" {
                    (bits::form_token(session))
                    label { "For " select name="seconds" {
                        option value="1800" { "30 minutes" }
                        option value="7200" { "2 hours" }
                        option value="28800" { "8 hours" }
                        option value="" { "as long as nobody ends it" }
                    } }
                    button.act { "Pause" }
                }
            }
        }
    }
}

fn problems(problems: &[Problem]) -> Markup {
    html! {
        section.notice.bad[problems.iter().any(|p| p.error)] aria-label="Problems" {
            ul.plain {
                @for problem in problems {
                    li {
                        @if let Some(file) = &problem.file {
                            code { (clean(file)) @if let Some(line) = problem.line { ":" (line) } } " "
                        }
                        @if let Some(about) = &problem.about { (clean(about)) ": " }
                        @if let Some(field) = &problem.field { code { (clean(field)) } " " }
                        (prose(&problem.message))
                    }
                }
            }
        }
    }
}

pub fn backend(shown: &UiShown<'_>, line: &BackendLine) -> Markup {
    let tail = html! { (bits::slots(line.slots_in_use, line.limit)) };
    line_of(
        shown,
        Kind::LLMBackend,
        (&line.namespace, &line.name),
        line.level,
        &line.state,
        &tail,
        &line_text(&line.text, shown.now),
    )
}

pub fn queue(shown: &UiShown<'_>, line: &QueueLine) -> Markup {
    let tasks = |state: &str, number: i64, words: &str| {
        let query = [("namespace", line.namespace.as_str()), ("queue", line.name.as_str()), ("state", state)];
        let href = super::visit::link(&["tasks"], query);
        html! { a.number.none[number == 0] href=(href) { b { (bits::grouped(number)) } " " (words) } }
    };
    let numbers = html! {
        span.numbers {
            (tasks("pending", line.waiting, "waiting"))
            (tasks("in_progress", line.running, "running"))
            @if line.needs_human > 0 { (tasks("deferred_to_human", line.needs_human, "for a human")) }
            (tasks("completed", line.done, "done in 24 h"))
            @if line.failed > 0 { (tasks("failed", line.failed, "failed")) }
        }
    };
    let detail = html! { (numbers) @if !line.text.is_empty() { span.why { (line_text(&line.text, shown.now)) } } };
    line_of(shown, Kind::TaskQueue, (&line.namespace, &line.name), line.level, "", &html! {}, &detail)
}

fn resources(shown: &UiShown<'_>, heading: &str, kind: Kind, lines: &[&ResourceLine]) -> Markup {
    let id = kind.plural();
    html! {
        section.panel aria-labelledby=(id) {
            h2 id=(id) { (heading) }
            ul.lines data-rows { @for line in lines { (resource(shown, kind, line)) } }
        }
    }
}

pub fn resource(shown: &UiShown<'_>, kind: Kind, line: &ResourceLine) -> Markup {
    let text = line_text(&line.text, shown.now);
    line_of(shown, kind, (&line.namespace, &line.name), line.level, &line.state, &html! {}, &text)
}

fn line_of(
    shown: &UiShown<'_>,
    kind: Kind,
    (namespace, name): (&str, &str),
    level: Level,
    state: &str,
    tail: &Markup,
    detail: &Markup,
) -> Markup {
    let href = shown.visit.link(&[kind.plural(), namespace, name], &[]);
    html! {
        li id={ (kind.short()) "." (namespace) "." (name) } class={ "line " (bits::class(level)) } {
            p.head {
                (bits::mark(level))
                a href=(href) { @if shown.qualified { span.namespace { (namespace) "/" } } (name) }
                @if !state.is_empty() { span.state { (clean(state)) } }
                (tail)
            }
            p.detail { (detail) }
        }
    }
}

/// Nothing where nothing is wrong for long enough.
/// With `may_act` each has a button for whoever takes it into their hands.
fn causes(shown: &UiShown<'_>, causes: &[CauseView], may_act: bool) -> Markup {
    html! {
        @if !causes.is_empty() {
            section.panel aria-labelledby="causes" {
                h2 #causes { "Causes" }
                ul.plain.causes data-rows { @for cause in causes { (cause_item(shown, cause, may_act)) } }
            }
        }
    }
}

fn cause_item(shown: &UiShown<'_>, cause: &CauseView, may_act: bool) -> Markup {
    let action = shown.visit.link(&["causes", "acknowledge"], &[]);
    html! {
        li id=(format!("cause-{}", cause.key)) {
            p { (bits::mark(cause.level())) " " b { (clean(&cause.title)) } " for " (bits::since(cause.since, shown.now)) }
            p {
                @if !cause.evidence.is_empty() { (prose(&cause.evidence)) ". " }
                @if cause.affected > 0 { (cause.affected) " affected. " }
                @if cause.waiting > 0 { (number_of(usize::try_from(cause.waiting).unwrap_or(usize::MAX), "task")) " waiting. " }
                @if let Some(taken) = &cause.acknowledged { "Acknowledged by " (clean(&taken.by)) ". " }
                (prose(&cause.next))
            }
            @if may_act && cause.acknowledged.is_none() && let Some(session) = &shown.visit.session {
                (bits::button(session, &action, &[("cause", cause.key.as_str())], "I have it in my hands", "act"))
            }
        }
    }
}
