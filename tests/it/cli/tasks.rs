//! Tasks on the command line, on the quickstart's simulated servers.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::Value;

use super::bench::Bench;

fn lines(count: usize) -> String {
    let line = |i| format!("{{\"prompt\": \"Task {i}\", \"domain\": \"backend\", \"key\": \"k{i}\"}}\n");
    (0..count).map(line).collect()
}

/// Up, with everything ready and the queue known to the database.
fn ready() -> (Bench, [u16; 2]) {
    let (mut bench, ports) = Bench::of_quickstart();
    bench.up();
    bench.healthy();
    bench.until(&["status"], |said| said.out.contains("✓ default"));
    (bench, ports)
}

#[test]
fn twenty_tasks_are_done_and_their_answers_printed() {
    let (bench, _) = ready();
    let answers = bench.given(&["tasks", "add", "-f", "-", "--wait", "--timeout", "2m", "-o", "json"], &lines(20));
    assert_eq!(answers.code, 0, "{answers:?}");
    let mut keys: Vec<String> = Vec::new();
    for line in answers.out.lines() {
        let answer: Value = serde_json::from_str(line).unwrap();
        assert_eq!(answer["state"], "completed", "{line}");
        assert!(!answer["result"]["text"].as_str().unwrap().is_empty(), "{line}");
        keys.push(answer["key"].as_str().unwrap().to_owned());
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 20);

    let again = bench.given(&["tasks", "add", "-f", "-"], &lines(20));
    assert!(again.out.contains("20 tasks") && again.out.contains("existed already"), "{again:?}");
    let one = bench.ostler(&["tasks", "add", "Say hello.", "--role", "engineer", "--wait", "--timeout", "1m"]);
    assert_eq!((one.code, one.out.lines().count() > 0), (0, true), "{one:?}");

    let list = bench.ostler(&["tasks", "list", "-s", "completed", "--limit", "3"]);
    assert!(
        list.out.starts_with("ID ") && list.out.lines().count() == 5 && list.out.contains("more: --before"),
        "{}",
        list.out
    );
    assert_eq!(bench.ostler(&["get", "tasks"]).out.lines().count(), 22);
    let shown = bench.ostler(&["tasks", "show", "1"]).out;
    assert!(shown.contains("completed") && shown.contains("ANSWER") && shown.contains("Task 0"), "{shown}");
    let done = bench.until(&["status"], |said| said.out.contains("DONE 24H"));
    assert!(done.out.contains("QUEUE") && done.out.contains("21"), "{}", done.out);
    let explained = bench.ostler(&["tasks", "explain", "1"]).out;
    assert!(
        explained.starts_with("task 1 completed ") && explained.contains(" ago: it was done by igor"),
        "{explained}"
    );
    let results = bench.until(&["tasks", "results", "-o", "json"], |said| said.out.lines().count() == 21);
    assert_eq!(results.code, 0);
    for kind in ["experts", "queues", "pools", "schedules"] {
        let said = bench.ostler(&["get", kind]);
        assert!(said.code == 0 && said.out.starts_with("NAME"), "{kind}: {said:?}");
    }
}

#[test]
fn a_file_with_one_bad_line_is_refused_by_line_and_nothing_is_in() {
    let (bench, _) = ready();
    let file = bench.path("tasks.jsonl");
    std::fs::write(&file, format!("{}\n{{\"promt\": \"a\"}}\nno JSON\n", lines(2))).unwrap();
    let file = file.to_str().unwrap();
    let said = bench.ostler(&["tasks", "add", "-f", file]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains(&format!("{file}: line 5: is no JSON")), "{}", said.err);
    assert!(said.err.ends_with("nothing was added\n"), "{}", said.err);
    std::fs::write(file, "{\"promt\": \"a\"}\n\n{\"prompt\": \"a\", \"queue\": \"nowhere\"}\n").unwrap();
    let said = bench.ostler(&["tasks", "add", "-f", file, "--priority", "5"]);
    for word in
        ["line 1: promt: unknown field: did you mean \"prompt\"?", "line 3: queue: there is no TaskQueue \"nowhere\""]
    {
        assert!(said.err.contains(word), "{word}: {}", said.err);
    }
    assert_eq!(bench.ostler(&["tasks", "list"]).out, "no tasks\n");
    for (args, code, word) in [
        (&["tasks", "add"] as &[&str], 2, "PROMPT"),
        (&["tasks", "add", ""], 1, "prompt: is empty"),
        (&["tasks", "add", "a", "--expert", "nobody"], 1, "there are ada, igor"),
        (&["tasks", "add", "a", "--deadline", "soon"], 2, "2h"),
        (&["tasks", "show", "7"], 1, "task 7 does not exist"),
        (&["tasks", "cancel"], 2, "--all"),
        (&["tasks", "cancel", "--all"], 1, "no task that matches"),
    ] {
        let said = bench.ostler(args);
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        assert!(said.err.contains(word), "{args:?}: {said:?}");
    }
}

