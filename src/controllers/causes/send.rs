//! Sends what is due: one message at a time to each Notifier, with all that it is to be told. It is recorded once it arrived.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    api::{Kind, Notifier, NotifierType},
    causes::{Audience, Delivery, KnownCause, Letter, LetterItem},
    notify::{Courier, SendError},
    store::Term,
};

use super::{
    super::{declared::ControlPlane, shared::NamespacedName},
    observe::audiences,
};

/// A Heartbeat's URL is called so often unless it says otherwise.
const BEAT: Duration = Duration::from_secs(60);

/// What came of a message.
struct Sent {
    uid: String,
    key: NamespacedName,
    type_: &'static str,
    rows: Vec<Delivery>,
    result: Result<(), SendError>,
}

/// Messages of one term.
pub struct Sender {
    world: Arc<ControlPlane>,
    term: Term,
    courier: Courier,
    sending: JoinSet<Sent>,
    /// Notifiers to which one is on its way.
    busy: HashSet<String>,
    ended: Vec<Sent>,
    /// What arrived or failed and could not be recorded yet.
    unrecorded: Vec<Delivery>,
    beats: HashMap<String, Instant>,
}

impl Sender {
    pub fn new(world: &Arc<ControlPlane>, term: Term) -> Self {
        Self {
            world: Arc::clone(world),
            term,
            courier: Courier::new(world.shared.secrets.clone(), world.parts.http.clone()),
            sending: JoinSet::new(),
            busy: HashSet::new(),
            ended: Vec::new(),
            unrecorded: Vec::new(),
            beats: HashMap::new(),
        }
    }

    /// Waits until a message arrived or failed.
    pub async fn arrived(&mut self) {
        match self.sending.join_next().await {
            Some(Ok(sent)) => self.ended.push(sent),
            // It panicked: it is due as before.
            Some(Err(_)) => self.busy.clear(),
            None => std::future::pending().await,
        }
    }

    /// Writes what came of messages.
    pub async fn record(&mut self) {
        let now = Timestamp::now();
        for sent in std::mem::take(&mut self.ended) {
            self.busy.remove(&sent.uid);
            self.world.parts.metrics.causes.sent(sent.type_, sent.result.is_ok());
            if let Err(error) = &sent.result {
                let notifier = sent.key.to_string();
                tracing::warn!(notifier, %error, "could not notify; will retry");
            }
            if sent.rows.is_empty() {
                let error = sent.result.err().map(|error| crate::causes::clean(&error.to_string()));
                if self.world.causes.beat(&sent.uid, error, now) {
                    self.world.triggers.one(Kind::Notifier, &sent.key);
                }
                continue;
            }
            let known = self.world.causes.deliveries_of(&sent.uid);
            // What became due meanwhile is told the next time.
            let rows = sent.rows.iter().map(|row| {
                let newest = known.iter().find(|d| d.cause == row.cause && d.opened_at == row.opened_at);
                let after = match &sent.result {
                    Ok(()) => row.sent(now),
                    Err(SendError::Failed { why, retry_after }) => row.failed(why, *retry_after, false, now),
                    Err(SendError::Setup(why)) => row.failed(why, None, false, now),
                    Err(SendError::Refused(why)) => row.failed(why, None, true, now),
                };
                match newest.filter(|newest| newest.due != row.due) {
                    Some(newest) => Delivery { due: newest.due, due_at: newest.due_at, ..after },
                    None => after,
                }
            });
            let rows: Vec<Delivery> = rows.collect();
            self.world.causes.put(&[], &rows, now);
            self.unrecorded.retain(|old| {
                !rows.iter().any(|new| (&new.uid, &new.cause, new.opened_at) == (&old.uid, &old.cause, old.opened_at))
            });
            self.unrecorded.extend(rows);
            self.world.triggers.one(Kind::Notifier, &sent.key);
        }
        if self.unrecorded.is_empty() {
            return;
        }
        match self.world.parts.store.put_causes(self.term.fence(), &[], &self.unrecorded).await {
            Ok(()) => self.unrecorded.clear(),
            Err(error) => tracing::warn!(%error, "could not record who was told; will retry"),
        }
    }

