//! What a signed request must be beside signed: new, and of a leader that no other has followed. Pure.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::gate::Refused;
use crate::host::{Action, AgentRefusal, HoldOwner, OperationRequest, sign};

/// Ids of signed requests, kept for as long as their timestamps could still be accepted.
#[derive(Debug, Default)]
pub struct Replays {
    seen: HashMap<String, Timestamp>,
}

/// A timestamp may be five minutes ahead, and is accepted until five minutes after: ten in all.
pub const REPLAY_MEMORY: SignedDuration = SignedDuration::from_secs(2 * sign::TOLERANCE_SECONDS);

impl Replays {
    /// What a restart of the agent brings back.
    pub fn restore(ids: impl IntoIterator<Item = (String, Timestamp)>, now: Timestamp) -> Self {
        let mut replays = Self { seen: ids.into_iter().collect() };
        replays.forget_old(now);
        replays
    }

    fn forget_old(&mut self, now: Timestamp) {
        self.seen.retain(|_, &mut at| now.duration_since(at) <= REPLAY_MEMORY);
    }

    /// Takes an id once.
    pub fn take(&mut self, id: &str, now: Timestamp) -> Result<(), Refused> {
        self.forget_old(now);
        if self.seen.contains_key(id) {
            return Err(Refused::new(
                AgentRefusal::ReplayedId,
                format!("request {id} came before: a retry signs anew, with a new id and the same Idempotency-Key"),
            ));
        }
        self.seen.insert(id.to_owned(), now);
        Ok(())
    }

    pub fn ids(&self) -> impl Iterator<Item = (&String, &Timestamp)> {
        self.seen.iter()
    }

    pub fn len(&self) -> usize {
        self.seen.len()
    }
}

/// Whose leader a request says it comes from: installation and epoch headers as they stand there.
pub fn caller(installation: Option<&str>, epoch: Option<&str>) -> Result<Option<(Uuid, i64)>, Refused> {
    let bad = |what: &str| {
        Refused::new(
            AgentRefusal::BadRequest,
            format!("{what}: send Ostler-Installation (a UUID) and Ostler-Epoch (an integer) together"),
        )
    };
    match (installation, epoch) {
        (None, None) => Ok(None),
        (Some(installation), Some(epoch)) => Ok(Some((
            installation.parse().map_err(|_| bad("the installation is no UUID"))?,
            epoch.parse().map_err(|_| bad("the epoch is no integer"))?,
        ))),
        _ => Err(bad("one of two headers is missing")),
    }
}

/// The highest epoch that was heard of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochHeard {
    pub epoch: i64,
    pub at: Timestamp,
}

/// No installation changes its leader so often.
const MAX_EPOCH: i64 = 1_000_000_000;
const MAX_JUMP: i64 = 1_000_000;
/// A leader renews its care each ten seconds, and a request that it signed holds for five minutes: a leader that was not heard for
/// longer is none, and whoever used a made-up epoch locks nobody out for ever.
pub const EPOCH_MEMORY: SignedDuration = REPLAY_MEMORY;

/// Refuses a leader that another has followed. Returns whether the epoch is another one than was kept.
pub fn check_epoch(
    highest: &BTreeMap<Uuid, EpochHeard>,
    (installation, epoch): (Uuid, i64),
    now: Timestamp,
) -> Result<bool, Refused> {
    let seen = highest.get(&installation);
    let most = seen.map_or(MAX_EPOCH, |seen| seen.epoch.saturating_add(MAX_JUMP).min(MAX_EPOCH));
    if !(0..=most).contains(&epoch) {
        let why = format!(
            "epoch {epoch} of installation {installation} can't be: it is counted one by one, up to {most} by now"
        );
        return Err(Refused::new(AgentRefusal::BadRequest, why));
    }
    match seen {
        Some(seen) if epoch < seen.epoch && now.duration_since(seen.at) <= EPOCH_MEMORY => Err(Refused::new(
            AgentRefusal::LowerEpoch,
            format!("epoch {epoch} of installation {installation} is over: {} was seen", seen.epoch),
        )),
        Some(seen) => Ok(epoch != seen.epoch),
        None => Ok(true),
    }
}

