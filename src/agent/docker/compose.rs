//! Compose's `up` for one service that is stopped or missing, and for nothing else: whatever else its files would change by now
//! is somebody's unfinished work.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use tokio::{process::Command, time::timeout};

use super::memory::ComposeProject;
use crate::host::mask;

/// How long compose may take to read its files.
const READ: Duration = Duration::from_secs(30);
/// The same while the watch waits for it.
const READ_SOON: Duration = Duration::from_secs(5);
/// How long an `up` may take; it may have to pull an image.
const UP: Duration = Duration::from_secs(600);
/// How much of compose's output an error shows, in bytes.
const SHOWN: usize = 600;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// Nothing was done.
    #[error("{0}; nothing of it is deployed: see to the file, then `docker compose up -d {1}`")]
    Drift(String, String),
    /// Nothing was done: its files are not where the agent's file permits.
    #[error("compose is not run: {0}")]
    Outside(String),
    #[error("its image can't be had: {0}")]
    Image(String),
    #[error("can't run {command}: {cause}; install Docker Compose 2.24 or newer, or set spec.docker.composeCommand")]
    NoCompose { command: String, cause: String },
    #[error("{command} failed: {output}")]
    Failed { command: String, output: String },
}

/// How compose is called.
#[derive(Clone, Debug)]
pub struct Compose {
    pub command: Vec<String>,
    pub socket: PathBuf,
}

/// One service of a project, as the labels of its containers tell.
#[derive(Clone, Copy, Debug)]
pub struct ComposeRequest<'a> {
    pub name: &'a str,
    pub project: &'a ComposeProject,
    pub service: &'a str,
    /// Whether images may be pulled.
    pub pull: bool,
}

/// A line of `--progress json`.
#[derive(Debug, Deserialize)]
struct Step {
    #[serde(default)]
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    text: String,
}

impl Compose {
    /// Brings the service up as it was made: what is there is started, what is missing is created. Refused when the files
    /// would make another container than the last one, or change anything else.
    pub async fn up(&self, wanted: &ComposeRequest<'_>) -> Result<(), ComposeError> {
        self.check(wanted).await?;
        let mut dry = vec!["--dry-run", "--progress", "json"];
        dry.extend(up_words(wanted));
        let planned = self.run(wanted, &dry, UP).await?;
        if let Some(change) = change_beyond(&planned) {
            return Err(drift(wanted, format!("its compose file has changed: `up` would also do this: {change}")));
        }
        let mut up = vec!["--progress", "plain"];
        up.extend(up_words(wanted));
        self.run(wanted, &up, UP).await.map(drop)
    }

    /// Whether the files say in so many words that nothing is to start this service again.
    pub async fn never_restarts(&self, wanted: &ComposeRequest<'_>) -> Result<bool, ComposeError> {
        let said = self.run(wanted, &["--profile", "*", "config", "--format", "json"], READ_SOON).await?;
        Ok(says_never(&said, wanted.service))
    }

    /// Whether the files say of this service what they said when its container was made.
    async fn check(&self, wanted: &ComposeRequest<'_>) -> Result<(), ComposeError> {
        let words = ["--profile", "*", "config", "--hash", wanted.service];
        let said = match self.run(wanted, &words, READ).await {
            Ok(said) => said,
            Err(ComposeError::Failed { output, .. }) => {
                return Err(drift(wanted, format!("its compose file can't be read ({output})")));
            }
            Err(other) => return Err(other),
        };
        let now = said.lines().find_map(|l| l.strip_prefix(wanted.service)?.strip_prefix(' ')).map(str::trim);
        let then = wanted.project.services.get(wanted.service).map(|s| s.hash.as_str());
        match (now, then) {
            (Some(now), Some(then)) if now == then => Ok(()),
            (None, _) => Err(drift(wanted, "its compose file does not have the service any more".to_owned())),
            (_, None) => Err(drift(wanted, "no container of this service was ever seen here".to_owned())),
            _ => Err(drift(wanted, "its compose file has changed since the container was made".to_owned())),
        }
    }

