//! The agent dies in the middle of an operation: the next one takes it up, and does nothing twice.

use std::time::{Duration, Instant};

use ostler::host::{
    Action, Caller, ContainerAction, ContainerList, ContainerOperation, ContainerOperationRequest, ContainerQuery,
    ContainerReport, ContainerSelector, ContainerState, HoldOwner, HttpHost, OperationRequest, Phase, StoppedBy,
};

use super::bench::{named, request, shared, unique};
use crate::{
    agent::{
        bench::{Bench, write},
        crashes::{Process, client},
    },
    real::Docker,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn configure(bench: &Bench, docker: &Docker, name: &str) {
    configure_with(bench, docker, name, "");
}

fn configure_with(bench: &Bench, docker: &Docker, name: &str, services: &str) {
    write(&bench.path("secret"), &bench.secret.expose());
    let socket = docker.socket();
    let text = format!(
        "apiVersion: ostler.dev/v1alpha1\nkind: AgentConfig\nmetadata: {{name: crash}}\nspec:\n  listen: 127.0.0.1:0\n  \
         auth: {{signingSecretFile: secret}}\n  docker: {{socket: {}, allow: {{names: [{name}]}}}}\n{services}",
        socket.display()
    );
    write(&bench.path("agent.yaml"), &text);
}

/// An agent's process, and what was asked of it.
struct Asked<'a> {
    bench: &'a Bench,
    name: &'a str,
    request: ContainerOperationRequest,
}

impl Asked<'_> {
    fn caller(&self) -> Caller {
        Caller { installation: self.bench.installation, epoch: 1 }
    }

    async fn list(&self, host: &HttpHost) -> Option<ContainerList> {
        let selector = ContainerSelector::Names(vec![self.name.to_owned()]);
        host.containers(&ContainerQuery { selector }).await.ok()
    }

    async fn until(&self, host: &HttpHost, what: &str, wanted: impl Fn(&ContainerReport) -> bool) -> ContainerReport {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let list = self.list(host).await;
            if let Some(report) = list.as_ref().and_then(|l| l.containers.first()).filter(|r| wanted(r)) {
                return report.clone();
            }
            assert!(Instant::now() < deadline, "{} is never {what}: {list:#?}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ask(&self, host: &HttpHost) -> Option<ContainerOperation> {
        host.operate_container(&self.request, "key", self.caller()).await.ok()
    }

    /// Asks an agent that dies of it.
    async fn and_it_dies(&self, point: &str) -> Option<ContainerOperation> {
        let mut agent = Process::start(self.bench, point);
        let host = client(self.bench, &agent.url().expect("an agent that serves"));
        self.until(&host, "running", |c| c.state == ContainerState::Running).await;
        let accepted = self.ask(&host).await;
        let deadline = Instant::now() + PATIENCE;
        while agent.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "{point} was never reached");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        accepted
    }

    /// The caller does not know whether its request arrived, and asks another agent under the same key.
    async fn again(&self, host: &HttpHost, before: Option<ContainerOperation>, when: &str) {
        // Known or not, an operation is refused before the engine has been looked at.
        self.until(host, "seen", |_| true).await;
        let asked = self.ask(host).await.unwrap();
        assert!(before.is_none_or(|b| b.id == asked.id), "{when}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = host.container_operation(&asked.id).await.unwrap();
            if status.phase.is_finished() {
                assert_eq!(status.phase, Phase::Succeeded, "{when}: {status:?}");
                return;
            }
            assert!(Instant::now() < deadline, "{when}: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn real_docker_wherever_the_agent_dies_a_restart_is_done_once() {
    let docker = shared();
    for point in ["recorded", "begun", "done-before-record"] {
        let (bench, name) = (Bench::new(), unique("crash"));
        configure(&bench, docker, &name);
        docker.run_container(&name, &[], &["sh", "-c", "echo started >> /starts; exec sleep 1000"]);
        let asked = Asked { bench: &bench, name: &name, request: request(&named(&name), ContainerAction::Restart) };
        let accepted = asked.and_it_dies(&format!("agent.container-operation-{point}")).await;
        let mut agent = Process::start(&bench, "none");
        let host = client(&bench, &agent.url().expect("an agent that serves"));
        asked.again(&host, accepted, point).await;
        let starts = docker.docker(&["exec", &name, "cat", "/starts"]);
        assert_eq!(starts.lines().count(), 2, "{point}: once when it was made, and once more");
        docker.docker(&["rm", "--force", &name]);
    }
}

#[tokio::test]
async fn real_docker_a_stop_that_the_agent_did_not_live_to_see_is_no_persons() {
    let (bench, docker, name) = (Bench::new(), shared(), unique("slow"));
    configure(&bench, docker, &name);
    // It takes its time to stop: the agent is gone by then.
    docker.run_container(&name, &["--stop-timeout", "3"], &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    let asked = Asked { bench: &bench, name: &name, request: request(&named(&name), ContainerAction::Stop) };
    let mut first = Process::start(&bench, "none");
    let host = client(&bench, &first.url().expect("an agent that serves"));
    asked.until(&host, "running", |c| c.state == ContainerState::Running).await;
    let accepted = asked.ask(&host).await;
    asked.until(&host, "being stopped", |c| c.operation.is_some()).await;
    let deadline = Instant::now() + PATIENCE;
    // `kill` is the first thing that the engine tells of a stop.
    while !docker
        .docker(&["events", "--since", "1", "--until", "0s", "--filter", &format!("container={name}")])
        .contains("kill")
    {
        assert!(Instant::now() < deadline, "the engine was never asked to stop it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let mut second = Process::start(&bench, "none");
    let host = client(&bench, &second.url().expect("an agent that serves"));
    asked.again(&host, accepted, "killed while it stops").await;
    let seen = asked.until(&host, "stopped", |c| c.stopped.is_some()).await;
    assert_eq!(seen.stopped.map(|s| s.by), Some(StoppedBy::Agent));
    docker.docker(&["rm", "--force", &name]);
}

#[tokio::test]
async fn real_docker_a_service_whose_stop_the_agent_did_not_live_to_record_is_not_held_by_a_person() {
    let (bench, docker, name) = (Bench::new(), shared(), unique("suspended"));
    let services = format!("  services: [{{name: search, manager: Container, container: {{name: {name}}}}}]\n");
    configure_with(&bench, docker, &name, &services);
    docker.run_container(&name, &[], &["sleep", "1000"]);
    let asked = Asked { bench: &bench, name: &name, request: request(&named(&name), ContainerAction::Stop) };
    let mut first = Process::start(&bench, "agent.operation-done-before-record");
    let host = client(&bench, &first.url().expect("an agent that serves"));
    asked.until(&host, "running", |c| c.state == ContainerState::Running).await;
    let suspend = OperationRequest::new("search", Action::Stop, "suspended").owned_by(HoldOwner::Suspend);
    host.operate(&suspend, "key", asked.caller()).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while first.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it never stopped the service");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut second = Process::start(&bench, "none");
    let host = client(&bench, &second.url().expect("an agent that serves"));
    let seen = asked.until(&host, "stopped", |c| c.stopped.is_some()).await;
    assert_eq!(seen.stopped.map(|s| s.by), Some(StoppedBy::Agent));
    // What it found is a hold by the time that a check has looked.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let report = host.report().await.unwrap();
    let holds = &report.service("search").unwrap().holds;
    assert!(holds.iter().all(|hold| hold.owner == HoldOwner::Suspend) && holds.len() == 1, "{holds:?}");
    docker.docker(&["rm", "--force", &name]);
}
