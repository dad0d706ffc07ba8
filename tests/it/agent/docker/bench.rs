//! An engine that tests share, agents that may see some of its containers, and compose projects in folders of their own.

use std::{
    path::PathBuf,
    sync::LazyLock,
    time::{Duration, Instant},
};

use ostler::host::{
    ContainerAction, ContainerList, ContainerOperation, ContainerOperationRequest, ContainerQuery, ContainerReport,
    ContainerSelector, ContainerTarget, HostError, Phase,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    agent::bench::{Bench, Running, write},
    real::Docker,
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The engine of all tests that leave it running.
pub fn shared() -> &'static Docker {
    static SHARED: LazyLock<Docker> = LazyLock::new(Docker::start);
    &SHARED
}

/// A name that no other test has.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", &Uuid::new_v4().simple().to_string()[..8])
}

/// An agent that may touch what `allow` says.
pub async fn agent(bench: &Bench, docker: &Docker, allow: Value) -> Running {
    agent_with(bench, docker, allow, json!([])).await
}

pub async fn agent_with(bench: &Bench, docker: &Docker, allow: Value, services: Value) -> Running {
    let mut settings = bench.settings(services);
    let spec = json!({"socket": docker.socket(), "allow": allow, "composeFolders": [bench.dir],
        "composeCommand": Docker::compose_command()});
    settings.spec.docker = Some(serde_json::from_value(spec).unwrap());
    bench.start_with(settings).await
}

pub fn named(name: &str) -> ContainerTarget {
    ContainerTarget::Name(name.to_owned())
}

pub fn request(target: &ContainerTarget, action: ContainerAction) -> ContainerOperationRequest {
    ContainerOperationRequest { target: target.clone(), id: None, action, reason: "test".to_owned() }
}

impl Running {
    pub async fn list(&self, selector: ContainerSelector) -> Result<ContainerList, HostError> {
        self.client.containers(&ContainerQuery { selector }).await
    }

    /// One container as the agent has it; `None` when it is missing, or nothing is known now.
    pub async fn container(&self, name: &str) -> Option<ContainerReport> {
        let list = self.list(ContainerSelector::Names(vec![name.to_owned()])).await;
        list.ok()?.containers.pop()
    }

    /// Polls until a container is as wanted.
    pub async fn until_container(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&ContainerReport) -> bool,
    ) -> ContainerReport {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.container(name).await;
            if let Some(report) = seen.as_ref().filter(|r| wanted(r)) {
                return report.clone();
            }
            if Instant::now() > deadline {
                let all = self.list(ContainerSelector::Names(vec![name.to_owned()])).await;
                panic!("{name} is never {what}: {all:#?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks for an operation and follows it to its end.
    pub async fn act(&self, target: &ContainerTarget, action: ContainerAction) -> ContainerOperation {
        let request = request(target, action);
        let key = Uuid::new_v4().to_string();
        let accepted = self.client.operate_container(&request, &key, self.caller).await.unwrap();
        self.ended(&accepted.id).await
    }

    pub async fn ended(&self, id: &str) -> ContainerOperation {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.client.container_operation(id).await.unwrap();
            if status.phase.is_finished() {
                return status;
            }
            assert!(Instant::now() < deadline, "never finished: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The same, and it must succeed.
    pub async fn done(&self, target: &ContainerTarget, action: ContainerAction) -> ContainerOperation {
        let ended = self.act(target, action).await;
        assert_eq!(ended.phase, Phase::Succeeded, "{ended:?}");
        ended
    }

    /// Polls until the engine's containers are known, or not known any more.
    pub async fn until_engine(&self, answers: bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.client.report().await.unwrap();
            let runtime = report.container_runtime.unwrap();
            if runtime.error.is_none() == answers {
                return;
            }
            assert!(Instant::now() < deadline, "engine: {runtime:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A compose project with services `db` and `nightly`, up.
pub struct Project {
    docker: &'static Docker,
    pub name: String,
    pub folder: PathBuf,
}

impl Project {
    pub fn up(bench: &Bench, docker: &'static Docker) -> Self {
        let name = unique("knowledge");
        let folder = bench.path(&name);
        std::fs::create_dir(&folder).unwrap();
        let project = Self { docker, name, folder };
        project.write("1000", "");
        project.compose(&["up", "--detach"]);
        project
    }

    /// Its file, with what `nightly` sleeps for and more at its end.
    pub fn write(&self, nightly: &str, more: &str) {
        let service = |seconds: &str| {
            format!("{{image: {}, command: [sleep, {seconds:?}], stop_grace_period: 1s}}", Docker::IMAGE)
        };
        let text = format!(
            "name: {}\nservices:\n  db: {}\n  nightly: {}\n{more}",
            self.name,
            service("1000"),
            service(nightly)
        );
        write(&self.folder.join("compose.yaml"), &text);
    }

    /// Its file again, with another image for one of the two services.
    pub fn write_image(&self, service: &str, image: &str) {
        self.write("1000", "");
        let path = self.folder.join("compose.yaml");
        let from = |image: &str| format!("  {service}: {{image: {image},");
        let text = std::fs::read_to_string(&path).unwrap().replace(&from(Docker::IMAGE), &from(image));
        write(&path, &text);
    }

    pub fn compose(&self, args: &[&str]) -> String {
        self.docker.compose(&self.folder, args)
    }

    pub fn container(&self, service: &str) -> String {
        format!("{}-{service}-1", self.name)
    }

    pub fn allow(&self) -> Value {
        json!({"composeProjects": [self.name]})
    }

    pub fn service(&self, service: &str) -> ContainerTarget {
        let target = json!({"service": {"projectDirectory": self.folder, "service": service}});
        serde_json::from_value(target).unwrap()
    }

    pub fn selector(&self, services: &[&str]) -> ContainerSelector {
        let selector = json!({"compose": {"projectDirectory": self.folder, "services": services}});
        serde_json::from_value(selector).unwrap()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let ids = self.docker.docker(&[
            "ps",
            "--all",
            "--quiet",
            "--filter",
            &format!("label=com.docker.compose.project={}", self.name),
        ]);
        for id in ids.split_whitespace() {
            self.docker.docker(&["rm", "--force", id]);
        }
    }
}