    /// Sends what is due. `recorded`: the last pass was written, so that a heartbeat tells the truth.
    pub async fn send(&mut self, now: Timestamp, recorded: bool) {
        let Some(causes) = self.world.causes.causes() else { return };
        for (object, audience) in audiences(&self.world) {
            if self.busy.contains(&audience.uid) {
                continue;
            }
            let rows = ready(&self.world.causes.deliveries_of(&audience.uid), now);
            if let Some((letter, rows)) = letter(&audience, &causes, rows, now) {
                self.start(&object, audience.uid, letter, rows);
            }
        }
        if recorded && self.term.still_leads() && self.world.parts.loops.stuck().is_empty() {
            self.beat(now);
        }
    }

    fn beat(&mut self, now: Timestamp) {
        for object in self.world.feeds.notifiers.objects.state() {
            let Some(uid) = object.uid().filter(|uid| !self.busy.contains(uid)) else { continue };
            if object.spec.type_ != NotifierType::Heartbeat || self.world.is_suspended(&object) {
                continue;
            }
            let period = object.spec.period_seconds.map_or(BEAT, |s| Duration::from_secs(s.unsigned_abs().into()));
            if self.beats.get(&uid).is_some_and(|at| at.elapsed() < period) {
                continue;
            }
            self.beats.insert(uid.clone(), Instant::now());
            self.start(&object, uid, Letter { at: now, items: Vec::new() }, Vec::new());
        }
    }

    fn start(&mut self, object: &Notifier, uid: String, letter: Letter, rows: Vec<Delivery>) {
        self.busy.insert(uid.clone());
        let (courier, spec, key) = (self.courier.clone(), object.spec.clone(), NamespacedName::of(object));
        self.sending.spawn(async move {
            let result = courier.send(&key.namespace, &spec, &letter).await;
            Sent { uid, key, type_: spec.type_.as_str(), rows, result }
        });
    }
}

/// What may be sent now: all that is due, unless the last attempt is too short ago.
fn ready(deliveries: &[Delivery], now: Timestamp) -> Vec<Delivery> {
    let is_due = |d: &&Delivery| d.due.is_some();
    if deliveries.iter().filter(is_due).any(|d| d.attempts > 0 && d.not_before > now) {
        return Vec::new();
    }
    deliveries.iter().filter(is_due).filter(|d| d.not_before <= now).cloned().collect()
}

/// All of it as one message.
fn letter(
    audience: &Audience,
    causes: &[KnownCause],
    rows: Vec<Delivery>,
    now: Timestamp,
) -> Option<(Letter, Vec<Delivery>)> {
    let mut items = Vec::new();
    let mut told = Vec::new();
    for row in rows {
        let of = |known: &&KnownCause| known.cause.key == row.cause && known.cause.opened_at == row.opened_at;
        let (Some(known), Some(telling)) = (causes.iter().find(of), row.due) else { continue };
        let cause = known.cause.within(audience.namespace.as_deref());
        items.push(LetterItem { telling, due_at: row.due_at, cause });
        told.push(row);
    }
    items.sort_by(|a, b| (b.cause.severity, &a.cause.key).cmp(&(a.cause.severity, &b.cause.key)));
    (!items.is_empty()).then_some((Letter { at: now, items }, told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causes::Telling;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn due(cause: &str, not_before: i64, attempts: u32) -> Delivery {
        Delivery {
            uid: "n".into(),
            cause: cause.into(),
            opened_at: at(0),
            due: Some(Telling::Opened),
            due_at: at(0),
            not_before: at(not_before),
            told: None,
            told_at: None,
            attempts,
            failing_since: None,
            error: None,
            refused: false,
        }
    }

    #[test]
    fn what_is_due_goes_together_and_waits_out_a_failure_together() {
        let names =
            |deliveries: &[Delivery]| ready(deliveries, at(100)).into_iter().map(|d| d.cause).collect::<Vec<_>>();
        assert_eq!(names(&[due("a", 0, 0), due("b", 100, 0)]), ["a", "b"]);
        assert_eq!(names(&[due("a", 0, 0), due("quiet", 900, 0)]), ["a"], "quiet hours of one hold up no other");
        assert!(names(&[due("a", 0, 0), due("failed", 900, 1)]).is_empty(), "the address was asked a moment ago");
        assert_eq!(names(&[due("a", 0, 0), due("failed", 100, 1)]), ["a", "failed"]);
    }
}
