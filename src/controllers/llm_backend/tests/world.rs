//! A scripted server and the world around it on a simulated clock, one second a step: a prober, an agent and workers as they are.

use crate::{
    api::{BackendState, LLMBackendSpec},
    host::Instance,
    store::Admission,
};

use super::{
    super::{
        facts::BackendLoad,
        judge::BackendAssessment,
        memory::BackendMemory,
        plan::{BackendPlan, CanaryOrder, CanaryPlan, PlanNote, RecoveryAct, RecoveryOutcome, decide, record},
        status::{BackendShown, shown},
    },
    script::{Behavior, CallStep, Moment, Reply, Script, Tamper},
    *,
};

#[derive(Clone, Debug)]
struct Running {
    request: String,
    began: i64,
    last_byte: Option<i64>,
    /// In a canary: how long it may take.
    order: Option<CanaryOrder>,
    /// Seconds to its first byte and to its end, where it is served: as the server was when it began.
    served: (i64, i64),
}

pub struct BackendWorld {
    pub spec: LLMBackendSpec,
    script: Script,
    /// The first declared one.
    model: String,
    agent: bool,
    /// Tasks come as fast as they are done.
    pub work: bool,
    pub seen: BackendFacts,
    pub memory: BackendMemory,
    pub now: i64,
    process: i64,
    process_began: i64,
    canary: Option<Running>,
    calls: Vec<Running>,
    tasks: i64,
    next_probe: i64,
    admission: (Admission, i32),
    sample_cpu: bool,
    hurry: bool,
    tamper: Option<Tamper>,
    reported: CallEvidence,
    canaries: CallEvidence,
    pub restarts: Vec<i64>,
    pub unloads: Vec<i64>,
    pub canaries_sent: usize,
    pub served: usize,
    pub failed: usize,
    pub aborted: usize,
    pub notes: Vec<(i64, PlanNote)>,
    pub states: Vec<(i64, BackendState, &'static str)>,
    pub shown: Option<BackendShown>,
    pub judged: Option<BackendAssessment>,
}

impl BackendWorld {
    pub fn new(spec: LLMBackendSpec, agent: bool, script: Script) -> Self {
        Self {
            model: spec.models[0].name.clone(),
            spec,
            script,
            agent,
            work: false,
            seen: BackendFacts { generation: 1, ..BackendFacts::default() },
            memory: BackendMemory::default(),
            now: 0,
            process: 0,
            process_began: 0,
            canary: None,
            calls: Vec::new(),
            tasks: 0,
            next_probe: 1,
            admission: (Admission::Closed, 1),
            sample_cpu: false,
            hurry: false,
            tamper: None,
            reported: CallEvidence::default(),
            canaries: CallEvidence::default(),
            restarts: Vec::new(),
            unloads: Vec::new(),
            canaries_sent: 0,
            served: 0,
            failed: 0,
            aborted: 0,
            notes: Vec::new(),
            states: Vec::new(),
            shown: None,
            judged: None,
        }
    }

    pub fn with_work(mut self) -> Self {
        self.work = true;
        self
    }

    pub fn tampered(mut self, tamper: Tamper) -> Self {
        self.tamper = Some(tamper);
        self
    }

    pub fn run(mut self, seconds: i64) -> Self {
        (0..seconds).for_each(|_| self.second());
        self
    }

    pub fn behavior(&self) -> Behavior {
        let (second, process, unloads) = (self.now, self.process, self.unloads.len());
        (self.script)(Moment { second, process, unloads })
    }

    fn second(&mut self) {
        self.now += 1;
        let behavior = self.behavior();
        self.answer_calls(&behavior);
        self.begin_calls(&behavior);
        self.probe(&behavior);
        self.report_agent(&behavior);
        self.observe();
        let (judged, plan) = self.decide();
        self.carry_out(&plan);
        self.note(judged, &plan);
    }

    fn step(&self, call: &Running, behavior: &Behavior) -> CallStep {
        let age = self.now - call.began;
        match &behavior.reply {
            // One token to a short question.
            Reply::Served { first, .. } if call.order.is_some() => match age >= (*first).min(8) {
                true => CallStep::Ends(Ok(())),
                false => CallStep::Nothing,
            },
            Reply::Served { .. } if age >= call.served.1 => CallStep::Ends(Ok(())),
            Reply::Served { .. } if age >= call.served.0 => CallStep::Byte,
            Reply::Served { .. } => CallStep::Nothing,
            Reply::Loads { seconds } => {
                if self.now - self.process_began >= *seconds || age >= *seconds {
                    CallStep::Ends(Ok(()))
                } else {
                    CallStep::Nothing
                }
            }
            Reply::Keepalive { seconds } => {
                if age >= *seconds {
                    CallStep::Ends(Ok(()))
                } else {
                    CallStep::Byte
                }
            }
            Reply::Fails(failure) => CallStep::Ends(Err(failure.clone())),
            Reply::Silent => CallStep::Nothing,
        }
    }

