//! `ostler init`.

use std::{path::Path, sync::Arc};

use ostler::{
    agent,
    cli::Records,
    engines::EngineKind,
    platform::{
        Platform,
        local::{LocalConfig, LocalPlatform},
    },
    simulate::{SimulateOptions, SimulatedServer},
    store,
};

use super::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn init_writes_manifests_of_what_answers_and_overwrites_nothing() {
    let bench = Bench::new();
    let server = SimulatedServer::start(SimulateOptions::new(EngineKind::Ollama)).await.unwrap();
    let folder = bench.path("found");
    let init = || {
        let mut command = bench.command(&["init", folder.to_str().unwrap()]);
        command.env("OLLAMA_HOST", server.address().to_string());
        super::bench::Said::from(command.output().unwrap())
    };
    let said = init();
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains(&format!("at {}", server.url())) && said.out.contains("of user"), "{}", said.out);
    let backends = std::fs::read_to_string(folder.join("backends.yaml")).unwrap();
    assert!(backends.contains(server.url()) && backends.contains("kind: LLMBackend"), "{backends}");
    assert!(!backends.contains("AgentConfig"), "the agent's file stays on the host");

    let again = init();
    assert_eq!(again.code, 1);
    assert!(again.err.contains("backends.yaml") && again.err.contains("not overwritten"), "{}", again.err);
    assert_eq!(std::fs::read_to_string(folder.join("backends.yaml")).unwrap(), backends);

    // Others may answer on this machine's usual ports, too.
    let (backends, mend) = problems(&bench, &folder).await;
    assert!(backends >= 1);
    assert_eq!(mend, Vec::<String>::new());
    server.stop().await;
}

/// How many backends a folder declares, and what there is to mend.
async fn problems(bench: &Bench, folder: &Path) -> (usize, Vec<String>) {
    let data = bench.path("data");
    std::fs::create_dir_all(&data).unwrap();
    let home = store::Home::Folder { path: data, hold: store::sqlite::FolderAccess::Lock };
    let records = Arc::new(Records(store::open(&home, None).await.unwrap()));
    let config = LocalConfig { kinds: vec![agent::local_kind()], ..LocalConfig::new(folder) };
    let platform = LocalPlatform::open(config, Arc::clone(&records) as _, records).await.unwrap();
    let backends = platform.list("LLMBackend").await.unwrap().len();
    (backends, platform.problems().iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn every_example_is_in_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for (example, backends) in
        [("quickstart", 2), ("laptop-ollama-mlx", 2), ("cluster", 2), ("containers", 0), ("worker-python", 0)]
    {
        assert_eq!(problems(&Bench::new(), &root.join(example)).await, (backends, Vec::new()), "{example}");
    }
    for file in [
        "quickstart/agent.yaml",
        "laptop-ollama-mlx/agent.yaml",
        "cluster/on-the-host/agent.yaml",
        "containers/agent.yaml",
    ] {
        agent::load(&root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
}
