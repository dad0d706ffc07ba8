//! The queue and its limits, simulated with seeds: several workers and leaders over a store, all of whom crash, freeze, sleep, lose
//! messages and repeat them. After each step everything is checked that must hold, whatever crashes.
//!
//! A failure prints its seed: `OSTLER_SEED=17 cargo test --lib simulation` plays that one again. `OSTLER_RUNS=100000` plays more.

mod checks;
mod engine;
mod home;
mod lanes;
mod leaders;
mod model;
mod people;
mod runs;
mod sqlite;
mod workers;

use std::collections::BTreeMap;

use jiff::Timestamp;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::stamp::Stamp;
use crate::{
    api::Overflow,
    tasks::{
        Completion, TaskState,
        route::{self, Route, Server},
    },
};
use checks::Watch;
use engine::{Millis, SeenCall, SimEngine};
use home::{Answer, BIG, NAMESPACE, SMALL, SimStore};
use lanes::SimLane;
use leaders::SimLeader;
use workers::SimWorker;

const LIMITS: [i32; 2] = [2, 3];
const START: i64 = 1_760_000_000_000;
const HOURS: Millis = 8 * 3_600_000;

/// A rule that is broken on purpose, to see that somebody notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    EpochIgnored,
    LapsedSlotsFree,
    PlacesUncounted,
    LossesUncounted,
    /// A call may outlast its time, and be sent when it is over.
    SendsLate,
    /// A call is sent in a slot whose lease may have lapsed.
    SendsUnsure,
    /// A slot that lapsed is free as soon as any other process listens at the server.
    AnyInstanceFrees,
    /// Nobody minds that a claim was not answered.
    ClaimsUndoubted,
    NoPatience,
    /// What a dead process held is free before engines have noticed that it is dead.
    DeadFreeAtOnce,
    /// What a dead process held is free although an engine that notices nothing computes on.
    DeadFreeBlindly,
}

/// Why an actor's turn ended early.
#[derive(Debug)]
enum Fault {
    /// It died there; what it asked for happened or not.
    Crashed,
    /// No answer came; what it asked for happened or not.
    Unclear,
    /// The store said no: a lost lead, a lost slot.
    Refused,
    /// Something does not hold.
    Broken(String),
}

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Everything,
    /// The machine sleeps, and nothing else.
    Sleep,
    /// Engines are restarted again and again, and workers stand still past their slots' leases, but not past their own.
    Restarts,
    /// Workers die again and again, and others on their machine know it at once.
    Deaths,
}

struct Simulation<'h> {
    home: &'h mut dyn SimStore,
    random: StdRng,
    now: Millis,
    broken: Option<Broken>,
    trouble: Trouble,
    /// Nothing goes wrong any more.
    calm: bool,
    /// Whose it was, where workers take turns.
    turn: usize,
    engines: Vec<SimEngine>,
    /// In force.
    limits: Vec<i32>,
    /// Completions that were answered, and may arrive once more.
    echoes: Vec<Completion>,
    workers: Vec<SimWorker>,
    leaders: Vec<SimLeader>,
    /// Workers that others on their machine know to be dead.
    known_dead: Vec<String>,
    /// Calls that engines do not notice to be given up: by whom, where, which.
    given_up: Vec<(String, usize, u64)>,
    watch: Watch,
}

impl<'h> Simulation<'h> {
    fn new(home: &'h mut dyn SimStore, seed: u64, broken: Option<Broken>, trouble: Trouble) -> Self {
        let mut simulation = Self {
            home,
            random: StdRng::seed_from_u64(seed),
            now: 1_000_000,
            broken,
            trouble,
            calm: false,
            turn: 0,
            engines: vec![
                SimEngine::new("http://mlx", false, &[SMALL]),
                SimEngine::new("http://ollama", true, &[SMALL, BIG]),
            ],
            limits: vec![0, 0],
            echoes: Vec::new(),
            workers: Vec::new(),
            leaders: vec![SimLeader::new("leader-a"), SimLeader::new("leader-b")],
            known_dead: Vec::new(),
            given_up: Vec::new(),
            watch: Watch::default(),
        };
        simulation.workers = (0..3).map(|number| simulation.new_worker(number, 1)).collect();
        simulation.pass(0);
        simulation
    }

    fn between(&mut self, from: Millis, to: Millis) -> Millis {
        self.random.random_range(from..to)
    }

    /// In percent.
    fn chance(&mut self, percent: Millis) -> bool {
        self.trouble == Trouble::Everything && !self.calm && self.between(0, 100) < percent
    }

    /// By the database's clock.
    fn time(&self) -> Timestamp {
        self.time_ahead(0)
    }