#[test]
fn tasks_that_wait_say_why_and_are_changed_by_filter_only_with_yes() {
    let (bench, _) = ready();
    for server in ["ollama", "mlx"] {
        assert_eq!(bench.ostler(&["stop", server]).code, 0);
    }
    bench.until(&["status"], |said| !said.out.contains("✓ ollama") && !said.out.contains("✓ mlx"));
    assert_eq!(bench.given(&["tasks", "add", "-f", "-"], &lines(5)).code, 0);
    let waiting = bench.until(&["tasks", "explain", "1"], |said| said.out.contains("to come back"));
    assert!(
        waiting.out.starts_with("task 1 is pending for ") && waiting.out.contains("assigned to igor: domain"),
        "{}",
        waiting.out
    );
    bench.until(&["status"], |said| said.out.contains("    5 wait for "));

    let report = bench.ostler(&["tasks", "assign"]);
    assert!(report.out.starts_with("5 pending: 5 had somebody already, 0 had nobody; 0 assigned"), "{report:?}");
    let asked = bench.ostler(&["tasks", "cancel", "--domain", "backend"]);
    assert_eq!(asked.code, 2, "{asked:?}");
    assert!(asked.err.contains("5 tasks will be cancelled") && asked.err.contains("--yes"), "{}", asked.err);
    assert!(bench.ostler(&["tasks", "cancel", "--all", "--dry-run"]).out.contains("5 tasks would be cancelled"));
    let moved = bench.ostler(&["tasks", "reassign", "1", "--to", "ada"]);
    assert!(moved.code == 0 && moved.out.starts_with("1 task reassigned"), "{moved:?}");
    assert!(bench.ostler(&["tasks", "list", "--expert", "ada"]).out.contains("ada"));
    let done = bench.ostler(&["tasks", "cancel", "--domain", "backend", "--yes", "--reason", "enough"]);
    assert!(done.code == 0 && done.out.starts_with("5 tasks cancelled"), "{done:?}");
    let twice = bench.ostler(&["tasks", "cancel", "1", "99"]);
    assert_eq!(twice.code, 1);
    assert!(
        twice.err.contains("task 1 is cancelled: not changed") && twice.err.contains("task 99 does not exist"),
        "{}",
        twice.err
    );
    let purged = bench.ostler(&["tasks", "purge", "-s", "cancelled", "--yes"]);
    assert!(purged.out.starts_with("5 tasks deleted"), "{purged:?}");
}

#[test]
fn results_are_followed_as_they_come() {
    let (bench, _) = ready();
    let mut follow =
        bench.command(&["tasks", "results", "--follow", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut came = BufReader::new(follow.stdout.take().unwrap()).lines();
    // Whoever follows begins with now: a task that ends before that is not theirs.
    let mut prompt = 0;
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        if let Some(Ok(line)) = came.next() {
            let _ = send.send(line);
        }
    });
    let deadline = std::time::Instant::now() + super::bench::PATIENCE;
    let line = loop {
        prompt += 1;
        assert_eq!(bench.ostler(&["tasks", "add", &format!("Say {prompt}."), "--wait", "--timeout", "1m"]).code, 0);
        match receive.recv_timeout(std::time::Duration::from_secs(5)) {
            Ok(line) => break line,
            Err(_) => assert!(std::time::Instant::now() < deadline, "nothing came"),
        }
    };
    follow.kill().unwrap();
    follow.wait().unwrap();
    let answer: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(answer["state"], "completed", "{line}");
}
