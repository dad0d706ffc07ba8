//! `ostler tasks assign`.

use std::time::Duration;

use crate::{
    cli::{
        CliError, Global, TargetSystem,
        output::{self, Format, Style, Table, print, print_ready},
    },
    tasks::assign::AssignReport,
};

const WITHIN: Duration = Duration::from_secs(300);

/// Assign all unassigned tasks to experts now, and print the result
///
/// The leader does this continuously; the command shows what it would assign, and what it cannot.
#[derive(Debug, clap::Args)]
pub struct TasksAssignArgs {
    /// Only print what would be assigned
    #[arg(long)]
    dry_run: bool,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: TasksAssignArgs, global: &Global) -> Result<(), CliError> {
    let TasksAssignArgs { dry_run, output } = args;
    let target = TargetSystem::of(global).await?;
    let mut query = target.namespace_query();
    query.push(("dryRun", dry_run.to_string()));
    let report: AssignReport = target.api.post_within(&["tasks", "assign"], &query, None::<&()>, WITHIN).await?;
    if output::print_value(output, &report)? {
        return Ok(());
    }
    print_ready(&told(&report, Style::of_stdout()))?;
    if dry_run { Ok(()) } else { print(&format!("· {}\n", target.place)) }
}

fn told(report: &AssignReport, style: Style) -> String {
    let AssignReport { dry_run, pending, unassigned, already, assigned, nobody } = report;
    let given: i64 = assigned.iter().map(|g| g.count).sum();
    let verb = if *dry_run { "would be assigned" } else { "assigned" };
    let mut parts =
        vec![format!("{pending} pending: {already} had somebody already, {unassigned} had nobody; {given} {verb}\n")];
    let several = assigned.windows(2).any(|pair| pair[0].namespace != pair[1].namespace);
    if !assigned.is_empty() {
        let mut table = Table::new(&["EXPERT", "TASKS"]);
        for given in assigned {
            let name = if several { format!("{}/{}", given.namespace, given.expert) } else { given.expert.clone() };
            table.push([name, given.count.to_string()]);
        }
        parts.push(table.render(style));
    }
    if !nobody.is_empty() {
        let mut table = Table::new(&["NOBODY FOR", "TASKS", "WHY"]);
        for group in nobody {
            let kind = match (group.domain.as_str(), group.role.as_str()) {
                ("", "") => format!("{}/{}", group.namespace, group.queue),
                (domain, "") => domain.to_owned(),
                (domain, role) => format!("{domain}/{role}"),
            };
            table.push([kind, group.count.to_string(), group.why.clone()]);
            table.color_last("33");
        }
        parts.push(table.render(style));
    }
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::assign::{AssignedCount, Nobody};

    #[test]
    fn a_round_is_reported_with_whom_and_why_not() {
        let given = |expert: &str, count| AssignedCount { namespace: "default".into(), expert: expert.into(), count };
        let report = AssignReport {
            dry_run: false,
            pending: 405,
            unassigned: 5,
            already: 400,
            assigned: vec![given("igor", 2), given("olga", 2)],
            nobody: vec![Nobody {
                namespace: "default".into(),
                queue: "default".into(),
                domain: "legal".into(),
                role: "counsel".into(),
                count: 1,
                why: "no expert does \"legal\"".into(),
            }],
        };
        assert_eq!(
            told(&report, Style::default()),
            "405 pending: 400 had somebody already, 5 had nobody; 4 assigned\n\
             \n\
             EXPERT   TASKS\n\
             igor     2\n\
             olga     2\n\
             \n\
             NOBODY FOR      TASKS   WHY\n\
             legal/counsel   1       no expert does \"legal\"\n"
        );
    }
}
