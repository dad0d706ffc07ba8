//! What observed facts mean. Pure.

mod machine;
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{
    observed::{DatabaseObserved, DoctorFinding, DoctorObserved, FindingLevel, RightsObserved},
    rights,
};

/// Clocks that differ by more make signed requests invalid.
const SKEW_SECONDS: i64 = 30;
/// A transaction that is open for longer holds up the cleaning of all tables.
const LONG_TRANSACTION: i64 = 600;

/// Findings, worst first.
pub fn judge(observed: &DoctorObserved) -> Vec<DoctorFinding> {
    let mut found = Findings::default();
    if let Some(machine) = &observed.machine {
        found.machine(machine);
    }
    if let Some(database) = &observed.database {
        found.database(database);
    }
    if let Some(server) = &observed.server {
        found.server(server, &observed.version);
    }
    if let Some(rights) = &observed.rights {
        found.rights(rights);
    }
    if let Some(crds) = &observed.crds {
        found.crds(crds, &observed.version);
    }
    let mut all = found.0;
    all.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    all
}

#[derive(Default)]
struct Findings(Vec<DoctorFinding>);

impl Findings {
    fn add(&mut self, id: &str, level: FindingLevel, message: impl Into<String>, fix: impl Into<String>) {
        self.0.push(DoctorFinding { id: id.to_owned(), level, message: message.into(), fix: fix.into() });
    }

    fn ok(&mut self, id: &str, message: impl Into<String>) {
        self.add(id, FindingLevel::Ok, message, "");
    }

    fn error(&mut self, id: &str, message: impl Into<String>, fix: impl Into<String>) {
        self.add(id, FindingLevel::Error, message, fix);
    }

    fn warn(&mut self, id: &str, message: impl Into<String>, fix: impl Into<String>) {
        self.add(id, FindingLevel::Warning, message, fix);
    }

    fn database(&mut self, database: &DatabaseObserved) {
        let DatabaseObserved { place, postgres, facts, at } = database;
        let facts = match facts {
            Err(why) => {
                let fix = if *postgres {
                    "see that PostgreSQL runs and that OSTLER_DATABASE_URL has the right host, user and password"
                } else {
                    "see that the data folder is readable and its disk is well"
                };
                return self.error("database.reach", format!("{place}: {why}"), fix);
            }
            Ok(None) => return self.add("database.reach", FindingLevel::Note, format!("{place}: no database yet"), ""),
            Ok(Some(facts)) => facts,
        };
        self.ok("database.reach", format!("{place} answers"));
        match &facts.unfit {
            Some(why) => self.error("database.schema", why.to_string(), "run `ostler migrate`, or the newer program"),
            None => self.ok("database.schema", format!("schema {}", facts.schema)),
        }
        if facts.encoding.replace('-', "").eq_ignore_ascii_case("utf8") {
            self.ok("database.encoding", facts.encoding.clone());
        } else {
            self.error(
                "database.encoding",
                format!("the database's character set is {}", facts.encoding),
                "make a database with ENCODING 'UTF8', and move the data with pg_dump",
            );
        }
        if facts.read_only {
            self.error(
                "database.writes",
                "the database takes no writes",
                "connect to the primary, with a user that may write",
            );
        }
        let skew = at.as_second() - facts.now.as_second();
        if skew.abs() > SKEW_SECONDS {
            self.warn(
                "database.clock",
                format!("this machine's clock and the database's differ by {} s", skew.abs()),
                "let both take their time from a time server",
            );
        }
        if facts.oldest_transaction > LONG_TRANSACTION {
            self.warn(
                "database.oldest-transaction",
                format!(
                    "a transaction is open for {} minutes: tables grow, and the queue gets slow",
                    facts.oldest_transaction / 60
                ),
                "find it in pg_stat_activity (xact_start), and end it",
            );
        }
    }

    fn rights(&mut self, observed: &RightsObserved) {
        for (namespace, rules) in &observed.rules {
            let rules = match rules {
                Ok(rules) => rules,
                Err(why) => {
                    self.error(
                        "rights",
                        format!("{namespace}: {why}"),
                        "see that the API server is reachable from this pod",
                    );
                    continue;
                }
            };
            let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (value, right) in rights::needed(&observed.abilities) {
                if !rights::allows(rules, right) {
                    missing.entry(value).or_default().push(format!("{} {}", right.0, right.2));
                }
            }
            if missing.is_empty() {
                self.ok("rights", format!("{namespace}: everything that is switched on is allowed"));
            }
            for (value, rights) in missing {
                self.error(
                    "rights",
                    format!("{namespace}: {value} is on, and the service account may not {}", rights.join(", ")),
                    "apply the chart's roles again (`helm upgrade`), or ask whoever owns them",
                );
            }
        }
    }

    fn crds(&mut self, crds: &Result<BTreeMap<String, String>, String>, version: &str) {
        let releases = match crds {
            Ok(releases) => releases,
            Err(why) => return self.add("crd.release", FindingLevel::Note, format!("not looked at: {why}"), ""),
        };
        let fix = "helm upgrade with crds.enabled=true, or `kubectl apply --server-side -k crds/`";
        for (name, release) in releases {
            match release.as_str() {
                "" => self.error("crd.release", format!("{name} is not installed"), fix),
                same if same == version => self.ok("crd.release", format!("{name} is of {version}")),
                other => self.warn("crd.release", format!("{name} is of {other}, this program {version}"), fix),
            }
        }
    }
}