    fn answer_calls(&mut self, behavior: &Behavior) {
        if let Some(mut canary) = self.canary.take() {
            let order = canary.order.clone().expect("a canary has its order");
            let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap();
            let answer = self.step(&canary, behavior);
            if let CallStep::Byte = answer {
                canary.last_byte = Some(self.now);
            }
            let silent = self.now - canary.last_byte.unwrap_or(canary.began) >= seconds(order.timeout);
            let over = silent || self.now - canary.began >= seconds(order.longest);
            let ended = match answer {
                CallStep::Ends(result) => Some(result),
                CallStep::Byte | CallStep::Nothing if over => {
                    Some(Err(Failure::Timeout { after: order.timeout, tokens_seen: 0 }))
                }
                CallStep::Byte | CallStep::Nothing => None,
            };
            match ended {
                None => self.canary = Some(canary),
                Some(result) => self.end_canary(&canary, &order, result),
            }
        }
        for mut call in std::mem::take(&mut self.calls) {
            match self.step(&call, behavior) {
                CallStep::Nothing => self.calls.push(call),
                CallStep::Byte => {
                    call.last_byte = Some(self.now);
                    self.calls.push(call);
                }
                CallStep::Ends(Ok(())) => {
                    self.served += 1;
                    let served = ServedCall {
                        ended_at: at(self.now),
                        ..served_call(&self.model, at(call.began), &call.request)
                    };
                    self.reported.served = vec![served];
                    self.reported.failed.clear();
                }
                CallStep::Ends(Err(failure)) => {
                    self.failed += 1;
                    let fault = match failure {
                        Failure::Busy { .. } | Failure::Loading { .. } | Failure::RateLimited { .. } => CallFault::Full,
                        Failure::OutOfMemory { .. } => CallFault::OutOfMemory,
                        Failure::ModelTooLarge { .. } => CallFault::ModelTooLarge,
                        Failure::Rejected { .. } => continue,
                        _ => CallFault::Failed,
                    };
                    let failed = FailedCall {
                        model: self.model.clone(),
                        began_at: at(call.began),
                        message: failure.to_string(),
                        ..failed_call(&call.request, self.now, fault)
                    };
                    if self.reported.failed.len() == 8 {
                        self.reported.failed.remove(0);
                    }
                    self.reported.failed.push(failed);
                }
            }
        }
    }

    fn end_canary(&mut self, canary: &Running, order: &CanaryOrder, result: Result<(), Failure>) {
        let (started_at, ended_at) = (at(canary.began), at(self.now));
        let canaried = CanaryResult { started_at, ended_at, model: self.model.clone(), loads: order.loads, result };
        let number = self.seen.canary.finished + 1;
        match super::super::prober::evidence(&canaried, number) {
            Some(Ok(served)) => self.canaries.served = vec![served],
            Some(Err(failed)) => self.canaries.failed.push(failed),
            None => {}
        }
        self.seen.canary.running_since = None;
        self.seen.canary.finished = number;
        self.seen.canary.push(canaried);
    }

    fn begin_calls(&mut self, behavior: &Behavior) {
        let most = match self.admission {
            (Admission::Closed, _) => 0,
            (Admission::One, _) => 1,
            (Admission::Open, limit) => usize::try_from(limit).unwrap(),
        };
        while self.work && self.calls.len() < most && self.canary.is_none() {
            self.tasks += 1;
            let request = format!("task {}", self.tasks);
            self.calls.push(Running {
                request,
                began: self.now,
                last_byte: None,
                order: None,
                served: behavior.served(),
            });
        }
    }

    fn probe(&mut self, behavior: &Behavior) {
        if self.now < self.next_probe {
            return;
        }
        let now = at(self.now);
        let not_before = match &behavior.probe {
            ProbeVerdict::RateLimited { retry_after } => {
                retry_after.map(|wait| now + SignedDuration::try_from(wait).unwrap())
            }
            _ => None,
        };
        let probed = ProbeResult { at: now, verdict: behavior.probe.clone(), millis: 1, not_before };
        let probe = &self.spec.probe;
        self.seen.probes.push(probed, probe.failure_threshold, probe.success_threshold);
        let probes = &self.seen.probes;
        let again = probes.failures_in_row > 0 && probes.answering != Some(false) && behavior.probe.is_refusal();
        let period = if again || self.hurry { 1 } else { i64::from(probe.period_seconds) };
        self.next_probe = not_before.map_or(self.now + period, |at| at.as_second() - super::at(0).as_second());
    }

