//! Steps of a walk in which tasks are claimed, executed and ended.

use std::collections::BTreeSet;
use std::time::Duration;

use ostler::store::{CallLife, Claimed, FreeClaim, Lease, SlotClaim, StoreError};
use ostler::tasks::machine::{End, TaskEvent};
use ostler::tasks::{AttemptClass, Completion, Task, TaskId, TaskState, Verdict};
use rand::Rng;
use rand::seq::IndexedRandom;

use super::tasks_bench::*;
use super::tasks_walking::{CHATS, HOOKS, HOUR, Walk};

impl Walk<'_> {
    /// What was given is what should have been, in the order of waiting.
    fn note_claims(&mut self, before: &[Task], claimed: &[Claimed], experts: &[&str], lease: &Lease, most: usize) {
        let claimable = self.model.claimable(lease, experts);
        assert_eq!(claimed.len(), most.min(self.model.placed(&claimable)), "of {claimable:?}");
        let place = |id: TaskId| {
            let task = before.iter().find(|task| task.id == id).expect("it was there");
            let since = task.run_after.unwrap_or(task.state_since).max(task.state_since);
            (since.as_microsecond().div_euclid(1_000) - i64::from(task.priority) * 600_000, id)
        };
        assert!(claimed.is_sorted_by_key(|one| place(one.task.id)), "{claimed:?}");
        let given: BTreeSet<_> = claimed.iter().map(|one| one.task.id).collect();
        for one in claimed {
            let (id, expert) = (one.task.id, one.task.expert.clone());
            assert!(claimable[&expert].contains(&id), "task {id} of {expert} was not to be given");
            let passed_over =
                claimable[&expert].iter().find(|other| !given.contains(other) && place(**other) < place(id));
            assert_eq!(passed_over, None, "it waited longer than task {id}");
            assert_eq!(one.lease, *lease);
            assert!(self.model.happens(id, TaskEvent::Claim));
            let known = self.model.tasks.get_mut(&id).expect("known");
            known.lease = Some(lease.id);
            assert_eq!(known.life.epoch, one.task.epoch);
            self.model.claims.push((id, one.task.epoch));
        }
    }

    pub async fn claim_free(&mut self) -> String {
        let Some(lease) = self.workers_lease() else { return "nothing".to_owned() };
        let most = self.random.random_range(1..5);
        let before = self.all().await;
        let claim = FreeClaim { queues: served(&lease), most };
        let claimed = self.bench.store.claim_free(&claim).await.expect("claim");
        self.note_claims(&before, &claimed, &HOOKS, &lease, usize::try_from(most).expect("few"));
        format!("claim {:?} without slots under {lease:?}", ids(&claimed))
    }

    fn claim(&self, lease: &Lease, most: i32) -> SlotClaim {
        SlotClaim { slot_lease: HOUR, call_within: HOUR, ..slot_claim(lease, most) }
    }

    pub async fn claim_slots(&mut self) -> String {
        let Some(lease) = self.workers_lease() else { return "nothing".to_owned() };
        let most = self.random.random_range(1..5);
        let before = self.all().await;
        let answer = self.bench.store.claim_slots(&self.claim(&lease, most)).await.expect("claim");
        let free = self.model.limit.saturating_sub(self.model.slots.len());
        let claimed: Vec<_> = answer.given.iter().map(|(_, one)| one.clone()).collect();
        let most = usize::try_from(most).expect("few");
        self.note_claims(&before, &claimed, &CHATS, &lease, most.min(free));
        if claimed.len() < most {
            assert_eq!(answer.full, claimed.len() == free, "{answer:?} with {free} free");
        }
        assert!(!answer.closed);
        self.model.slots.extend(answer.given.iter().map(|(slot, _)| slot.clone()));
        format!("claim {:?} with slots under {lease:?}", given_ids(&answer))
    }

    pub async fn claim_next(&mut self) -> String {
        let (Some(lease), Some(slot)) = (self.workers_lease(), self.model.slots.choose(&mut self.random).cloned())
        else {
            return "nothing".to_owned();
        };
        let before = self.all().await;
        let holder = slot.holder.clone();
        let claim = SlotClaim { holder, ..self.claim(&lease, 1) };
        let claimed = self.bench.store.claim_next(&slot, &claim, CallLife::default()).await.expect("the slot is held");
        let fits = self.model.slots.len() <= self.model.limit;
        let claimed: Vec<_> = claimed.into_iter().collect();
        self.note_claims(&before, &claimed, &CHATS, &lease, usize::from(fits));
        format!("claim {:?} next", ids(&claimed))
    }

    pub async fn complete(&mut self) -> String {
        let mut batch = Vec::new();
        for _ in 0..self.random.random_range(1..5) {
            let recent = self.model.claims.iter().rev().take(8).copied().collect::<Vec<_>>();
            let Some(&(task, epoch)) = recent.choose(&mut self.random) else { break };
            let reason = "because".to_owned();
            let after = if self.chance(80) { Duration::ZERO } else { HOUR };
            let verdict = match self.random.random_range(0..10) {
                0..3 => done(),
                3..5 => Verdict::Retry { after, reason },
                5..7 => Verdict::Requeue { after, reason },
                7 => Verdict::Failed { reason },
                8 => Verdict::DeferredToHuman { reason },
                _ => Verdict::Cancelled { reason },
            };
            batch.push(Completion { task, epoch, verdict, attempt: attempt(AttemptClass::Ok) });
        }
        let mut wanted = Vec::new();
        for Completion { task, epoch, verdict, .. } in &batch {
            wanted.push(self.model.happens(*task, TaskEvent::End { epoch: *epoch, end: End::from(verdict) }));
        }
        assert_eq!(self.bench.store.complete(&batch).await.as_ref(), Ok(&wanted), "{batch:?}");
        format!("complete {batch:?}: {wanted:?}")
    }

    pub async fn hand_over(&mut self) -> String {
        let Some(&(id, epoch)) = self.model.claims.choose(&mut self.random) else { return "nothing".to_owned() };
        let answer = self.bench.store.hand_over(id, epoch, HOUR).await;
        let known = self.model.tasks.get_mut(&id);
        let known = known.filter(|known| known.life.state == TaskState::InProgress && known.life.epoch == epoch);
        match (known, answer) {
            (Some(known), Ok(lease)) => {
                known.lease = Some(lease.id);
                self.model.leases.insert(lease.id, (lease, false));
            }
            (None, Err(StoreError::Fenced(_))) => {}
            (known, answer) => panic!("{answer:?} for {known:?}"),
        }
        format!("hand task {id} over with epoch {epoch}")
    }
}
