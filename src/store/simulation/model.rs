//! A store small enough to be believed: maps, and the rules that the real ones use.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{
    Broken,
    home::{Answer, EXPERTS, Given, NAMESPACE, QUEUES, SeenTask, SimStore, lease_of, model_of, queue},
    people,
};
use crate::{
    store::{
        Fence, Lease, Reapable, Reaped, Served, ServerRow, Slot, SlotClaim, SlotPurpose, StoreError, TaskCommand,
        admit::{Decision, SlotRecord, decide, not_before, went_with},
        stamp::Stamp,
    },
    tasks::{
        Completion, NewTask, QueueKey, Task, TaskId, TaskState, Unassigned,
        assign::{AssignableExpert, QueueView, Roster},
        machine::{End, Life, TaskEvent, Transition, step},
    },
};

/// Of a leader.
const LEAD: Duration = Duration::from_secs(15);

pub struct ReferenceModel {
    broken: Option<Broken>,
    now: Stamp,
    leader: Option<(Fence, Stamp)>,
    epochs: i64,
    tasks: BTreeMap<TaskId, Task>,
    /// Whose claim a task is.
    claims: BTreeMap<TaskId, i64>,
    /// Until when, for which queue, and whose.
    leases: BTreeMap<i64, (Stamp, QueueKey, String)>,
    servers: BTreeMap<String, ServerRow>,
    slots: Vec<SlotRecord>,
    next_id: i64,
}

fn fenced<T>(why: &str) -> Answer<T> {
    Err(StoreError::Fenced(why.to_owned()))
}

impl ReferenceModel {
    pub fn new(broken: Option<Broken>, now: Stamp) -> Self {
        Self {
            broken,
            now,
            leader: None,
            epochs: 0,
            tasks: BTreeMap::new(),
            claims: BTreeMap::new(),
            leases: BTreeMap::new(),
            servers: BTreeMap::new(),
            slots: Vec::new(),
            next_id: 0,
        }
    }

    fn time(&self) -> Timestamp {
        self.now.into()
    }

    fn admits(&self, fence: &Fence) -> Answer<()> {
        match &self.leader {
            Some((leader, until)) if leader == fence && self.now < *until => Ok(()),
            _ => fenced("somebody else leads"),
        }
    }

    /// Does what the machine says; false when it refuses.
    fn happen(&mut self, id: TaskId, event: TaskEvent) -> bool {
        let now = self.time();
        let Some(task) = self.tasks.get_mut(&id) else { return false };
        let next = match step(&Life::of(task), event, now) {
            Err(_) => return false,
            Ok(Transition::Gone) => {
                self.tasks.remove(&id);
                return true;
            }
            Ok(Transition::Is(next)) => next,
        };
        if task.state != next.state {
            task.state_since = now;
        }
        task.state = next.state;
        (task.run_after, task.deadline) = (next.run_after, next.deadline);
        (task.attempts_used, task.free_requeues) = (next.attempts_used, next.free_requeues);
        task.leases_lost = if self.broken == Some(Broken::LossesUncounted) { 0 } else { next.leases_lost };
        (task.cycle, task.epoch) = (next.cycle, next.epoch);
        if task.state != TaskState::InProgress {
            self.claims.remove(&id);
        }
        true
    }

    fn of_lease(&self, lease: i64) -> Vec<TaskId> {
        self.claims.iter().filter(|(_, of)| **of == lease).map(|(id, _)| *id).collect()
    }

    fn running(&self, expert: &str) -> i64 {
        let runs = |t: &&Task| t.state == TaskState::InProgress && t.expert.as_deref() == Some(expert);
        i64::try_from(self.tasks.values().filter(runs).count()).unwrap_or(i64::MAX)
    }

    fn has_place(&self, expert: &str) -> bool {
        let most = EXPERTS.iter().find(|(name, ..)| *name == expert).map_or(0, |(_, most, ..)| *most);
        self.broken == Some(Broken::PlacesUncounted) || self.running(expert) < most
    }