    fn report_agent(&mut self, behavior: &Behavior) {
        if !self.agent {
            return;
        }
        let now = at(self.now);
        let state = if behavior.dead { ServiceState::Stopped } else { ServiceState::Running };
        let instance = Instance { pid: u32::try_from(7 + self.process).unwrap(), start_time: 70 };
        let report = ServiceReport { instance: (!behavior.dead).then_some(instance.clone()), ..service(state) };
        self.seen.agent = heard(report, now);
        if let AgentView::Heard(service) = &mut self.seen.agent {
            service.instance_since = (!behavior.dead).then_some(at(self.process_began));
            service.exited_at = behavior.dead.then_some(now);
        }
        if self.sample_cpu && !behavior.dead {
            let working = !self.calls.is_empty() || self.canary.is_some();
            let works = behavior.works || working && !matches!(behavior.reply, Reply::Silent);
            let instance = format!("{}@{}", instance.pid, instance.start_time);
            self.seen.cpu.push(instance, works, now - SignedDuration::from_secs(1), now);
        }
    }

    fn observe(&mut self) {
        self.seen.evidence = BackendEvidence::default().with(&self.canaries).with(&self.reported);
        let model = || Some(self.model.clone());
        let open: Vec<_> = self
            .calls
            .iter()
            .map(|call| OpenBackendCall { model: model(), ..open(call.began, call.last_byte) })
            .collect();
        let in_flight = i64::try_from(open.len()).unwrap();
        let last_call_at = if in_flight > 0 { Some(at(self.now)) } else { self.seen.load.last_call_at };
        self.seen.load = BackendLoad { in_flight, open, lapsed_at: None, last_call_at, waiting: i64::from(self.work) };
        if let Some(tamper) = self.tamper {
            tamper(&mut self.seen, at(self.now));
        }
    }

    fn decide(&self) -> (BackendAssessment, BackendPlan) {
        decide(&self.spec, &self.seen, &self.memory, &format!("e{}", self.now), at(self.now))
    }

    fn carry_out(&mut self, plan: &BackendPlan) {
        self.memory = plan.memory.clone();
        self.notes.extend(plan.notes.iter().map(|note| (self.now, note.clone())));
        let outcome = match &plan.act {
            Some(RecoveryAct::Restart { .. }) => {
                self.restarts.push(self.now);
                self.process += 1;
                self.process_began = self.now;
                self.abort_calls();
                self.seen.loaded = None;
                Some(RecoveryOutcome::Done)
            }
            Some(RecoveryAct::Unload { .. }) => {
                self.unloads.push(self.now);
                self.abort_calls();
                Some(RecoveryOutcome::Done)
            }
            Some(RecoveryAct::Follow { .. } | RecoveryAct::DeletePod { .. }) | None => None,
        };
        if let Some(outcome) = outcome {
            self.notes.extend(record(&mut self.memory, &outcome, at(self.now)).map(|note| (self.now, note)));
        }
        if let CanaryPlan::Send(order) = &plan.canary
            && self.canary.is_none()
            && order.after == self.seen.canary.finished
        {
            assert!(self.calls.is_empty(), "a canary is sent only while no call is open");
            self.canaries_sent += 1;
            self.seen.canary.running_since = Some(at(self.now));
            self.canary = Some(Running {
                request: "canary".into(),
                began: self.now,
                last_byte: None,
                order: Some(order.clone()),
                served: (0, 0),
            });
        }
        self.sample_cpu = plan.sample_cpu;
        self.hurry = plan.prove || plan.memory.episode.as_ref().is_some_and(|e| e.running.is_some());
    }

    /// Workers close the connections of aborted slots: their tasks wait again, at no attempt.
    fn abort_calls(&mut self) {
        self.aborted += self.calls.len();
        self.calls.clear();
    }

    fn note(&mut self, judged: BackendAssessment, plan: &BackendPlan) {
        let shown = shown(&judged, plan, &self.seen);
        self.admission = (shown.admission, plan.limit);
        if self.states.last().is_none_or(|(_, state, reason)| (*state, *reason) != (shown.state, shown.reason)) {
            self.states.push((self.now, shown.state, shown.reason));
        }
        self.shown = Some(shown);
        self.judged = Some(judged);
    }

    pub fn helped(&self) -> usize {
        self.notes.iter().filter(|(_, note)| matches!(note, PlanNote::Helped { .. })).count()
    }

    pub fn state(&self) -> BackendState {
        self.shown.as_ref().expect("a second has passed").state
    }

    pub fn for_human(&self) -> bool {
        self.shown.as_ref().expect("a second has passed").for_human
    }

    pub fn ready(&self) -> bool {
        self.shown.as_ref().expect("a second has passed").ready
    }
}