    async fn run(&self, wanted: &ComposeRequest<'_>, words: &[&str], within: Duration) -> Result<String, ComposeError> {
        let project = wanted.project;
        let shown = format!("{} {}", self.command.join(" "), words.join(" "));
        let Some((program, first)) = self.command.split_first() else {
            return Err(ComposeError::NoCompose { command: shown, cause: "no command".to_owned() });
        };
        let mut command = Command::new(program);
        command.args(first).args(["--project-name", wanted.name, "--project-directory", &project.directory]);
        command.args(project.files.iter().flat_map(|file| ["--file", file]));
        command.args(project.env_files.iter().flat_map(|file| ["--env-file", file]));
        command.args(["--ansi", "never"]).args(words);
        environment(&mut command, &self.socket);
        command.stdin(Stdio::null()).kill_on_drop(true);
        if Path::new(&project.directory).is_dir() {
            command.current_dir(&project.directory);
        }
        let failed = |output: String| ComposeError::Failed { command: shown.clone(), output };
        let output = match timeout(within, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(e)) => return Err(ComposeError::NoCompose { command: shown, cause: e.to_string() }),
            Err(_) => return Err(failed(format!("it did not end within {} s and was killed", within.as_secs()))),
        };
        // Steps go to one stream or the other, by version.
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            return Ok(text);
        }
        let text = mask::masked(text.trim(), &[]);
        let said = mask::tail(&text, SHOWN).to_owned();
        if is_missing_command(&said) {
            return Err(ComposeError::NoCompose { command: shown, cause: said });
        }
        Err(if is_about_image(&said) { ComposeError::Image(said) } else { failed(said) })
    }
}

fn up_words<'a>(wanted: &ComposeRequest<'a>) -> Vec<&'a str> {
    let mut words = vec!["up", "--detach", "--no-deps", "--no-build", "--no-recreate"];
    if !wanted.pull {
        words.extend(["--pull", "never"]);
    }
    words.push(wanted.service);
    words
}

fn drift(wanted: &ComposeRequest<'_>, what: String) -> ComposeError {
    ComposeError::Drift(what, wanted.service.to_owned())
}

/// The engine that the agent looks at, and nothing of the agent's own settings and secrets.
fn environment(command: &mut Command, socket: &Path) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("OSTLER_") || text.starts_with("COMPOSE_") || text == "DOCKER_CONTEXT" {
            command.env_remove(name);
        }
    }
    command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
}

/// Reads `docker compose config --format json`; warnings may come before or after it.
fn says_never(said: &str, service: &str) -> bool {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        services: BTreeMap<String, Service>,
    }
    #[derive(Deserialize)]
    struct Service {
        restart: Option<String>,
        deploy: Option<Deploy>,
    }
    #[derive(Deserialize)]
    struct Deploy {
        restart_policy: Option<Policy>,
    }
    #[derive(Deserialize)]
    struct Policy {
        condition: Option<String>,
    }
    let config = said.find('{').and_then(|begin| serde_json::Deserializer::from_str(&said[begin..]).into_iter().next());
    let Some(Ok(Config { mut services })) = config else { return false };
    let Some(Service { restart, deploy }) = services.remove(service) else { return false };
    let deployed = deploy.and_then(|deploy| deploy.restart_policy).and_then(|policy| policy.condition);
    restart.as_deref() == Some("no") || (restart.is_none() && deployed.as_deref() == Some("none"))
}

/// The first step of a dry run that does more than to create and start.
fn change_beyond(planned: &str) -> Option<String> {
    let steps = planned.lines().filter_map(|line| serde_json::from_str::<Step>(line.trim()).ok());
    let changes = |step: &Step| {
        let text = format!("{} {}", step.status, step.text).to_lowercase();
        ["remov", "recreat", "stop", "kill"].iter().any(|word| text.contains(word))
    };
    steps.filter(changes).map(|step| format!("{} {}", step.id, step.status).trim().to_owned()).next()
}