/// Without a leader's epoch only a person may ask for something, so that a late leader can't leave it out.
pub fn may_omit_epoch(request: &OperationRequest) -> bool {
    match request.owner {
        Some(owner) => owner == HoldOwner::Person,
        None => request.action != Action::Restart,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-03-01T02:00:00Z".parse().unwrap()
    }

    fn ago(seconds: i64) -> Timestamp {
        now() - SignedDuration::from_secs(seconds)
    }

    #[test]
    fn an_id_is_taken_once_in_ten_minutes_also_after_a_restart() {
        let mut replays = Replays::default();
        replays.take("a", now()).unwrap();
        assert_eq!(replays.take("a", now()).unwrap_err().reason, AgentRefusal::ReplayedId);
        let kept: Vec<_> = replays.ids().map(|(i, t)| (i.clone(), *t)).collect();
        let mut restored = Replays::restore(kept.clone(), ago(-600));
        assert!(restored.take("a", ago(-600)).is_err(), "600 s later");
        let mut late = Replays::restore(kept, ago(-601));
        assert_eq!(late.len(), 0);
        late.take("a", ago(-601)).unwrap();
    }

    #[test]
    fn an_epoch_only_rises_for_each_installation_by_itself() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let seen = BTreeMap::from([(a, EpochHeard { epoch: 7, at: now() })]);
        let check = |caller, at| check_epoch(&seen, caller, at).map_err(|refused| refused.reason);
        assert_eq!(check((a, 7), now()), Ok(false));
        assert_eq!(check((a, 8), now()), Ok(true));
        assert_eq!(check((b, 1), now()), Ok(true));
        assert_eq!(check((a, 6), now()), Err(AgentRefusal::LowerEpoch));
        assert_eq!(check((a, 6), ago(-600)), Err(AgentRefusal::LowerEpoch));
        assert_eq!(check((a, 6), ago(-601)), Ok(true), "nobody was heard since");
        for epoch in [i64::MIN, -1, 7 + MAX_JUMP + 1, i64::MAX] {
            assert_eq!(check((a, epoch), now()), Err(AgentRefusal::BadRequest), "{epoch}");
            assert!(epoch == 7 + MAX_JUMP + 1 || check((b, epoch), now()) == Err(AgentRefusal::BadRequest), "{epoch}");
        }
        assert_eq!(caller(Some("x"), Some("1")).unwrap_err().reason, AgentRefusal::BadRequest);
        assert_eq!(caller(None, Some("1")).unwrap_err().reason, AgentRefusal::BadRequest);
        assert_eq!(caller(None, None), Ok(None));
    }

    #[test]
    fn only_a_person_may_leave_the_epoch_out() {
        let ask = |action, owner| may_omit_epoch(&OperationRequest { owner, ..OperationRequest::new("s", action, "") });
        assert!(ask(Action::Stop, None));
        assert!(ask(Action::Restart, Some(HoldOwner::Person)));
        assert!(!ask(Action::Restart, None));
        assert!(!ask(Action::Hold, Some(HoldOwner::Suspend)));
    }

    proptest! {
        #[test]
        fn no_id_is_ever_taken_twice_within_ten_minutes(asked in prop::collection::vec((0u8..4, 0i64..200), 1..60)) {
            let mut replays = Replays::default();
            let mut taken: HashMap<u8, Timestamp> = HashMap::new();
            let mut clock = now();
            for (id, step) in asked {
                clock += SignedDuration::from_secs(step);
                let fresh = taken.get(&id).is_none_or(|&at| clock.duration_since(at) > REPLAY_MEMORY);
                prop_assert_eq!(replays.take(&id.to_string(), clock).is_ok(), fresh);
                if fresh { taken.insert(id, clock); }
            }
        }
    }
}
