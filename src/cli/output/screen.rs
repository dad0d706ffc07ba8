//! The one screen of `ostler status`.

use super::{super::causes::details, Style, Table};
use crate::{
    api::number_of,
    base::{age, escape},
    http::{Level, Overview, Problem, ResourceLine},
};

/// Renders the screen.
pub fn screen(overview: &Overview, style: Style) -> String {
    let namespaces = overview.several_namespaces();
    let name = |namespace: &str, name: &str| {
        if namespaces { format!("{namespace}/{name}") } else { name.to_owned() }
    };
    let mut parts = notes(overview);
    let notes_count = parts.len();
    if let Some(table) = cause_table(overview) {
        parts.push(table.render(style));
    }
    if !overview.backends.is_empty() {
        let mut table = Table::new(&["BACKEND", "STATE", "SLOTS", "DETAIL"]);
        for b in &overview.backends {
            let slots = match (b.slots_in_use, b.limit) {
                (None, None) => "-".to_owned(),
                (used, limit) => {
                    format!("{}/{}", used.unwrap_or(0), limit.map_or_else(|| "?".to_owned(), |l| l.to_string()))
                }
            };
            let named = format!("{} {}", symbol(b.level), name(&b.namespace, &b.name));
            table.push([named, b.state.clone(), slots, b.detail.clone()]);
            table.color_last(color(b.level));
        }
        parts.push(table.render(style));
    }
    if !overview.queues.is_empty() {
        let mut table = Table::new(&["QUEUE", "WAITING", "RUNNING", "DONE 24H", "NEEDS A HUMAN"]);
        for q in &overview.queues {
            let named = format!("{} {}", symbol(q.level), name(&q.namespace, &q.name));
            let done = if q.failed > 0 { format!("{}, {} failed", q.done, q.failed) } else { q.done.to_string() };
            let [waiting, running, human] = [q.waiting, q.running, q.needs_human].map(|n| n.to_string());
            table.push([named, waiting, running, done, human]);
            table.color_last(color(q.level));
            table.note(&q.detail);
        }
        parts.push(table.render(style));
    }
    // Of these, those that are well are only counted: there may be many.
    let quiet = [
        ("EXPERT", &overview.experts),
        ("POOL", &overview.pools),
        ("SCHEDULE", &overview.schedules),
        ("NOTIFIER", &overview.notifiers),
    ];
    let is_well = |line: &ResourceLine| line.level == Level::Ok;
    let always = [("CONTAINERS", &overview.containers), ("AGENT", &overview.agents)];
    let shown = always.map(|(heading, lines)| (heading, lines.iter().collect::<Vec<_>>()));
    let not_well = quiet.map(|(heading, lines)| (heading, lines.iter().filter(|line| !is_well(line)).collect()));
    for (heading, lines) in not_well.into_iter().chain(shown) {
        if lines.is_empty() {
            continue;
        }
        let mut table = Table::new(&[heading, "STATE", "DETAIL"]);
        for line in lines {
            let named = format!("{} {}", symbol(line.level), name(&line.namespace, &line.name));
            table.push([named, line.state.clone(), line.detail.clone()]);
            table.color_last(color(line.level));
        }
        parts.push(table.render(style));
    }
    let well: Vec<String> = quiet
        .iter()
        .map(|(heading, lines)| (heading.to_lowercase(), lines.iter().filter(|line| is_well(line)).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| number_of(count, &what))
        .collect();
    if !well.is_empty() {
        parts.push(format!("✓ {} ready\n", well.join(", ")));
    }
    if parts.len() > notes_count && overview.told == Some(0) {
        parts.push("! nobody is told when something fails: `ostler notify setup` makes a Notifier\n".to_owned());
    }
    if parts.len() == notes_count {
        parts.push("Nothing is declared. `ostler init DIR` writes manifests of what runs here.\n".to_owned());
    }
    parts.join("\n")
}

/// What is wrong, each cause once.
fn cause_table(overview: &Overview) -> Option<Table> {
    if overview.causes.is_empty() {
        return None;
    }
    let mut table = Table::new(&["CAUSE", "FOR", "WHY"]);
    for cause in &overview.causes {
        let level = cause.level();
        let lasts = age(overview.now.duration_since(cause.since).as_secs());
        table.push([format!("{} {}", symbol(level), cause.title), lasts, details(cause)]);
        table.color_last(color(level));
    }
    Some(table)
}

/// What stands above the tables because it is about all of them.
fn notes(overview: &Overview) -> Vec<String> {
    let mut notes = String::new();
    if overview.leader.is_none() {
        notes.push_str("✗ nobody leads: nothing is observed or healed now\n");
    }
    if let Some(pause) = &overview.pause {
        let since = age(overview.now.duration_since(pause.since).as_secs());
        let until = pause.until.map_or_else(
            || "until `ostler unpause`".to_owned(),
            |until| format!("for {} more", age(until.duration_since(overview.now).as_secs())),
        );
        notes.push_str(&format!("! paused by {} for {since}, {until}: nothing acts\n", pause.by));
    }
    for problem in &overview.problems {
        notes.push_str(&format!("{} {}\n", if problem.error { "✗" } else { "!" }, problem_line(problem)));
    }
    if notes.is_empty() { Vec::new() } else { vec![escape::for_terminal(&notes).into_owned()] }
}

/// `ollama.yaml:12: LLMBackend default/ollama: spec.url: is required`
pub fn problem_line(problem: &Problem) -> String {
    let Problem { error: _, file, line, about, field, message } = problem;
    let place = match (file, line) {
        (Some(file), Some(line)) => Some(format!("{file}:{line}")),
        (file, _) => file.clone(),
    };
    let parts = [place, about.clone(), field.clone(), Some(message.clone())];
    escape::for_line(&parts.into_iter().flatten().collect::<Vec<_>>().join(": ")).into_owned()
}

fn symbol(level: Level) -> char {
    match level {
        Level::Ok => '✓',
        Level::Warning => '!',
        Level::Bad => '✗',
    }
}

fn color(level: Level) -> &'static str {
    match level {
        Level::Ok => "32",
        Level::Warning => "33",
        Level::Bad => "31",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn overview(value: serde_json::Value) -> Overview {
        let mut whole = json!({"now": "2026-03-01T12:00:00Z", "healthy": true, "backends": [], "agents": [], "problems": [],
            "leader": {"holder": "a", "epoch": 1, "expiresInSeconds": 9}});
        for (key, value) in value.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn backend(namespace: &str, name: &str, level: &str, state: &str) -> serde_json::Value {
        json!({"namespace": namespace, "name": name, "level": level, "healthy": level == "Ok", "state": state,
            "slotsInUse": 1, "limit": 4, "detail": "as it is"})
    }

    #[test]
    fn one_screen_shows_backends_then_agents() {
        let seen = overview(json!({
            "backends": [backend("default", "ollama", "Bad", "Recovering"), backend("default", "mlx", "Ok", "Serving")],
            "agents": [{"namespace": "default", "name": "mac", "level": "Warning", "healthy": true, "state": "Reachable",
                "detail": "mlx Running"}],
        }));
        assert_eq!(
            screen(&seen, Style::default()),
            "BACKEND    STATE        SLOTS   DETAIL\n\
             ✗ ollama   Recovering   1/4     as it is\n\
             ✓ mlx      Serving      1/4     as it is\n\
             \n\
             AGENT   STATE       DETAIL\n\
             ! mac   Reachable   mlx Running\n"
        );
    }

    #[test]
    fn experts_pools_and_schedules_are_lines_when_they_are_not_well_and_counted_when_they_are() {
        let line = |name: &str, level: &str| json!({"namespace": "default", "name": name, "level": level, "healthy": level == "Ok", "state": "S", "detail": "why"});
        let seen = overview(json!({
            "experts": [line("olga", "Bad"), line("igor", "Ok"), line("ada", "Ok")],
            "pools": [line("workers", "Ok")],
            "schedules": [line("news", "Warning")],
        }));
        assert_eq!(
            screen(&seen, Style::default()),
            "EXPERT   STATE   DETAIL\n\
             ✗ olga   S       why\n\
             \n\
             SCHEDULE   STATE   DETAIL\n\
             ! news     S       why\n\
             \n\
             ✓ 2 experts, 1 pool ready\n"
        );
    }

    #[test]
    fn a_queue_is_told_with_why_its_tasks_wait_below_it() {
        let queue = |name: &str, level: &str, human: i64, failed: i64, detail: &str| {
            json!({"namespace": "default", "name": name, "level": level, "healthy": human == 0, "waiting": 405, "running": 2,
                "done": 118, "failed": failed, "needsHuman": human, "detail": detail})
        };
        let seen = overview(json!({"queues": [
            queue("default", "Warning", 1, 0, "380 wait for a slot of mlx · 1: no expert does \"legal\""),
            queue("nightly", "Ok", 0, 3, ""),
        ]}));
        assert_eq!(
            screen(&seen, Style::default()),
            "QUEUE       WAITING   RUNNING   DONE 24H        NEEDS A HUMAN\n\
             ! default   405       2         118             1\n\
             \x20   380 wait for a slot of mlx · 1: no expert does \"legal\"\n\
             ✓ nightly   405       2         118, 3 failed   0\n"
        );
    }

    #[test]
    fn namespaces_are_shown_when_there_are_several() {
        let seen =
            overview(json!({"backends": [backend("a", "mlx", "Ok", "Serving"), backend("b", "mlx", "Ok", "Serving")]}));
        let text = screen(&seen, Style::default());
        assert!(text.contains("✓ a/mlx") && text.contains("✓ b/mlx"), "{text}");
    }

    #[test]
    fn a_pause_a_missing_leader_and_refused_manifests_stand_above() {
        let seen = overview(json!({
            "leader": null,
            "pause": {"since": "2026-03-01T11:50:00Z", "until": "2026-03-01T14:00:00Z", "by": "ada"},
            "problems": [{"error": true, "file": "mlx.yaml", "line": 7, "about": "LLMBackend default/mlx",
                "field": "spec.url", "message": "is required"}],
        }));
        assert_eq!(
            screen(&seen, Style::default()).lines().take(3).collect::<Vec<_>>(),
            [
                "✗ nobody leads: nothing is observed or healed now",
                "! paused by ada for 10m, for 2h more: nothing acts",
                "✗ mlx.yaml:7: LLMBackend default/mlx: spec.url: is required",
            ]
        );
    }

    #[test]
    fn with_nothing_declared_it_says_what_to_do() {
        assert!(screen(&overview(json!({})), Style::default()).contains("ostler init"));
    }
}
