//! Whatever is declared and not ready is told: on the screen, by the exit code, in the log.

use super::bench::Bench;
use crate::real::free_port;

const NOT_READY: &str = r#"
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {name: lost}
spec: {model: nobody-serves-this}
---
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {name: orphan}
spec: {defaultExpertRef: {name: nobody}}
---
apiVersion: ostler.dev/v1alpha1
kind: TaskSchedule
metadata: {name: never}
spec:
  schedule: "0 3 * * *"
  queueRef: {name: default}
  task: {prompt: "x", expert: igor, schema: {properties: {a: {pattern: "(?=b)"}}}}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {name: idle}
spec: {queueRefs: [{name: nowhere}]}
"#;

#[test]
fn what_is_not_ready_is_a_line_fails_the_check_and_is_warned_of_once() {
    let (mut bench, _) = Bench::of_quickstart();
    bench.up();
    let well = bench.healthy();
    assert!(well.out.contains("✓ 2 experts, 1 pool, 1 schedule ready"), "{}", well.out);
    bench.write("more.yaml", NOT_READY);
    let names = ["lost", "orphan", "never", "idle"];
    let status = bench.until(&["status"], |said| names.iter().all(|name| said.out.contains(&format!("✗ {name}"))));
    for why in ["nobody-serves-this", "no Expert nobody", "InvalidSchedule", "no TaskQueue nowhere"] {
        assert!(status.out.contains(why), "{why}: {}", status.out);
    }
    assert_eq!(bench.ostler(&["status", "--check"]).code, 3);
    for name in names {
        let warned = |log: &str| log.lines().filter(|line| line.contains("WARN") && line.contains(name)).count();
        assert_eq!(warned(&bench.log()), 1, "{name}: {}", bench.log());
    }
    std::fs::remove_file(bench.path("manifests/more.yaml")).unwrap();
    bench.write("fewer.yaml", &NOT_READY.replace("nobody-serves-this", "small"));
    bench.until(&["status"], |said| !said.out.contains("lost") && said.out.contains("✗ idle"));
}

#[test]
fn a_mistyped_namespace_is_told() {
    let (mut bench, _) = Bench::of_quickstart();
    bench.up();
    bench.healthy();
    let typo = bench.ostler(&["status", "--check", "-n", "typo"]);
    assert!(typo.code == 3 && typo.out.contains("\"typo\""), "{typo:?}");
    assert_eq!(bench.ostler(&["status", "--check", "-n", "default"]).code, 0);
}

#[test]
fn another_folder_is_another_set_from_the_start() {
    let (mut bench, ports) = Bench::of_quickstart();
    bench.up();
    bench.healthy();
    assert_eq!(bench.ostler(&["down"]).code, 0);
    assert_eq!(bench.up_ended(), 0);
    let port = free_port();
    std::fs::create_dir(bench.path("team")).unwrap();
    std::fs::write(
        bench.path("team/own.yaml"),
        format!(
            "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: own}}\n\
             spec: {{engine: Ollama, url: 'http://127.0.0.1:{port}', probe: {{periodSeconds: 1}}}}\n"
        ),
    )
    .unwrap();
    let said = bench.up_of("team", &[], &[]);
    assert!(said.contains(": 1 LLMBackend\n") && !said.contains("agent here"), "{said}");
    let status = bench.until(&["status"], |said| said.out.contains("✗ own"));
    for gone in ["ollama", "mlx", "here", "igor"] {
        assert!(!status.out.contains(gone), "{gone}: {}", status.out);
    }
    assert_eq!(ports.map(Bench::pid_on), [None, None], "nothing of the other folder was started");
    // What Ctrl-C left running is told.
    bench.end_up("-INT");
    bench.up();
    bench.healthy();
    bench.end_up("-INT");
    let said = bench.up_of("team", &[], &[]);
    assert!(said.contains("mlx (pid ") && said.contains("of agent here runs on"), "{said}");
    // Back again: the first set, as if it had never been away.
    bench.end_up("-INT");
    bench.up();
    assert!(!bench.healthy().out.contains("own"));
}

const HOPELESS: &str = r#"
apiVersion: ostler.dev/v1alpha1
kind: AgentConfig
metadata: {name: here}
spec:
  listen: 127.0.0.1:0
  services:
  - name: broken
    start: {command: [sh, -c, "echo out of luck; exit 3"]}
    check: {url: "http://127.0.0.1:PORT/api/tags"}
---
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {name: broken}
spec:
  engine: Ollama
  url: http://127.0.0.1:PORT
  probe: {periodSeconds: 1, failureThreshold: 1}
  recovery: {hostAgentRef: {name: here}, service: broken, periodSeconds: 1, maxAttempts: 1}
"#;

#[test]
fn what_was_given_up_says_why_since_when_and_what_to_type() {
    let mut bench = Bench::new();
    bench.write("all.yaml", &HOPELESS.replace("PORT", &free_port().to_string()));
    bench.up();
    let status = bench.until(&["status"], |said| said.out.contains("Deferred"));
    for words in ["did not help", "(for ", "`ostler reconcile llm/broken`", "`ostler logs broken`"] {
        assert!(status.out.contains(words), "{words}: {}", status.out);
    }
    let log = bench.log();
    let warned: Vec<&str> = log.lines().filter(|l| l.contains("WARN") && l.contains("DeferredToHuman")).collect();
    assert!(warned.len() == 1 && warned[0].contains("ostler reconcile llm/broken"), "{log}");
    assert!(bench.ostler(&["logs", "broken"]).out.contains("out of luck"));
    assert_eq!(bench.ostler(&["status", "--check"]).code, 3);
}
