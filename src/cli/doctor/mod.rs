//! `ostler doctor`: what is not as it should be around Ostler. [`look`] reads and changes nothing, [`judge`] is pure.

mod judge;
mod look;
mod observed;
pub mod rights;

use std::time::Duration;

use super::{
    CliError, Global,
    output::{self, Format, print},
};
use crate::api::number_of;

pub use observed::{DoctorFinding, DoctorObserved, FindingLevel};

/// All of it, whatever does not answer.
const WITHIN: Duration = Duration::from_secs(9);

/// Look for what is wrong around Ostler, and say how to mend it; changes nothing
///
/// On a machine: the data folder, its database, ports, limits, jobs, and the `ostler up` that runs there with its agents and servers. In a
/// pod: the database and the rights of its service account. With --kube or --server: that Ostler. Takes at most 10 seconds; exits with 3
/// when something is broken.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Show what is well too
    #[arg(long, short)]
    all: bool,
    /// For programs: all findings
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: DoctorArgs, global: &Global) -> Result<(), CliError> {
    let DoctorArgs { all, output } = args;
    let findings = findings(global).await;
    if !output::print_value(output, &findings)? {
        print(&text(&findings, all))?;
    }
    if findings.iter().any(|finding| finding.level == FindingLevel::Error) { Err(CliError::NotHealthy) } else { Ok(()) }
}

pub async fn findings(global: &Global) -> Vec<DoctorFinding> {
    judge::judge(&look::look(global, WITHIN).await)
}

fn text(findings: &[DoctorFinding], all: bool) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let mut text = String::new();
    for finding in findings.iter().filter(|finding| all || finding.level != FindingLevel::Ok) {
        let DoctorFinding { id, level, message, fix } = finding;
        text += &format!("{} {id}: {message}\n", level.mark());
        if !fix.is_empty() {
            text += &format!("    {fix}\n");
        }
    }
    let [errors, warnings, passed] =
        [(FindingLevel::Error, "error"), (FindingLevel::Warning, "warning"), (FindingLevel::Ok, "check")]
            .map(|(level, word)| number_of(count(level), word));
    text + &format!("{errors}, {warnings}, {passed} passed\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_well_is_only_counted_unless_asked_for() {
        let of = |id: &str, level, fix: &str| DoctorFinding {
            id: id.to_owned(),
            level,
            message: "m".to_owned(),
            fix: fix.to_owned(),
        };
        let findings =
            [of("a", FindingLevel::Error, "do"), of("b", FindingLevel::Warning, "do"), of("c", FindingLevel::Ok, "")];
        let said = text(&findings, false);
        assert_eq!(said, "✗ a: m\n    do\n! b: m\n    do\n1 error, 1 warning, 1 check passed\n");
        assert!(text(&findings, true).contains("✓ c: m\n"));
    }
}
