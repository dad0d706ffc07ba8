//! What goes on as things happen: `events -f`, `get -w`, `logs -f`.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Instant,
};

use super::bench::{Bench, PATIENCE};

struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn of(bench: &Bench, args: &[&str]) -> Self {
        let mut child = bench.command(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (send, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || output.map_while(Result::ok).all(|line| send.send(line).is_ok()));
        Self { child, lines }
    }

    fn until(&self, word: &str) -> String {
        self.until_line(word, |line| line.contains(word))
    }

    fn until_line(&self, what: &str, good: impl Fn(&str) -> bool) -> String {
        let (deadline, mut seen) = (Instant::now() + PATIENCE, String::new());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no {what:?} in: {seen}"));
            seen += &format!("{line}\n");
            if good(&line) {
                return line;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn changes_are_told_as_they_come() {
    let (mut bench, _) = Bench::of_quickstart();
    bench.up();
    bench.healthy();
    let backends = Following::of(&bench, &["get", "llm", "-w"]);
    backends.until("NAME");
    backends.until("ollama");
    let documents = Following::of(&bench, &["get", "llm/ollama", "-w", "-o", "json"]);
    documents.until("\"kind\": \"LLMBackend\"");
    let events = Following::of(&bench, &["events", "ha", "-f"]);
    let log = Following::of(&bench, &["logs", "ollama", "-f"]);
    log.until("serving on");

    assert_eq!(bench.ostler(&["suspend", "ollama"]).code, 0, "a name alone is enough");
    assert!(backends.until("Suspended").starts_with("ollama"));
    documents.until("\"state\": \"Suspended\"");
    assert_eq!(bench.ostler(&["resume", "llm/ollama"]).code, 0);
    // Until it follows, nothing that happens is told: each stop is one more.
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert_eq!(bench.ostler(&["stop", "ollama"]).code, 0);
        assert_eq!(bench.ostler(&["start", "ollama"]).code, 0);
        if events.lines.try_iter().any(|line| line.contains("StopRequested")) {
            break;
        }
        assert!(Instant::now() < deadline, "no event came");
    }
    log.until("serving on");
    // Through a restart of what is asked.
    bench.end_up("-INT");
    bench.up();
    bench.healthy();
    assert_eq!(bench.ostler(&["suspend", "mlx"]).code, 0);
    backends.until_line("mlx is suspended", |line| line.starts_with("mlx") && line.contains("Suspended"));
}

#[test]
fn a_resource_is_found_by_its_name_alone() {
    let (mut bench, _) = Bench::of_quickstart();
    bench.up();
    bench.healthy();
    for args in [
        &["reconcile", "ollama"][..],
        &["get", "igor"],
        &["describe", "here"],
        &["events", "mlx"],
        &["run", "news"],
        &["describe", "schedule", "news"],
    ] {
        let said = bench.ostler(args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
    }
    // The queue and the pool are both called so.
    let several = bench.ostler(&["describe", "default"]);
    assert!(several.code == 2 && several.err.contains("tq/default or wp/default"), "{several:?}");
    let nobody = bench.ostler(&["reconcile", "olama"]);
    assert!(nobody.code == 1 && nobody.err.contains("did you mean ollama?"), "{nobody:?}");
    assert!(bench.ostler(&["run", "llm/ollama"]).err.contains("ts/"), "a backend is not run");
    assert!(bench.ostler(&["version"]).out.contains("server "));
}

#[test]
fn a_folder_is_validated_without_any_server() {
    let bench = Bench::new();
    let folder = bench.path("manifests");
    let validate = || bench.ostler(&["validate", "-f", folder.to_str().unwrap()]);
    bench.write(
        "a.yaml",
        "apiVersion: ostler.dev/v1alpha1\nkind: Expert\nmetadata: {name: igor}\nspec: {model: small}\n",
    );
    let noted = validate();
    assert!(noted.code == 0 && noted.out.contains("! Expert default/igor: spec.model: "), "{noted:?}");
    assert!(noted.out.contains("✓ 1 file: 1 Expert"), "{noted:?}");
    bench.write("b.yaml", "apiVersion: ostler.dev/v1alpha1\nkind: Expert\nmetadata: {name: x}\nspec: {modle: small}\n");
    let wrong = validate();
    assert!(wrong.code == 1 && wrong.out.contains("✗ b.yaml:4: Expert default/x: spec.modle: "), "{wrong:?}");
    assert!(wrong.err.contains("in "), "{wrong:?}");
    let piped = |text: &str| bench.given(&["validate", "-f", "-"], text);
    let rendered = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {}\n---\n\
                    apiVersion: ostler.dev/v1alpha1\nkind: Expert\nmetadata: {name: x}\nspec: {model: small}\n";
    let noted = piped(rendered);
    assert!(noted.code == 0 && noted.out.contains("! standard input:1: Deployment (apps/v1)"), "{noted:?}");
    assert!(noted.out.contains("✓ 1 file: 1 Expert"), "{noted:?}");
    let wrong = piped(&rendered.replace("model", "modle"));
    assert!(wrong.code == 1 && wrong.out.contains("✗ standard input:9: Expert default/x: spec.modle: "), "{wrong:?}");
}