    /// The lease in force that a claim has for the task's queue.
    fn lease_for<'c>(&self, claim: &'c SlotClaim, task: &Task) -> Option<&'c Lease> {
        let holds = |lease: &Lease| self.leases.get(&lease.id).is_some_and(|(end, ..)| self.now < *end);
        let mut served = claim.queues.iter().filter(|served| served.queue.name == task.queue);
        served.find(|served| holds(&served.lease)).map(|served| &served.lease)
    }

    /// Takes the next task.
    fn take_task(&mut self, claim: &SlotClaim) -> Option<Given> {
        let now = self.time();
        let goes = |t: &&Task| {
            let model = (t.namespace.clone(), t.assigned_model.clone().unwrap_or_default());
            matches!(step(&Life::of(t), TaskEvent::Claim, now), Ok(Transition::Is(_)))
                && claim.models.contains(&model)
                && t.expert.as_deref().is_some_and(|expert| self.has_place(expert))
                && self.lease_for(claim, t).is_some()
        };
        let next = self.tasks.values().filter(goes).min_by_key(|t| (-t.priority, t.id))?;
        let (id, lease) = (next.id, self.lease_for(claim, next)?.clone());
        self.happen(id, TaskEvent::Claim);
        self.claims.insert(id, lease.id);
        Some((self.tasks[&id].clone().into(), lease))
    }

    fn rows(&self, url: &str) -> Vec<SlotRecord> {
        let mut rows: Vec<SlotRecord> = self.slots.iter().filter(|slot| slot.server_url == url).cloned().collect();
        if self.broken == Some(Broken::LapsedSlotsFree) {
            rows.iter_mut().for_each(|row| row.call_ends_at = row.lease_expires_at);
        }
        rows
    }

    /// A slot of the server and a task, by the rules of the real stores.
    fn take(&mut self, claim: &SlotClaim) -> Option<(Slot, Given)> {
        let server = self.servers.get(&claim.server_url)?.clone();
        let rows = self.rows(&server.url);
        let Decision::Give { number, epoch } = decide(&server, &rows, SlotPurpose::Call, self.now) else { return None };
        let given = self.take_task(claim)?;
        self.slots.retain(|slot| slot.server_url != server.url || slot.number != number);
        self.slots.push(SlotRecord {
            server_url: server.url.clone(),
            number,
            holder: claim.holder.clone(),
            epoch,
            purpose: "Call".into(),
            class: Some("Batch".into()),
            caller: None,
            model: None,
            taken_at: self.now,
            lease_expires_at: self.now.after(claim.slot_lease),
            call_ends_at: self.now.after(claim.call_within),
            call_began_at: None,
            last_byte_at: None,
            outlives_client: false,
            instance: server.instance.clone(),
            aborted: false,
            frees_at: None,
        });
        Some((Slot { server_url: server.url, number, holder: claim.holder.clone(), epoch }, given))
    }

    fn slot(&mut self, slot: &Slot) -> Option<&mut SlotRecord> {
        self.slots.iter_mut().find(|row| row.server_url == slot.server_url && row.number == slot.number)
    }
}

impl SimStore for ReferenceModel {
    fn set_clock(&mut self, now: Stamp) {
        self.now = now;
    }

    fn campaign(&mut self, holder: &str) -> Answer<Option<Fence>> {
        let until = self.now.after(LEAD);
        match &mut self.leader {
            Some((fence, end)) if self.now < *end && fence.holder != holder => return Ok(None),
            Some((fence, end)) if self.now < *end => {
                *end = until;
                return Ok(Some(fence.clone()));
            }
            _ => {}
        }
        self.epochs += 1;
        let fence = Fence { holder: holder.to_owned(), epoch: self.epochs };
        self.leader = Some((fence.clone(), until));
        Ok(Some(fence))
    }

    fn insert(&mut self, tasks: &[NewTask]) -> Answer<Vec<TaskId>> {
        let mut ids = Vec::new();
        for new in tasks {
            self.next_id += 1;
            let life = Life::new(new.run_after, new.deadline);
            self.tasks.insert(self.next_id, people::task(self.next_id, new, &life, self.time()));
            ids.push(self.next_id);
        }
        Ok(ids)
    }

