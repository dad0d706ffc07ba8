use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::engines::probe::read_bounded;
use crate::engines::status::{of_record, of_response};
use crate::engines::stream::{LineError, Lines, parse};
use crate::engines::transport::Broken;
use crate::engines::{Endpoint, EngineKind, Failure};

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// 0 to 100, over the parts known so far; never falls.
    pub percent: u8,
    /// Downloaded so far, over all parts; never falls.
    pub bytes: u64,
    /// The server's own word: `pulling manifest`, `verifying sha256 digest`, `success`.
    pub status: String,
}

pub(super) async fn pull(
    at: &Endpoint,
    model: &str,
    stall: Duration,
    on_progress: &mut (dyn FnMut(PullProgress) + Send),
) -> Result<(), Failure> {
    let request = at.request(Method::POST, "/api/pull").json(&json!({"model": model, "stream": true}));
    let stalled = || Failure::Timeout { after: stall, tokens_seen: 0 };
    let sent = tokio::time::timeout(stall, request.send()).await.map_err(|_| stalled())?;
    let response = sent.map_err(|e| Broken::of(&e).failure(0, stall))?;
    let (status, headers) = (response.status(), response.headers().clone());
    if !status.is_success() {
        let body = read_bounded(response).await.map_err(|e| Broken::of(&e).failure(0, stall))?;
        return Err(of_response(EngineKind::Ollama, status, &headers, &body));
    }
    let mut lines = Lines::new(response);
    let mut parts = Parts::default();
    loop {
        let line = match tokio::time::timeout(stall, lines.next()).await.map_err(|_| stalled())? {
            Ok(Some(line)) => line,
            Ok(None) => return Err(Failure::Reset { tokens_seen: 0 }),
            Err(LineError::Broken(broken)) => return Err(broken.failure(0, stall)),
            Err(LineError::TooLong) => {
                return Err(Failure::BadBody { detail: "a line without end".into() });
            }
        };
        let record = parse(&line)?;
        if let Some(refusal) = of_record(EngineKind::Ollama, &record) {
            return Err(refusal.failure);
        }
        let progress = parts.note(&record);
        let done = progress.status == "success";
        on_progress(progress);
        if done {
            return Ok(());
        }
    }
}

/// Bytes of each part of a download, by digest. The parts become known one by one, the large one early.
#[derive(Default)]
struct Parts {
    bytes: BTreeMap<String, (u64, u64)>,
    percent: u8,
    done: u64,
}

impl Parts {
    fn note(&mut self, record: &Value) -> PullProgress {
        let status = record.get("status").and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |key| record.get(key).and_then(Value::as_u64);
        if let (Some(digest), Some(total)) = (record.get("digest").and_then(Value::as_str), number("total")) {
            self.bytes.insert(digest.to_owned(), (number("completed").unwrap_or(0).min(total), total));
        }
        let (done, total) =
            self.bytes.values().fold((0u128, 0u128), |(d, t), (c, n)| (d + u128::from(*c), t + u128::from(*n)));
        let now = if status == "success" { 100 } else { (done * 100).checked_div(total).unwrap_or(0) };
        self.percent = self.percent.max(u8::try_from(now).unwrap_or(100));
        self.done = self.done.max(u64::try_from(done).unwrap_or(u64::MAX));
        PullProgress { percent: self.percent, bytes: self.done, status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_counts_all_parts_and_never_falls() {
        let lines = [
            (json!({"status": "pulling manifest"}), 0),
            (json!({"status": "pulling a", "digest": "a", "total": 80}), 0),
            (json!({"status": "pulling a", "digest": "a", "total": 80, "completed": 60}), 75),
            (json!({"status": "pulling b", "digest": "b", "total": 20}), 75),
            (json!({"status": "pulling a", "digest": "a", "total": 80, "completed": 80}), 80),
            (json!({"status": "pulling b", "digest": "b", "total": 20, "completed": 900}), 100),
            (json!({"status": "success"}), 100),
        ];
        let mut parts = Parts::default();
        for (line, percent) in lines {
            assert_eq!(parts.note(&line).percent, percent, "{line}");
        }
    }

    #[test]
    fn a_pull_that_had_nothing_to_fetch_ends_at_a_hundred() {
        assert_eq!(Parts::default().note(&json!({"status": "success"})).percent, 100);
    }
}
