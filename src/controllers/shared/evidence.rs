//! What the calls of all workers showed of servers, by the leader's clock. Pure.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use crate::store::{CallEvidence, WorkerRow};

/// Clocks that differ by less count as equal: the measured difference contains the time that a report was under way.
const SAME_CLOCK: SignedDuration = SignedDuration::from_millis(500);

/// The last report of each worker, also of those that have left since.
#[derive(Debug, Default)]
pub struct ReportedCalls {
    by_holder: HashMap<String, Reporter>,
}

#[derive(Debug, Default)]
struct Reporter {
    /// How far the leader's clock is ahead of this worker's.
    ahead: SignedDuration,
    /// By the leader's clock.
    evidence: Vec<CallEvidence>,
}

impl ReportedCalls {
    /// Takes in all reports. `now`: before they were asked for, so that no call seems later than it was.
    pub fn take(&mut self, rows: Vec<WorkerRow>, now: Timestamp) {
        for WorkerRow { report, age } in rows {
            let known = self.by_holder.entry(report.holder).or_default();
            let came_at = now - SignedDuration::try_from(age).unwrap_or_default();
            let ahead = came_at.duration_since(report.reported_at);
            // A difference that wavers would make old evidence look new.
            if (ahead - known.ahead).abs() >= SAME_CLOCK {
                known.ahead = ahead;
            }
            known.evidence = report.evidence.into_iter().map(|of| of.shifted(known.ahead)).collect();
        }
        for known in self.by_holder.values_mut() {
            known.evidence.iter_mut().for_each(|of| of.forget(now));
            known.evidence.retain(|of| !of.is_empty());
        }
        self.by_holder.retain(|_, known| !known.evidence.is_empty());
    }

    /// Of all workers together, by server.
    pub fn by_server(&self) -> HashMap<String, CallEvidence> {
        let mut merged: HashMap<String, CallEvidence> = HashMap::new();
        for of in self.by_holder.values().flat_map(|known| &known.evidence) {
            let all = merged.entry(of.server_url.clone()).or_insert_with(|| CallEvidence::of(&of.server_url));
            all.merge(of.clone());
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::{CallFault, FailedCall, ServedCall, WorkerReport};

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn served(ended: i64) -> CallEvidence {
        let mut evidence = CallEvidence::of("http://s");
        let call = ServedCall {
            model: "m".into(),
            began_at: at(ended - 100),
            ended_at: at(ended),
            request: format!("task {ended}"),
        };
        evidence.add_served(call);
        evidence
    }

    fn failed(ended: i64) -> CallEvidence {
        let mut evidence = CallEvidence::of("http://s");
        evidence.add_failed(FailedCall {
            model: "m".into(),
            began_at: at(ended - 100),
            ended_at: at(ended),
            request: format!("task {ended}"),
            fault: CallFault::Failed,
            message: "HTTP 500".into(),
        });
        evidence
    }

    fn row(holder: &str, reported: i64, age: u64, evidence: CallEvidence) -> WorkerRow {
        let report = WorkerReport {
            holder: holder.into(),
            namespace: "default".into(),
            pool: "smart".into(),
            host: "here".into(),
            in_flight: 0,
            effective_concurrency: 15,
            limited_by: "Tasks".into(),
            draining: false,
            calls: Vec::new(),
            evidence: vec![evidence],
            open_calls: Vec::new(),
            reported_at: at(reported),
        };
        WorkerRow { report, age: Duration::from_millis(age) }
    }

    #[test]
    fn evidence_of_all_workers_is_read_by_the_leaders_clock() {
        let mut reported = ReportedCalls::default();
        // The second worker's clock is an hour behind.
        let hour = 3_600_000;
        let now = 10 * hour;
        let rows = [
            row("a", now - 2_000, 2_030, served(now - 5_000)),
            row("b", now - 1_000 - hour, 1_000, served(now - 4_000 - hour)),
            row("c", now - 500, 400, failed(now - 3_000)),
        ];
        reported.take(rows.into(), at(now));
        let merged = reported.by_server().remove("http://s").unwrap();
        assert_eq!(merged.served.iter().map(|call| call.ended_at).collect::<Vec<_>>(), [at(now - 4_000)]);
        assert_eq!(merged.failed.iter().map(|call| call.ended_at).collect::<Vec<_>>(), [at(now - 3_000)]);

        // Read again a little later: nothing is new, though the measured difference wavers.
        let again = [
            row("a", now - 2_000, 4_070, served(now - 5_000)),
            row("b", now - 1_000 - hour, 2_960, served(now - 4_000 - hour)),
        ];
        reported.take(again.into(), at(now + 2_000));
        assert_eq!(reported.by_server().remove("http://s").unwrap(), merged, "c has left, its evidence stays");

        reported.take(Vec::new(), at(now + hour * 2));
        assert!(reported.by_server().is_empty());
    }
}