    fn assign(&mut self, fence: &Fence) -> Answer<()> {
        self.admits(fence)?;
        if !self.tasks.values().any(|t| t.state == TaskState::Pending && t.assignment_reason.is_none()) {
            return Ok(());
        }
        let load = |name: &str| {
            let live = |t: &&Task| !t.state.is_terminal() && t.expert.as_deref() == Some(name);
            i64::try_from(self.tasks.values().filter(live).count()).unwrap_or(i64::MAX)
        };
        let expert = |(name, _, domain, model): &(&str, i64, &str, &str)| AssignableExpert {
            namespace: NAMESPACE.into(),
            name: (*name).into(),
            domains: vec![(*domain).into()],
            model: Some((*model).into()),
            load: load(name),
            ..AssignableExpert::default()
        };
        let experts = EXPERTS.iter().map(expert).collect();
        let nobody = self.tasks.values().filter(|t| t.state == TaskState::Pending && t.assignment_reason.is_none());
        let unassigned: Vec<Unassigned> = nobody
            .map(|t| Unassigned {
                id: t.id,
                queue: QueueKey { namespace: NAMESPACE.into(), name: t.queue.clone() },
                domain: t.domain.clone(),
                role: t.role.clone(),
                model: None,
                expert: t.expert.clone(),
            })
            .collect();
        let queues = (0..QUEUES.len())
            .map(|index| QueueView { key: queue(index), default_expert: None, claimed_by: Default::default() })
            .collect();
        for given in Roster::new(experts, queues).assign(&unassigned).assignments {
            let Some(task) = self.tasks.get_mut(&given.task) else { continue };
            (task.expert, task.assigned_model) = (Some(given.expert), given.model);
            task.assignment_reason = Some(given.reason.to_owned());
        }
        Ok(())
    }

    fn put_server(&mut self, fence: &Fence, server: &ServerRow, running_for: Option<Duration>) -> Answer<()> {
        self.admits(fence)?;
        let before = self.servers.insert(server.url.clone(), server.clone()).and_then(|before| before.instance);
        if let (true, Some(instance), Some(began)) =
            (before != server.instance, &server.instance, not_before(running_for, self.now))
        {
            let of = |slot: &&mut SlotRecord| slot.server_url == server.url && went_with(slot, instance, began);
            self.slots.iter_mut().filter(of).for_each(|slot| slot.frees_at = Some(self.now));
        }
        Ok(())
    }

    fn reap(&mut self, fence: &Fence, reapable: &Reapable) -> Answer<Reaped> {
        self.admits(fence)?;
        let mut reaped = Reaped::default();
        let goes = |queue: &QueueKey| match reapable {
            Reapable::Of(queues) => queues.contains(queue),
            Reapable::All => true,
        };
        let lapsed = self.leases.iter().filter(|(_, (end, queue, _))| *end <= self.now && goes(queue));
        let lapsed: Vec<i64> = lapsed.map(|(id, _)| *id).collect();
        for lease in lapsed {
            self.leases.remove(&lease);
            reaped.leases += 1;
            for id in self.of_lease(lease) {
                self.happen(id, TaskEvent::LeaseLost);
            }
        }
        for id in self.tasks.keys().copied().collect::<Vec<_>>() {
            reaped.expired += u64::from(self.happen(id, TaskEvent::DeadlinePassed));
        }
        Ok(reaped)
    }

    fn open_lease(&mut self, holder: &str, index: usize) -> Answer<Served> {
        self.next_id += 1;
        self.leases.insert(self.next_id, (self.now.after(QUEUES[index].1), queue(index), holder.to_owned()));
        Ok(Served { queue: queue(index), lease: Lease { id: self.next_id, holder: holder.to_owned() } })
    }

    fn renew_lease(&mut self, served: &Served) -> Answer<bool> {
        let until = self.now.after(lease_of(&served.queue));
        let Some((end, ..)) = self.leases.get_mut(&served.lease.id) else { return Ok(false) };
        *end = until;
        Ok(true)
    }

    fn close_lease(&mut self, lease: &Lease) -> Answer<()> {
        if self.leases.remove(&lease.id).is_some() {
            for id in self.of_lease(lease.id) {
                self.happen(id, TaskEvent::LeaseClosed);
            }
        }
        Ok(())
    }

    fn claim(&mut self, claim: &SlotClaim) -> Answer<Vec<(Slot, Given)>> {
        Ok((0..claim.most).map_while(|_| self.take(claim)).collect())
    }

