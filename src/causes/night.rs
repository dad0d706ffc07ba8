//! What happened in a span of time, for whoever comes back: the same from the command line and from programs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Cause, CauseClass, CauseSeverity, letter::some_of};
use crate::{api::number_of, base::age};

/// Causes that healed by themselves and are named one by one.
const MOST_QUIET: usize = 10;

/// A span of time in causes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NightReport {
    pub from: Timestamp,
    pub to: Timestamp,
    /// Not over yet, worst first.
    pub open: Vec<NightLine>,
    /// Over, after somebody was or could have been told, the latest first.
    pub resolved: Vec<NightLine>,
    /// Healed before anybody had to know, the latest first.
    pub healed: Vec<NightLine>,
}

/// One cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NightLine {
    pub key: String,
    pub severity: CauseSeverity,
    pub class: CauseClass,
    pub title: String,
    pub evidence: String,
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Timestamp>,
    pub seconds: i64,
    pub times: u32,
    pub tried: Vec<String>,
    pub affected: usize,
    /// The first of them by name.
    pub named: String,
    pub waiting: i64,
    pub next: String,
}

/// The causes that were open at any moment from `from` to `to`. Symptoms that were folded are told by their cause.
pub fn night(causes: &[Cause], from: Timestamp, to: Timestamp) -> NightReport {
    let within = |cause: &&Cause| {
        cause.folded_into.is_none() && cause.opened_at <= to && cause.resolved_at.is_none_or(|at| at >= from)
    };
    let mut report = NightReport { from, to, open: Vec::new(), resolved: Vec::new(), healed: Vec::new() };
    for cause in causes.iter().filter(within) {
        let line = NightLine::of(cause, to);
        match (cause.is_open(), cause.severity) {
            (true, _) => report.open.push(line),
            (false, CauseSeverity::Info) => report.healed.push(line),
            (false, _) => report.resolved.push(line),
        }
    }
    report.open.sort_by(|a, b| (b.severity, a.since, &a.key).cmp(&(a.severity, b.since, &b.key)));
    for over in [&mut report.resolved, &mut report.healed] {
        over.sort_by(|a, b| (b.resolved_at, &a.key).cmp(&(a.resolved_at, &b.key)));
    }
    report
}

impl NightLine {
    fn of(cause: &Cause, now: Timestamp) -> Self {
        Self {
            key: cause.key.clone(),
            severity: cause.severity,
            class: cause.class,
            title: cause.title.clone(),
            evidence: cause.evidence.clone(),
            since: cause.since,
            resolved_at: cause.resolved_at,
            seconds: cause.resolved_at.unwrap_or(now).duration_since(cause.since).as_secs(),
            times: cause.times,
            tried: cause.tried.clone(),
            affected: cause.member_count,
            named: some_of(cause),
            waiting: cause.waiting,
            next: cause.next.clone(),
        }
    }

    fn times(&self) -> String {
        if self.times > 1 { format!(", {} times", self.times) } else { String::new() }
    }
}

impl NightReport {
    fn headline(&self) -> String {
        let span = age(self.to.duration_since(self.from).as_secs());
        let [open, resolved, healed] = [&self.open, &self.resolved, &self.healed].map(Vec::len);
        if open + resolved + healed == 0 {
            return format!("Nothing failed in the last {span}.");
        }
        format!("Last {span}: {} open, {resolved} resolved, {healed} healed without anybody.", number_of(open, "cause"))
    }

    /// For a terminal or a mail.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.headline());
        for line in &self.open {
            text.push_str(&format!("\n✗ {}{} (for {})\n", line.title, line.times(), age(line.seconds)));
            for detail in line.details() {
                text.push_str(&format!("    {detail}\n"));
            }
        }
        for line in &self.resolved {
            text.push_str(&format!("\n✓ {}{}: over after {}\n", line.title, line.times(), age(line.seconds)));
            for detail in line.details() {
                text.push_str(&format!("    {detail}\n"));
            }
        }
        if !self.healed.is_empty() {
            text.push_str("\nHealed:\n");
        }
        for line in self.healed.iter().take(MOST_QUIET) {
            let tried = line.tried.last().map(|tried| format!(" · {tried}")).unwrap_or_default();
            text.push_str(&format!("  {}{} ({}){tried}\n", line.title, line.times(), age(line.seconds)));
        }
        if self.healed.len() > MOST_QUIET {
            text.push_str(&format!("  and {} more\n", self.healed.len() - MOST_QUIET));
        }
        text
    }

    /// The same as Markdown: what comes from outside is escaped.
    pub fn markdown(&self) -> String {
        let mut text = format!("# Report\n\n{}\n", self.headline());
        for (heading, lines) in [("Open", &self.open), ("Resolved", &self.resolved), ("Healed", &self.healed)] {
            if lines.is_empty() {
                continue;
            }
            text.push_str(&format!("\n## {heading}\n\n"));
            for line in lines {
                let severity: &str = line.severity.into();
                let [title, times] = [plain(&line.title), plain(&line.times())];
                text.push_str(&format!("- **{title}** ({severity}{times}, {})\n", age(line.seconds)));
                let quiet = heading == "Healed";
                for detail in line.details().into_iter().filter(|_| !quiet) {
                    text.push_str(&format!("  - {}\n", plain(&detail)));
                }
            }
        }
        text
    }
}

impl NightLine {
    fn details(&self) -> Vec<String> {
        let mut details = Vec::new();
        if !self.evidence.is_empty() {
            details.push(format!("why: {}", self.evidence));
        }
        details.extend(self.tried.iter().map(|tried| format!("tried: {tried}")));
        if self.affected > 0 {
            details.push(format!("affected ({}): {}", self.affected, self.named));
        }
        if self.waiting > 0 {
            details.push(format!("{} waiting because of it", number_of(self.waiting, "task")));
        }
        if self.resolved_at.is_none() {
            details.push(format!("next: {}", self.next));
        }
        details
    }
}

/// Without anything that Markdown or HTML reads.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => plain.push_str("&lt;"),
            '>' => plain.push_str("&gt;"),
            '&' => plain.push_str("&amp;"),
            '\\' | '*' | '_' | '[' | ']' | '#' | '|' | '!' => plain.extend(['\\', c]),
            c => plain.push(c),
        }
    }
    plain
}
