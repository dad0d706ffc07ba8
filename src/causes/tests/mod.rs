//! Tables of worlds, and what must hold of any.

mod deriving;
mod following;
mod invariants;
mod telling;
mod wording;

use jiff::{SignedDuration, Timestamp};

use super::{
    Audience, CauseClass, CauseFact, CauseFacts, CauseHealth, CauseSeverity, CauseTrouble, Delivery, KnownCause,
    Letter, LetterItem, WhoActs, derive, due, follow,
};
use crate::api::{Kind, ObjectKey};

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "default", name)
}

pub fn unwell(acts: WhoActs, since: i64) -> CauseHealth {
    CauseHealth::Unwell(CauseTrouble {
        class: CauseClass::Down,
        acts,
        since: Some(at(since)),
        reason: "Refused".into(),
        message: "connection refused".into(),
        tried: Vec::new(),
        next: String::new(),
        silent: true,
    })
}

pub fn fact(kind: Kind, name: &str, health: CauseHealth, points_to: &[ObjectKey]) -> CauseFact {
    CauseFact { points_to: points_to.to_vec(), ..CauseFact::new(key(kind, name), health) }
}

/// A backend of a host.
pub fn backend(name: &str, host: &str, health: CauseHealth) -> CauseFact {
    CauseFact { host: Some(host.into()), ..fact(Kind::LLMBackend, name, health, &[]) }
}

pub fn all(objects: Vec<CauseFact>) -> CauseFacts {
    CauseFacts { objects, open: Default::default() }
}

pub fn everybody() -> Audience {
    Audience {
        uid: "n".into(),
        namespace: None,
        min_severity: CauseSeverity::Critical,
        repeat: SignedDuration::from_hours(4),
        quiet: None,
    }
}

/// A leader that looks every five seconds, and a Notifier that is told at once.
pub struct TestLeader {
    pub causes: Vec<KnownCause>,
    pub deliveries: Vec<Delivery>,
    pub audience: Audience,
    /// What was sent, in headlines.
    pub sent: Vec<String>,
    pub now: Timestamp,
    /// How often something was written.
    pub writes: usize,
    /// Messages don't arrive.
    pub deaf: bool,
    /// Seconds between two looks.
    pub period: i64,
}

impl TestLeader {
    pub fn new(audience: Audience) -> Self {
        let (causes, deliveries, sent) = (Vec::new(), Vec::new(), Vec::new());
        Self { causes, deliveries, audience, sent, now: at(0), writes: 0, deaf: false, period: 5 }
    }

    /// One pass over these facts.
    pub fn look(&mut self, objects: &[CauseFact]) {
        let now = self.now;
        let open = self.causes.iter().filter(|k| k.cause.is_open()).map(|k| k.cause.key.clone()).collect();
        let facts = CauseFacts { objects: objects.to_vec(), open };
        let known: Vec<_> = self.causes.iter().map(|k| k.cause.clone()).collect();
        let changed = follow(&known, &derive(&facts, now), &facts, now);
        for cause in &changed {
            match self.causes.iter_mut().find(|k| (&k.cause.key, k.cause.opened_at) == (&cause.key, cause.opened_at)) {
                Some(known) => {
                    known.acknowledged = known.acknowledged.take().filter(|_| cause.is_open());
                    known.cause = cause.clone();
                }
                None => self.causes.push(KnownCause { cause: cause.clone(), acknowledged: None }),
            }
        }
        let due = due(&self.audience, &self.causes, &self.deliveries, now);
        self.writes += usize::from(!changed.is_empty() || !due.is_empty());
        due.into_iter().for_each(|delivery| self.put(delivery));
        self.send();
        self.now = now + SignedDuration::from_secs(self.period);
    }

    /// The same world for so many seconds.
    pub fn look_for(&mut self, seconds: i64, objects: &[CauseFact]) {
        let until = self.now + SignedDuration::from_secs(seconds);
        while self.now < until {
            self.look(objects);
        }
    }

    fn put(&mut self, delivery: Delivery) {
        let same = |d: &&mut Delivery| (&d.cause, d.opened_at) == (&delivery.cause, delivery.opened_at);
        match self.deliveries.iter_mut().find(same) {
            Some(before) => *before = delivery,
            None => self.deliveries.push(delivery),
        }
    }

    fn send(&mut self) {
        let ready: Vec<Delivery> =
            self.deliveries.iter().filter(|d| d.due.is_some() && d.not_before <= self.now).cloned().collect();
        if ready.is_empty() {
            return;
        }
        if self.deaf {
            let failed: Vec<_> = ready.iter().map(|d| d.failed("HTTP 500", None, false, self.now)).collect();
            failed.into_iter().for_each(|delivery| self.put(delivery));
            return;
        }
        let items = ready.iter().filter_map(|d| {
            let known = self.causes.iter().find(|k| (&k.cause.key, k.cause.opened_at) == (&d.cause, d.opened_at))?;
            Some(LetterItem { telling: d.due?, due_at: d.due_at, cause: known.cause.clone() })
        });
        let letter = Letter { at: self.now, items: items.collect() };
        self.sent.push(letter.words().subject);
        let sent: Vec<_> = ready.iter().map(|d| d.sent(self.now)).collect();
        sent.into_iter().for_each(|delivery| self.put(delivery));
    }
}
