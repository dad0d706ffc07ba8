//! An agent whose file names no socket finds the engine as the docker command does.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use super::bench::shared;
use crate::agent::{
    bench::{Bench, write},
    crashes::{Process, client},
};

/// What an agent in this environment says of its engine: `Ok` with the version, or why there is none.
async fn engine(bench: &Bench, environment: &[(&str, &str)]) -> Result<String, String> {
    let mut agent = Process::start_with(bench, "none", environment);
    let host = client(bench, &agent.url().expect("an agent that serves"));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let runtime = host.report().await.unwrap().container_runtime.unwrap();
        match runtime.error {
            None => return Ok(runtime.version),
            Some(error) if !error.contains("not been asked yet") => return Err(error),
            Some(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn real_docker_the_engine_is_found_by_its_context_or_variable_and_another_one_is_never_taken_instead() {
    let (bench, docker) = (Bench::new(), shared());
    write(&bench.path("secret"), &bench.secret.expose());
    write(
        &bench.path("agent.yaml"),
        "apiVersion: ostler.dev/v1alpha1\nkind: AgentConfig\nmetadata: {name: crash}\n\
         spec: {listen: '127.0.0.1:0', auth: {signingSecretFile: secret}, docker: {}}\n",
    );
    let config = bench.path("docker").display().to_string();
    let host = format!("unix://{}", docker.socket().display());
    let cli = |args: &[&str]| {
        let done = Command::new("docker").args(args).env("DOCKER_CONFIG", &config).env_remove("DOCKER_HOST").output();
        let done = done.unwrap();
        assert!(done.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    cli(&["context", "create", "lab", "--docker", &format!("host={host}")]);
    cli(&["context", "create", "away", "--docker", "host=tcp://192.0.2.1:2375"]);
    cli(&["context", "use", "lab"]);
    let config = ("DOCKER_CONFIG", config.as_str());
    let version = docker.docker(&["version", "--format", "{{.Server.Version}}"]);
    for (what, environment) in [
        ("the context in use", vec![config]),
        ("the context of a variable", vec![config, ("DOCKER_CONTEXT", "lab")]),
        ("DOCKER_HOST", vec![config, ("DOCKER_HOST", host.as_str()), ("DOCKER_CONTEXT", "away")]),
    ] {
        assert_eq!(engine(&bench, &environment).await.as_deref(), Ok(version.trim()), "{what}");
    }
    for (environment, named) in [
        (("DOCKER_CONTEXT", "away"), "tcp://192.0.2.1:2375"),
        (("DOCKER_CONTEXT", "none-such"), "none-such"),
        (("DOCKER_HOST", "tcp://127.0.0.1:2375"), "tcp://127.0.0.1:2375"),
    ] {
        let error = engine(&bench, &[config, environment]).await.unwrap_err();
        assert!(error.contains(named) && error.contains("spec.docker.socket"), "{error}");
    }
}