fn is_about_image(output: &str) -> bool {
    let output = output.to_lowercase();
    ["no such image", "pull access denied", "manifest unknown", "manifest for", "repository does not exist"]
        .iter()
        .any(|words| output.contains(words))
}

/// What the docker command says when it has no compose.
fn is_missing_command(output: &str) -> bool {
    output.contains("is not a docker command")
        || output.contains("unknown shorthand flag")
        || output.contains("unknown flag")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::docker::{allow::Allow, facts::ContainerFacts, memory::ContainerRecords},
        api::AgentDocker,
    };

    #[test]
    fn a_dry_run_may_create_and_start_and_nothing_else() {
        let created = r#"{"dry-run":true,"id":"Container knowledge-nightly-1","status":"Creating"}
{"dry-run":true,"id":"Container knowledge-nightly-1","status":"Started"}"#;
        assert_eq!(change_beyond(created), None);
        let removed =
            format!("{{\"dry-run\":true,\"id\":\"Network knowledge_default\",\"status\":\"Removed\"}}\n{created}");
        assert_eq!(change_beyond(&removed).as_deref(), Some("Network knowledge_default Removed"));
        let recreated = r#"{"id":"Container knowledge-db-1","status":"Recreate"}"#;
        assert_eq!(change_beyond(recreated).as_deref(), Some("Container knowledge-db-1 Recreate"));
    }

    #[test]
    fn a_service_that_nothing_is_to_start_again_is_told_from_one_that_says_nothing() {
        let said = r#"time="2026" level=warning msg="obsolete"
{"name": "p", "services": {"once": {"restart": "no"}, "plain": {"image": "x"}, "always": {"restart": "always"},
 "none": {"deploy": {"restart_policy": {"condition": "none"}}}, "any": {"deploy": {"restart_policy": {"condition": "any"}}}}}
level=warning msg="more""#;
        for (service, never) in
            [("once", true), ("none", true), ("plain", false), ("always", false), ("any", false), ("gone", false)]
        {
            assert_eq!(says_never(said, service), never, "{service}");
        }
        assert!(!says_never("no such file", "once"));
    }

    #[test]
    fn a_missing_image_is_told_from_other_failures() {
        for (output, about) in [
            ("Error response from daemon: No such image: nightly:1", true),
            ("pull access denied for nightly, repository does not exist", true),
            ("Error response from daemon: driver failed programming external connectivity", false),
        ] {
            assert_eq!(is_about_image(output), about, "{output}");
        }
    }

    /// What a container's labels say may name files within the listed folders alone, whatever they are.
    #[test]
    fn any_bytes_of_an_engine_and_of_compose_are_read() {
        let spec = AgentDocker { compose_folders: vec!["/srv/knowledge".into()], ..AgentDocker::default() };
        let allow = Allow::of(&spec, Path::new("/etc/ostler"));
        crate::testing::any_bytes("containers", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let mut word = format!("{:?}{}", change_beyond(&text).is_some(), says_never(&text, "db"));
            let Ok(seen) = serde_json::from_slice(bytes) else { return word };
            let Some(facts) = ContainerFacts::read(seen) else { return word + "none" };
            let (mut memory, others) = (ContainerRecords::default(), BTreeMap::new());
            memory.learn(&facts, &others);
            memory.learn(&facts, &others);
            assert_eq!(memory.contradiction(&facts), None, "its own labels");
            for project in memory.projects.values() {
                let origin = project.origin();
                assert!(origin.paths().all(|path| path.starts_with('/') && !path.split('/').any(|part| part == "..")));
                let inside = allow.outside(&origin).is_none();
                assert!(!inside || origin.paths().all(|path| path.starts_with("/srv/knowledge")), "{origin:?}");
                word.push_str(&format!("{inside}{}", origin.files.len().min(3)));
            }
            let shown = format!("{facts:?}").len();
            assert!(shown <= 4_096 + 8 * bytes.len(), "{shown} bytes of {}", bytes.len());
            let report = facts.report;
            word + &format!("{:?}{:?}{}", report.state, report.health, report.depends_on.len())
        });
    }
}
