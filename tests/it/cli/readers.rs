//! Who reads what is printed: a terminal that must not be steered, a pipe that ends, a disk that is full.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::Instant,
};

use serde_json::{Value, json};

use super::bench::{Bench, PATIENCE};

const EVIL: &str = "a\u{1b}[2J\u{1b}]52;c;AAAA\u{7}\u{9b}31m\u{202e}gnp.exe\u{2066}z";
const STEERS: [char; 5] = ['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\u{2066}'];

fn ready() -> Bench {
    let (mut bench, _) = Bench::of_quickstart();
    bench.up();
    bench.healthy();
    bench.until(&["status"], |said| said.out.contains("✓ default"));
    bench
}

#[test]
fn nothing_from_outside_steers_a_terminal() {
    let bench = ready();
    let task = json!({"prompt": EVIL, "domain": "backend"});
    let given_in = bench.given(&["tasks", "add", "-f", "-", "--wait", "--timeout", "1m"], &format!("{task}\n"));
    assert_eq!(given_in.code, 0, "{given_in:?}");
    let labeled = json!({"prompt": "x", "domain": EVIL, "labels": {"x": EVIL}, "key": "k"});
    let labeled = bench.given(&["tasks", "add", "-f", "-"], &format!("{labeled}\n"));
    let field = bench.given(&["tasks", "add", "-f", "-"], &format!("{}\n", json!({EVIL: 1, "prompt": "x"})));
    assert!(field.err.contains("unknown field"), "{field:?}");
    let unknown = bench.ostler(&["tasks", "list", "--queue", EVIL]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    let mut all = vec![given_in, labeled, field, unknown];
    for args in [
        &["tasks", "show", "1"][..],
        &["tasks", "list"],
        &["tasks", "list", "-o", "wide"],
        &["tasks", "explain", "1"],
        &["tasks", "results"],
        &["tasks", "show", "1", "-o", "json"],
        &["tasks", "show", "1", "-o", "yaml"],
        &["tasks", "list", "-o", "json"],
        &["tasks", "results", "-o", "json"],
        &["status"],
        &["events"],
    ] {
        all.push(bench.ostler(args));
    }
    for said in &all {
        assert!(!said.out.contains(STEERS) && !said.err.contains(STEERS), "{said:?}");
    }
    let item: Value = serde_json::from_str(&bench.ostler(&["tasks", "show", "1", "-o", "json"]).out).unwrap();
    assert_eq!(item["payload"]["prompt"], EVIL, "for programs it is what it was");
    let item: Value = serde_saphyr::from_str(&bench.ostler(&["tasks", "show", "1", "-o", "yaml"]).out).unwrap();
    assert_eq!(item["payload"]["prompt"], EVIL);
    assert!(!bench.log().contains(STEERS), "{}", bench.log());
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    // The reader goes with the end of this function, as `head -1` does.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line
}

#[test]
fn who_follows_ends_when_nobody_reads_any_more() {
    let bench = ready();
    let mut watch = bench.command(&["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    assert!(!first_line(&mut watch).is_empty());
    assert_eq!(Bench::ended(&mut watch), 0);
    let mut follow = bench.command(&["tasks", "results", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(follow.stdout.take());
    assert_eq!(Bench::ended(&mut follow), 0, "although nothing came that could not be written");
}

#[test]
fn a_full_disk_or_a_closed_pipe_is_no_crash() {
    let mut bench = Bench::new();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for args in [&["status"][..], &["frobnicate"], &["get", "pods"]] {
        let code = bench.command(args).stderr(full()).status().unwrap().code();
        assert!(matches!(code, Some(1 | 2)), "{args:?}: {code:?}");
    }
    for args in [&["completions", "bash"][..], &["crds"], &["crds", "--docs"], &["--help"]] {
        let mut child = bench.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(Bench::ended(&mut child), 0, "{args:?}");
        let mut child = bench.command(args).stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
        assert!(Bench::ended(&mut child) < 2, "{args:?}");
    }
    // A daemon does its work without an audience.
    let manifests = bench.path("manifests");
    let args = ["up", "-f", manifests.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let mut up = bench.command(&args).stdout(full()).stderr(full()).spawn().unwrap();
    bench.until(&["status"], |said| said.out.contains("Nothing is declared"));
    bench.write(
        "x.yaml",
        "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {name: x}\nspec: {engine: None}\n",
    );
    bench.until(&["status"], |said| said.out.contains("x.yaml:4"));
    assert_eq!(bench.ostler(&["down"]).code, 0);
    assert_eq!(Bench::ended(&mut up), 0);
    bench.up();
}

#[test]
fn who_follows_goes_on_with_a_restarted_up() {
    let mut bench = ready();
    let mut command = bench.command(&["tasks", "results", "--follow", "-o", "json"]);
    let mut follow = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    std::thread::spawn(move || lines.for_each(|line| drop(send.send(line))));
    let next = |bench: &Bench| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert_eq!(bench.ostler(&["tasks", "add", "Say hello.", "--wait", "--timeout", "1m"]).code, 0);
            match receive.recv_timeout(std::time::Duration::from_secs(4)) {
                Ok(line) => return line.unwrap(),
                Err(_) => assert!(Instant::now() < deadline, "nothing came"),
            }
        }
    };
    // It follows once the first line comes: whoever begins while `up` ends finds nobody.
    next(&bench);
    // It has a new port and a new token.
    bench.end_up("-INT");
    receive.try_iter().for_each(drop);
    bench.up();
    bench.healthy();
    let line = next(&bench);
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["state"], "completed", "{line}");
}