    fn time_ahead(&self, skew: Millis) -> Timestamp {
        Timestamp::from_millisecond(START + self.now + skew).unwrap_or_default()
    }

    /// Its clock runs up to a hundredth faster or slower than the database's, and may be hours apart.
    fn new_worker(&mut self, number: usize, lives: u32) -> SimWorker {
        let (drift, skew) = (self.between(-10, 11), self.between(-HOURS, HOURS));
        SimWorker::new(number, lives, drift, skew)
    }

    fn pass(&mut self, millis: Millis) {
        self.now += millis;
        let now: Stamp = self.time().into();
        self.home.set_clock(now);
    }

    /// As [`Simulation::ask`], for what touches no task.
    fn read<T>(&mut self, what: impl FnOnce(&mut dyn SimStore) -> Answer<T>) -> Result<T, Fault> {
        if self.chance(2) {
            return Err(if self.chance(50) { Fault::Crashed } else { Fault::Unclear });
        }
        let answer = what(self.home);
        if self.chance(2) {
            return Err(if self.chance(50) { Fault::Crashed } else { Fault::Unclear });
        }
        Ok(answer?)
    }

    /// As [`Simulation::read`], for a message that may come twice.
    fn twice<T>(&mut self, mut what: impl FnMut(&mut dyn SimStore) -> Answer<T>) -> Result<T, Fault> {
        if self.chance(3) {
            self.read(&mut what)?;
        }
        self.read(what)
    }

    /// Asks the store for something, with all that can happen to a message on its way and to who sent it.
    fn ask<T>(&mut self, what: impl FnOnce(&mut dyn SimStore) -> Answer<T>) -> Result<T, Fault> {
        if self.chance(2) {
            return Err(if self.chance(50) { Fault::Crashed } else { Fault::Unclear });
        }
        let answer = what(self.home);
        self.check(false)?;
        if self.chance(2) {
            return Err(if self.chance(50) { Fault::Crashed } else { Fault::Unclear });
        }
        Ok(answer?)
    }

    fn complete(&mut self, completion: &Completion) -> Result<(), Fault> {
        let (id, epoch) = (completion.task, completion.epoch);
        if self.chance(2) {
            return Err(if self.chance(50) { Fault::Crashed } else { Fault::Unclear });
        }
        let changed = self.home.complete(completion)?;
        let after = self.home.lives();
        self.watch.completed(id, epoch, changed, &after).map_err(Fault::Broken)?;
        self.check(false)?;
        if self.chance(2) { Err(Fault::Crashed) } else { Ok(()) }
    }

    fn check(&mut self, by_person: bool) -> Result<(), Fault> {
        let lives = self.home.lives();
        self.watch.look(lives, by_person).map_err(Fault::Broken)?;
        for worker in self.workers.iter().filter(|w| !w.is_dead) {
            for job in worker.jobs().filter(|job| worker.holds(job.lease, self.now)) {
                self.watch.believed(&worker.name(), job.task.id, job.task.epoch).map_err(Fault::Broken)?;
            }
        }
        Ok(())
    }

    /// The engines that may be asked now and for what, by the rule of routes.
    fn routed(&mut self) -> Result<Vec<(usize, Vec<String>)>, Fault> {
        let occupied: BTreeMap<String, i64> = self.read(|home| home.occupancy())?.into_iter().collect();
        let server = |(index, engine): (usize, &SimEngine)| {
            let server = Server {
                namespace: NAMESPACE.into(),
                name: engine.url.clone(),
                url: engine.url.clone(),
                priority: i32::try_from(index).unwrap_or(0),
                ready: false,
                free: 0,
                overflow: Overflow::Spill,
                accepts_spill: true,
                calls: None,
                models: engine.models.iter().map(|model| ((*model).into(), (*model).into())).collect(),
            };
            let occupied = occupied.get(&engine.url).copied().unwrap_or_default();
            server.now(engine.process.is_some(), self.limits[index], occupied)
        };
        let servers: Vec<Server> = self.engines.iter().enumerate().map(server).collect();
        let asked = |route: Route| {
            let engine = self.engines.iter().position(|engine| engine.url == route.url)?;
            Some((engine, route.models.into_iter().map(|asked| asked.alias).collect()))
        };
        Ok(route::routes(&servers).into_iter().filter_map(asked).collect())
    }

    /// One step: some time passes, and somebody does something.
    fn step(&mut self) -> Result<(), Fault> {
        // Where engines have not noticed a death yet, much must happen within their second.
        let longest = if self.trouble == Trouble::Deaths { 500 } else { 3_000 };
        let millis = self.between(1, longest);
        self.pass(millis);
        let disasters = if matches!(self.trouble, Trouble::Restarts | Trouble::Deaths) { 15 } else { 6 };
        match self.between(0, 100) {
            0..50 => self.some_worker(),
            50..80 => self.some_leader(),
            dice if dice >= 100 - disasters => {
                self.disaster();
                Ok(())
            }
            80..90 => self.people(),
            _ => self.echo(),
        }
    }

