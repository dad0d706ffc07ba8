use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::engines::decoder::{Decoder, StreamItem};
use crate::engines::error::failure;
use crate::engines::status::{of_event, of_record, of_response};
use crate::engines::{Endpoint, EngineKind, Failure};
use crate::net::Broken;

/// A download that gets no byte for so long has failed.
pub const PULL_STALL: Duration = Duration::from_secs(60);
/// To verify and to write what was downloaded takes longer, and says nothing meanwhile.
const FINISHING: u32 = 10;
/// The largest models take hours on a slow line: what takes longer than a day only pretends to get on.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Layers of a model are few.
const MAX_PARTS: usize = 4096;

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

/// `stall`: the longest time without progress in bytes; to verify and to write may take ten times as long.
pub(super) async fn pull(
    at: &Endpoint,
    model: &str,
    stall: Duration,
    on_progress: &mut (dyn FnMut(PullProgress) + Send),
) -> Result<(), Failure> {
    let mut parts = Parts::default();
    let begun = Instant::now();
    let mut patience = Patience { stall, stage: Stage::Manifest, bytes: 0, since: begun };
    let request = at.request(Method::POST, "/api/pull").json(&json!({"model": model, "stream": true}));
    let broken = |broken: Broken, patience: &Patience| match broken {
        Broken::Timeout => patience.stalled(),
        broken => failure(broken, 0, patience.since.elapsed()),
    };
    let reply = at.send_until(request, patience.ends()).await.map_err(|e| broken(e, &patience))?;
    let (status, headers) = (reply.status(), reply.headers().clone());
    if !status.is_success() {
        return Err(of_response(EngineKind::Ollama, status, &headers, &reply.refusal().await));
    }
    let mut reply = reply.prolonged(begun + LONGEST);
    let mut decoder = Decoder::for_download();
    loop {
        let chunk = reply.chunk(patience.ends()).await.map_err(|e| broken(e, &patience))?;
        let items = match &chunk {
            Some(chunk) => decoder.push(chunk.as_ref())?,
            None => decoder.end()?,
        };
        for item in items {
            let record = match item {
                StreamItem::Record { value, .. } => value,
                StreamItem::Error(data) => return Err(of_event(EngineKind::Ollama, &data).failure),
                StreamItem::Done => continue,
            };
            if let Some(refusal) = of_record(EngineKind::Ollama, &record) {
                return Err(refusal.failure);
            }
            let progress = parts.note(&record);
            let done = progress.status == "success";
            patience.note(&progress, Instant::now());
            on_progress(progress);
            if done {
                return Ok(());
            }
        }
        if chunk.is_none() {
            return Err(Failure::Reset { tokens_seen: 0 });
        }
    }
}

/// How long a download has had no progress: what repeats its last line has none.
struct Patience {
    stall: Duration,
    stage: Stage,
    bytes: u64,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Manifest,
    Download,
    Verify,
    Write,
    CleanUp,
}

impl Stage {
    fn of(status: &str) -> Self {
        let first = status.split_whitespace().next().unwrap_or_default();
        match first {
            "verifying" => Stage::Verify,
            "writing" => Stage::Write,
            "removing" => Stage::CleanUp,
            _ if status == "pulling manifest" => Stage::Manifest,
            _ => Stage::Download,
        }
    }
}

impl Patience {
    fn note(&mut self, progress: &PullProgress, now: Instant) {
        let stage = self.stage.max(Stage::of(&progress.status));
        if stage > self.stage || progress.bytes > self.bytes {
            (self.stage, self.bytes, self.since) = (stage, progress.bytes, now);
        }
    }

    fn longest(&self) -> Duration {
        if self.stage >= Stage::Verify { self.stall * FINISHING } else { self.stall }
    }

    fn ends(&self) -> Instant {
        self.since + self.longest()
    }

    fn stalled(&self) -> Failure {
        Failure::Timeout { after: self.longest(), tokens_seen: 0 }
    }
}

/// Bytes of each part of a download, by digest. The parts become known one by one, the large one early.
#[derive(Default)]
struct Parts {
    bytes: BTreeMap<String, (u64, u64)>,
    percent: u8,
}

impl Parts {
    fn note(&mut self, record: &Value) -> PullProgress {
        let status: String =
            record.get("status").and_then(Value::as_str).unwrap_or_default().chars().take(200).collect();
        let number = |key| record.get(key).and_then(Value::as_u64);
        if let (Some(digest), Some(total)) = (record.get("digest").and_then(Value::as_str), number("total"))
            && (self.bytes.len() < MAX_PARTS || self.bytes.contains_key(digest))
        {
            let part = self.bytes.entry(digest.to_owned()).or_insert((0, total));
            // Parts that are begun anew are no progress until they are past where they were.
            part.0 = part.0.max(number("completed").unwrap_or(0).min(part.1));
        }
        let sum = |(d, t): (u64, u64), (c, n): &(u64, u64)| (d.saturating_add(*c), t.saturating_add(*n));
        let (bytes, total) = self.bytes.values().fold((0, 0), sum);
        let percent = (u128::from(bytes) * 100).checked_div(u128::from(total)).unwrap_or(0);
        let now = if status == "success" { 100 } else { percent };
        self.percent = self.percent.max(u8::try_from(now).unwrap_or(100));
        PullProgress { percent: self.percent, bytes, status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_and_bytes_count_all_parts_and_never_fall() {
        let lines = [
            (json!({"status": "pulling manifest"}), 0, 0),
            (json!({"status": "pulling a", "digest": "a", "total": 80}), 0, 0),
            (json!({"status": "pulling a", "digest": "a", "total": 80, "completed": 60}), 75, 60),
            (json!({"status": "pulling b", "digest": "b", "total": 20}), 75, 60),
            (json!({"status": "pulling a", "digest": "a", "total": 80, "completed": 10}), 75, 60),
            (json!({"status": "pulling a", "digest": "a", "total": 80, "completed": 80}), 80, 80),
            (json!({"status": "pulling b", "digest": "b", "total": 20, "completed": 900}), 100, 100),
            (json!({"status": "success"}), 100, 100),
        ];
        let mut parts = Parts::default();
        for (line, percent, bytes) in lines {
            let progress = parts.note(&line);
            assert_eq!((progress.percent, progress.bytes), (percent, bytes), "{line}");
        }
    }

    #[test]
    fn a_pull_that_had_nothing_to_fetch_ends_at_a_hundred() {
        assert_eq!(Parts::default().note(&json!({"status": "success"})).percent, 100);
    }

    #[test]
    fn only_bytes_and_later_stages_are_progress() {
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let mut patience = Patience { stall: second, stage: Stage::Manifest, bytes: 0, since: begun };
        let mut ends_after = |millis, status: &str, bytes| {
            let now = begun + Duration::from_millis(millis);
            patience.note(&PullProgress { percent: 0, bytes, status: status.into() }, now);
            (patience.ends() - begun).as_millis()
        };
        assert_eq!(ends_after(0, "pulling manifest", 0), 1_000);
        assert_eq!(ends_after(500, "pulling manifest", 0), 1_000, "the same line again");
        assert_eq!(ends_after(500, "pulling a", 0), 1_500);
        assert_eq!(ends_after(900, "pulling a", 0), 1_500);
        assert_eq!(ends_after(900, "pulling a", 1), 1_900);
        assert_eq!(ends_after(1_000, "verifying sha256 digest", 1), 11_000);
        assert_eq!(ends_after(2_000, "pulling manifest", 1), 11_000, "never back");
        assert_eq!(ends_after(2_000, "writing manifest", 1), 12_000);
    }
}
