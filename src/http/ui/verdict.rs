//! Is everything fine? One sentence over all that the overview shows.

use crate::{
    api::number_of,
    http::status::{Level, Overview},
};

use super::bits::grouped;

/// Names that a sentence gives before it counts.
const MOST_NAMES: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverallVerdict {
    pub level: Level,
    pub headline: String,
    /// How many tasks wait, run and need a human; `None`: there is no queue.
    pub tasks: Option<String>,
}

pub fn verdict(overview: &Overview) -> OverallVerdict {
    let all = lines(overview);
    let of = |wanted: Level| -> Vec<&str> {
        all.iter().filter(|(level, _)| *level == wanted).map(|(_, name)| *name).collect()
    };
    let (bad, known) = (of(Level::Bad), of(Level::Warning));
    let refused = overview.problems.iter().filter(|problem| problem.error).count();
    let (level, headline) = if overview.leader.is_none() {
        (Level::Bad, "Nobody leads: nothing is observed or healed now".to_owned())
    } else if !bad.is_empty() {
        (Level::Bad, format!("{} not as declared", who(&bad, "is", "are")))
    } else if refused > 0 {
        (Level::Bad, format!("{} to be mended", number_of(refused, "problem")))
    } else if overview.pause.is_some() {
        (Level::Warning, "Paused: nothing is healed until the pause ends".to_owned())
    } else if !known.is_empty() {
        (Level::Warning, format!("{} a look", who(&known, "wants", "want")))
    } else if all.is_empty() {
        (Level::Warning, "Nothing is declared yet".to_owned())
    } else {
        (Level::Ok, "Everything is as declared".to_owned())
    };
    OverallVerdict { level, headline, tasks: (!overview.queues.is_empty()).then(|| tasks(overview)) }
}

fn lines(overview: &Overview) -> Vec<(Level, &str)> {
    let mut all: Vec<(Level, &str)> = overview.backends.iter().map(|line| (line.level, line.name.as_str())).collect();
    all.extend(overview.queues.iter().map(|line| (line.level, line.name.as_str())));
    let others = [
        &overview.containers,
        &overview.agents,
        &overview.pools,
        &overview.experts,
        &overview.schedules,
        &overview.notifiers,
    ];
    all.extend(others.into_iter().flatten().map(|line| (line.level, line.name.as_str())));
    all
}

/// `mlx and ollama are`
fn who(names: &[&str], one: &str, many: &str) -> String {
    let more = names.len().saturating_sub(MOST_NAMES);
    let verb = if names.len() == 1 { one } else { many };
    match names {
        [only] => format!("{only} {verb}"),
        [first, last] => format!("{first} and {last} {verb}"),
        [first, second, last] => format!("{first}, {second} and {last} {verb}"),
        _ => {
            format!("{} and {more} more {verb}", names.iter().take(MOST_NAMES).copied().collect::<Vec<_>>().join(", "))
        }
    }
}

fn tasks(overview: &Overview) -> String {
    let sum = |of: fn(&crate::http::QueueLine) -> i64| overview.queues.iter().map(of).sum::<i64>();
    let (waiting, running, human) = (sum(|q| q.waiting), sum(|q| q.running), sum(|q| q.needs_human));
    let (done, failed) = (sum(|q| q.done), sum(|q| q.failed));
    let mut parts = vec![
        format!("{} {}", grouped(waiting), if waiting == 1 { "task waits" } else { "tasks wait" }),
        format!("{} {}", grouped(running), if running == 1 { "runs" } else { "run" }),
    ];
    if human > 0 {
        parts.push(format!("{} {} a human", grouped(human), if human == 1 { "needs" } else { "need" }));
    }
    parts.push(format!("{} done in 24 h", grouped(done)));
    if failed > 0 {
        parts.push(format!("{} failed", grouped(failed)));
    }
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn overview(changes: Value) -> Overview {
        let mut whole = json!({"now": "2026-03-01T12:00:00Z", "healthy": true, "backends": [], "agents": [], "problems": [],
            "leader": {"holder": "a", "epoch": 1, "expiresInSeconds": 9}});
        for (key, value) in changes.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn backends(levels: &[(&str, &str)]) -> Value {
        let line = |(name, level): &(&str, &str)| json!({"namespace": "default", "name": name, "level": level, "healthy": *level == "Ok", "state": "S", "detail": ""});
        levels.iter().map(line).collect()
    }

    fn queue(waiting: i64, human: i64, failed: i64) -> Value {
        json!([{"namespace": "default", "name": "default", "level": "Ok", "healthy": true, "waiting": waiting, "running": 1,
            "done": 1_118, "failed": failed, "needsHuman": human, "detail": ""}])
    }

    #[test]
    fn the_worst_is_told_by_name() {
        let leaderless = json!({"leader": null, "backends": backends(&[("mlx", "Bad")])});
        let paused =
            json!({"pause": {"since": "2026-03-01T11:00:00Z", "by": "ada"}, "backends": backends(&[("mlx", "Ok")])});
        let refused = json!({"problems": [{"error": true, "message": "m"}], "backends": backends(&[("mlx", "Ok")])});
        let both = [("mlx", "Bad"), ("ollama", "Bad"), ("vllm", "Ok")];
        let five = [("a", "Bad"), ("b", "Bad"), ("c", "Bad"), ("d", "Bad"), ("e", "Bad")];
        for (changes, level, headline) in [
            (leaderless, Level::Bad, "Nobody leads: nothing is observed or healed now"),
            (json!({"backends": backends(&both)}), Level::Bad, "mlx and ollama are not as declared"),
            (json!({"backends": backends(&five)}), Level::Bad, "a, b, c and 2 more are not as declared"),
            (json!({"backends": backends(&five[..3])}), Level::Bad, "a, b and c are not as declared"),
            (refused, Level::Bad, "1 problem to be mended"),
            (paused, Level::Warning, "Paused: nothing is healed until the pause ends"),
            (json!({"backends": backends(&[("mlx", "Warning")])}), Level::Warning, "mlx wants a look"),
            (json!({"backends": backends(&[("mlx", "Ok")])}), Level::Ok, "Everything is as declared"),
            (json!({}), Level::Warning, "Nothing is declared yet"),
        ] {
            let verdict = verdict(&overview(changes));
            assert_eq!((verdict.level, verdict.headline.as_str()), (level, headline));
        }
    }

    #[test]
    fn tasks_are_counted_over_all_queues() {
        let told = |queues: Value| verdict(&overview(json!({"queues": queues}))).tasks;
        assert_eq!(told(queue(405, 0, 0)).as_deref(), Some("405 tasks wait · 1 runs · 1,118 done in 24 h"));
        assert_eq!(
            told(queue(1, 2, 3)).as_deref(),
            Some("1 task waits · 1 runs · 2 need a human · 1,118 done in 24 h · 3 failed")
        );
        assert_eq!(told(json!([])), None);
    }
}
