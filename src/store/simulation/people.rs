//! What happens to the others: tasks come in, people give commands, messages come late, machines fail.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rand::Rng;

use super::{
    Fault, HOURS, START, Simulation, Trouble,
    home::{NAMESPACE, QUEUES},
};
use crate::{
    store::TaskCommand,
    tasks::{NewTask, Payload, Task, machine::Life},
};

impl Simulation<'_> {
    pub fn people(&mut self) -> Result<(), Fault> {
        let live = self.watch.tasks().filter(|t| !t.life.state.is_terminal()).count();
        if live < 4 || (live < 12 && self.between(0, 100) < 60) {
            let tasks: Vec<NewTask> = (0..self.between(1, 4)).map(|_| self.new_task()).collect();
            self.watch.inserted += tasks.len();
            self.home.insert(&tasks)?;
            return self.check(false);
        }
        let ended: Vec<_> = self.watch.tasks().filter(|t| t.life.state.is_terminal()).map(|t| t.id).collect();
        if ended.len() > 6 {
            for id in &ended[..3] {
                self.home.command(*id, &TaskCommand::Purge)?;
            }
            return self.check(true);
        }
        if self.trouble == Trouble::Sleep {
            return Ok(());
        }
        let ids: Vec<_> = self.watch.tasks().map(|t| t.id).collect();
        let id = ids[self.random.random_range(0..ids.len())];
        let command = match self.between(0, 8) {
            0 => TaskCommand::Cancel,
            1 => TaskCommand::Retry,
            2 | 3 => TaskCommand::Resume,
            4 => TaskCommand::Reassign { expert: "igor".into(), model: None },
            5 => TaskCommand::Close,
            _ => TaskCommand::Purge,
        };
        self.home.command(id, &command)?;
        self.check(true)
    }

    fn new_task(&mut self) -> NewTask {
        let deadline = self.chance(10).then(|| Timestamp::from_millisecond(START + self.now + 120_000).ok()).flatten();
        NewTask {
            namespace: NAMESPACE.into(),
            queue: QUEUES[usize::from(self.between(0, 100) < 30)].0.into(),
            domain: if self.between(0, 100) < 25 { "v" } else { "d" }.into(),
            payload: Payload { prompt: Some("p".into()), ..Payload::default() },
            priority: i32::try_from(self.between(-2, 3)).unwrap_or(0),
            deadline,
            ..NewTask::default()
        }
    }

    /// A message that was on its way for long, and has been answered already.
    pub fn echo(&mut self) -> Result<(), Fault> {
        if self.echoes.is_empty() || self.trouble == Trouble::Sleep {
            return Ok(());
        }
        let index = self.random.random_range(0..self.echoes.len());
        let completion = self.echoes.swap_remove(index);
        match self.complete(&completion) {
            Err(Fault::Broken(why)) => Err(Fault::Broken(why)),
            _ => Ok(()),
        }
    }

    pub fn disaster(&mut self) {
        if self.trouble == Trouble::Sleep {
            if self.between(0, 100) < 30 {
                self.pass(HOURS);
            }
            return;
        }
        if self.trouble == Trouble::Deaths {
            let who = usize::try_from(self.between(0, 3)).unwrap_or(0);
            self.kill(who);
            return;
        }
        let who = self.between(0, 3);
        let engine = usize::try_from(who % 2).unwrap_or(0);
        let actor = usize::try_from(who).unwrap_or(0);
        if self.trouble == Trouble::Restarts {
            if self.between(0, 2) == 0 {
                self.engines[engine].crash(true, self.now);
            } else {
                self.workers[actor].away_until = self.now + self.between(30_000, 60_000);
            }
            return;
        }
        match self.between(0, 14) {
            0..2 => self.kill(actor),
            // SIGSTOP, for less than a lease or for more.
            2..5 => self.workers[actor].away_until = self.now + self.between(1_000, 200_000),
            5..7 => self.leaders[engine].away_until = self.now + self.between(1_000, 120_000),
            7..10 => self.engines[engine].crash(true, self.now),
            10 => self.engines[engine].crash(false, self.now),
            11 | 12 => self.repair(),
            _ => self.pass(HOURS),
        }
    }
}

/// A task as it was just given in.
pub fn task(id: i64, new: &NewTask, life: &Life, now: Timestamp) -> Task {
    Task {
        id,
        namespace: new.namespace.clone(),
        queue: new.queue.clone(),
        domain: new.domain.clone(),
        role: new.role.clone(),
        payload: new.payload.clone(),
        model: new.model.clone(),
        priority: new.priority,
        run_after: life.run_after,
        deadline: life.deadline,
        key: None,
        labels: BTreeMap::new(),
        state: life.state,
        created_at: now,
        state_since: now,
        expert: None,
        assignment_reason: None,
        candidates: Vec::new(),
        assigned_model: None,
        attempts_used: 0,
        free_requeues: 0,
        leases_lost: 0,
        cycle: life.cycle,
        epoch: life.epoch,
        reason: None,
        attempts: Vec::new(),
        result: None,
    }
}