    fn claim_next(&mut self, slot: &Slot, claim: &SlotClaim) -> Answer<Option<Given>> {
        let now = self.now;
        let Some(server) = self.servers.get(&slot.server_url).cloned() else { return fenced("no such server") };
        let mut rows = self.rows(&slot.server_url);
        let Some(own) = rows.iter().position(|row| row.number == slot.number) else { return fenced("no such slot") };
        rows.remove(own).renewable(slot, now)?;
        if matches!(decide(&server, &rows, SlotPurpose::Call, now), Decision::Refuse(_)) {
            return Ok(None);
        }
        let Some(given) = self.take_task(claim) else { return Ok(None) };
        if let Some(row) = self.slot(slot) {
            row.lease_expires_at = now.after(claim.slot_lease);
            row.call_ends_at = now.after(claim.call_within).max(row.call_ends_at);
            row.instance = server.instance;
        }
        Ok(Some(given))
    }

    fn renew_slot(&mut self, slot: &Slot, lease: Duration) -> Answer<()> {
        let (now, until) = (self.now, self.now.after(lease));
        let Some(row) = self.slot(slot) else { return fenced("no such slot") };
        row.renewable(slot, now)?;
        row.lease_expires_at = until;
        Ok(())
    }

    fn release_slot(&mut self, slot: &Slot, linger: Duration) -> Answer<()> {
        let until = self.now.after(linger);
        if let Some(row) = self.slot(slot).filter(|row| row.holder == slot.holder && row.epoch == slot.epoch) {
            row.frees_at.get_or_insert(until);
        }
        Ok(())
    }

    fn free_holder(&mut self, holder: &str, linger: Duration) -> Answer<()> {
        let now = self.now;
        let held = |slot: &&mut SlotRecord| slot.holder == holder && slot.frees_at.is_none() && slot.is_occupied(now);
        self.slots.iter_mut().filter(held).for_each(|slot| slot.frees_at = Some(now.after(linger)));
        let own = |of: &str| of.split('+').next() == Some(holder);
        let leases: Vec<i64> = self.leases.iter().filter(|(_, (_, _, of))| own(of)).map(|(id, _)| *id).collect();
        for lease in leases {
            self.leases.remove(&lease);
            for id in self.of_lease(lease) {
                self.happen(id, TaskEvent::LeaseLost);
            }
        }
        Ok(())
    }

    fn complete(&mut self, completion: &Completion) -> Answer<bool> {
        let is = self.tasks.get(&completion.task).map(|task| task.epoch);
        let epoch = match (self.broken, is) {
            (Some(Broken::EpochIgnored), Some(is)) => is,
            _ => completion.epoch,
        };
        Ok(self.happen(completion.task, TaskEvent::End { epoch, end: End::from(&completion.verdict) }))
    }

    fn lost_claims(&mut self, claims: &[(TaskId, i64)]) -> Answer<Vec<TaskId>> {
        let ours = |id: &TaskId, epoch: i64| {
            self.tasks.get(id).is_some_and(|t| t.state == TaskState::InProgress && t.epoch == epoch)
        };
        Ok(claims.iter().filter(|(id, epoch)| !ours(id, *epoch)).map(|(id, _)| *id).collect())
    }

    fn command(&mut self, task: TaskId, command: &TaskCommand) -> Answer<bool> {
        let (event, ..) = command.applies_to();
        let done = self.happen(task, event);
        if let (true, TaskCommand::Reassign { expert, .. }, Some(task)) = (done, command, self.tasks.get_mut(&task)) {
            (task.expert, task.assigned_model) = (Some(expert.clone()), model_of(expert).map(str::to_owned));
            task.assignment_reason = Some("reassigned".into());
        }
        Ok(done)
    }

    fn occupancy(&mut self) -> Answer<Vec<(String, i64)>> {
        let count = |server: &ServerRow| {
            let of = |s: &&SlotRecord| s.server_url == server.url && s.is_occupied(self.now);
            i64::try_from(self.slots.iter().filter(of).count()).unwrap_or(i64::MAX)
        };
        Ok(self.servers.values().map(|server| (server.url.clone(), count(server))).collect())
    }

    fn lives(&mut self) -> Vec<SeenTask> {
        self.tasks.values().map(SeenTask::of).collect()
    }
}