    fn some_worker(&mut self) -> Result<(), Fault> {
        let mut w = usize::try_from(self.between(0, 3)).unwrap_or(0);
        if self.trouble == Trouble::Sleep {
            // Nobody is slow but by sleeping.
            self.turn = (self.turn + 1) % 3;
            w = self.turn;
        }
        self.worker_turn(w)
    }

    fn worker_turn(&mut self, w: usize) -> Result<(), Fault> {
        if self.now < self.workers[w].away_until {
            return Ok(());
        }
        if self.workers[w].is_dead {
            let (number, lives) = (self.workers[w].number, self.workers[w].lives + 1);
            self.workers[w] = self.new_worker(number, lives);
        }
        match self.work(w) {
            Err(Fault::Crashed) => {
                self.kill(w);
                Ok(())
            }
            Err(Fault::Broken(why)) => Err(Fault::Broken(why)),
            Ok(()) | Err(Fault::Unclear | Fault::Refused) => Ok(()),
        }
    }

    /// `kill -9`: its connections are closed, its memory is gone.
    fn kill(&mut self, w: usize) {
        // An engine that notices nothing computes on: nobody knows when it is done.
        let goes_on = |lane: &SimLane| {
            let engine = &self.engines[lane.engine];
            lane.call.is_some_and(|call| !engine.streams && engine.look(call, self.now) == SeenCall::Running)
        };
        // Nor of one that was given up before, whose slot could not be given back.
        let name = self.workers[w].name();
        let given_up = self.given_up.iter().any(|(holder, engine, call)| {
            *holder == name && self.engines[*engine].look(*call, self.now) == SeenCall::Running
        });
        let goes_on = given_up || self.workers[w].lanes.iter().any(goes_on);
        let frees_blindly = self.broken == Some(Broken::DeadFreeBlindly);
        if !self.workers[w].is_dead && (frees_blindly || !goes_on) {
            self.known_dead.push(name);
        }
        for lane in std::mem::take(&mut self.workers[w].lanes) {
            self.hang_up(lane);
        }
        let longest = if self.trouble == Trouble::Deaths { 2_000 } else { 60_000 };
        self.workers[w].is_dead = true;
        self.workers[w].away_until = self.now + self.between(0, longest);
    }

    fn some_leader(&mut self) -> Result<(), Fault> {
        // Whoever leads acts often; the other looks from time to time whether the lead is free.
        let other = usize::from(self.leaders[1].fence.is_none());
        let l = if self.between(0, 100) < 15 { other } else { 1 - other };
        self.leader_turn(l)
    }

    fn leader_turn(&mut self, l: usize) -> Result<(), Fault> {
        if self.now < self.leaders[l].away_until {
            return Ok(());
        }
        let stale = self.leaders[l].fence.clone().filter(|_| self.chance(10));
        let went = match stale {
            // It was frozen in the middle of a turn: it goes on with what it believes.
            Some(fence) => self.lead_with(l, &fence),
            None => self.lead(l),
        };
        match went {
            Err(Fault::Broken(why)) => return Err(Fault::Broken(why)),
            Err(Fault::Crashed) => {
                let name = self.leaders[l].name.clone();
                self.leaders[l] = SimLeader::new(&name);
                self.leaders[l].away_until = self.now + self.between(0, 60_000);
            }
            Ok(()) | Err(Fault::Unclear | Fault::Refused) => {}
        }
        Ok(())
    }

    fn repair(&mut self) {
        let now = self.now;
        self.engines.iter_mut().for_each(|engine| engine.begin(now));
    }

    /// Nothing goes wrong any more: then everything comes to an end.
    fn settle(&mut self) -> Result<(), Fault> {
        self.calm = true;
        self.repair();
        self.workers.iter_mut().for_each(|worker| worker.away_until = 0);
        self.leaders.iter_mut().for_each(|leader| leader.away_until = 0);
        for _ in 0..400 {
            let open = |state| matches!(state, TaskState::Pending | TaskState::InProgress);
            if !self.watch.tasks().any(|t| open(t.life.state)) {
                return Ok(());
            }
            self.pass(5_000);
            self.leader_turn(0)?;
            for w in 0..self.workers.len() {
                self.worker_turn(w)?;
            }
        }
        let left: Vec<_> = self.watch.tasks().filter(|t| !t.life.state.is_terminal()).collect();
        Err(Fault::Broken(format!("after half an hour without trouble there is still {left:?}")))
    }
}
