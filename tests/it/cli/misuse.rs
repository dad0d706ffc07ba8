//! Exit codes, and words that say what to do.

use crate::real::free_port;

use super::bench::Bench;

#[test]
fn misuse_is_2_failure_is_1_and_each_says_what_to_do() {
    let bench = Bench::new();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let cases: [(&[&str], i32, &str); 12] = [
        (&["frobnicate"], 2, "frobnicate"),
        (&["get", "pods"], 2, "llmbackends (llm)"),
        (&["suspend", "llm"], 2, "llm/NAME"),
        (&["pause", "--for", "soon"], 2, "2h"),
        (&["up", "-f", "/nowhere"], 2, "/nowhere"),
        (&["up", "--listen", "0.0.0.0:9180"], 2, "loopback"),
        (&["status", "--server", "nonsense", "--kube"], 2, "cannot be used"),
        (&["status", "--server", &nobody], 2, "OSTLER_TOKEN"),
        (&["controller"], 2, "OSTLER_DATABASE_URL"),
        (&["status"], 1, "ostler up -f"),
        (&["reconcile", "llm/x"], 1, "ostler up -f"),
        (&["agent", "--config", "/nowhere.yaml"], 1, "/nowhere.yaml"),
    ];
    for (args, code, word) in cases {
        let said = bench.ostler(args);
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        assert!(said.err.contains(word), "{args:?}: {said:?}");
        assert_eq!(said.out, "", "{args:?}");
    }
}

#[test]
fn a_server_that_is_away_is_named() {
    let bench = Bench::new();
    let address = format!("http://127.0.0.1:{}", free_port());
    let mut command = bench.command(&["status", "--server", &address]);
    let said: super::bench::Said = command.env("OSTLER_TOKEN", "x").output().unwrap().into();
    assert_eq!(said.code, 1);
    assert!(said.err.contains(&address) && said.err.contains("refused"), "{}", said.err);
}

#[test]
fn a_second_up_of_the_same_folder_is_refused_and_another_is_told_who_has_the_port() {
    let mut bench = Bench::new();
    let said = bench.up();
    let address = said.split("on http://").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let manifests = bench.path("manifests");
    let folder = manifests.to_str().unwrap();
    let same = bench.ostler(&["up", "-f", folder, "--listen", "127.0.0.1:0"]);
    assert_eq!(same.code, 1);
    assert!(same.err.contains("in use"), "{}", same.err);
    let other = bench.path("other");
    let taken = bench.ostler(&["up", "-f", folder, "--listen", &address, "--data-dir", other.to_str().unwrap()]);
    assert_eq!(taken.code, 1);
    assert!(taken.err.contains("taken by process") && taken.err.contains("--listen"), "{}", taken.err);
    let empty = bench.ostler(&["status"]);
    assert!(empty.out.contains("Nothing is declared"), "{}", empty.out);
}

#[test]
fn completions_know_the_subcommands() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(bench.ostler(&["completions", shell]).out.contains("OSTLER_COMPLETE"), "{shell}");
    }
    let mut bench = bench;
    bench.write("q.yaml", "apiVersion: ostler.dev/v1alpha1\nkind: TaskQueue\nmetadata: {name: nightly}\nspec: {}\n");
    bench.up();
    let complete = |words: &[&str]| {
        let mut command = bench.command(&[]);
        // As the script for bash asks.
        command.args(["--"]).args(words).env("OSTLER_COMPLETE", "bash").env("_CLAP_IFS", "\n");
        command.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
        super::bench::Said::from(command.output().unwrap()).out
    };
    assert!(complete(&["ostler", "recon"]).contains("reconcile"));
    assert!(complete(&["ostler", "get", "task"]).contains("taskqueues"));
    assert_eq!(complete(&["ostler", "get", "tq/"]).trim(), "tq/nightly");
    assert_eq!(complete(&["ostler", "reconcile", "tq/n"]).trim(), "tq/nightly");
}
