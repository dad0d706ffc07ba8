//! What the README promises.

use std::process::Command;

use serde_json::Value;

use super::bench::Bench;

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn two_backends_become_ready_and_a_killed_one_is_restarted() {
    let (mut bench, [ollama, mlx]) = Bench::of_quickstart();
    let said = bench.up();
    assert!(said.contains("2 LLMBackend, 1 HostAgent") && said.contains("agent here on http://127.0.0.1:"), "{said}");
    bench.healthy();
    let (old, other) = (Bench::pid_on(ollama).unwrap(), Bench::pid_on(mlx).unwrap());

    kill(old);
    // It may run again before anybody could have seen it down.
    bench.until(&["events", "llm/ollama"], |said| said.out.contains("RecoveryHelped"));
    bench.healthy();
    assert_ne!(Bench::pid_on(ollama).unwrap(), old);
    assert_eq!(Bench::pid_on(mlx).unwrap(), other, "the other one is left alone");
    let events = bench.ostler(&["events", "llm/ollama"]);
    assert!(!events.out.contains("mlx"), "{}", events.out);

    let item: Value = serde_json::from_str(&bench.ostler(&["get", "llm/ollama", "-o", "json"]).out).unwrap();
    assert_eq!(item["status"]["recovery"]["history"][0]["outcome"], "Helped");
    let yaml = bench.ostler(&["get", "llm", "ollama", "-o", "yaml"]).out;
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap()["metadata"], item["metadata"]);
    let table = bench.ostler(&["get", "llm", "-o", "wide"]).out;
    assert!(table.starts_with("NAME ") && table.contains(&format!("http://127.0.0.1:{ollama}")), "{table}");
}

#[test]
fn services_outlive_up_and_are_found_again_and_down_ends_them() {
    let (mut bench, [ollama, mlx]) = Bench::of_quickstart();
    bench.up();
    bench.healthy();
    let before = [Bench::pid_on(ollama), Bench::pid_on(mlx)];
    bench.end_up("-INT");
    assert_eq!([Bench::pid_on(ollama), Bench::pid_on(mlx)], before, "services stay up");
    assert_eq!(bench.ostler(&["status"]).code, 1);
    bench.up();
    bench.healthy();
    assert_eq!([Bench::pid_on(ollama), Bench::pid_on(mlx)], before, "nothing was started twice");

    let down = bench.ostler(&["down"]);
    assert_eq!((down.code, bench.up_ended()), (0, 0), "{down:?}");
    assert_eq!([Bench::pid_on(ollama), Bench::pid_on(mlx)], [None, None]);
    assert!(bench.ostler(&["down"]).out.contains("no `ostler up` runs"));
    bench.up();
    bench.healthy();
    let agents = bench.ostler(&["status"]).out;
    assert!(!agents.contains("held"), "down leaves no hold: {agents}");
}

#[test]
fn what_a_person_stopped_stays_stopped_through_a_kill_of_up() {
    let (mut bench, [ollama, mlx]) = Bench::of_quickstart();
    bench.up();
    bench.healthy();
    let stopped = bench.ostler(&["stop", "mlx", "--reason", "upgrade"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert_eq!(Bench::pid_on(mlx), None);
    bench.end_up("-KILL");
    bench.up();
    // What was said before the kill holds until each is asked anew.
    let seen = ["✓ ollama", "! mlx", "upgrade"];
    bench.until(&["status"], |said| seen.iter().all(|word| said.out.contains(word)));
    assert_eq!(Bench::pid_on(mlx), None);
    assert!(Bench::pid_on(ollama).is_some());
    assert_eq!(bench.ostler(&["start", "here/mlx"]).code, 0);
    bench.healthy();
    assert!(Bench::pid_on(mlx).is_some());
}

#[test]
fn a_pause_is_shown_and_nothing_is_restarted_until_it_ends() {
    let (mut bench, [ollama, _]) = Bench::of_quickstart();
    bench.up();
    bench.healthy();
    assert_eq!(bench.ostler(&["pause", "--for", "1h"]).code, 0);
    bench.until(&["get", "ha", "here", "-o", "yaml"], |said| said.out.contains("owner: Pause"));
    kill(Bench::pid_on(ollama).unwrap());
    let dead = bench.until(&["status"], |said| said.out.contains("✗ ollama"));
    assert!(dead.out.contains("! paused by"), "{}", dead.out);
    let first = dead.out.lines().find(|line| line.contains("ollama") || line.contains("mlx")).unwrap();
    assert!(first.starts_with("✗ ollama"), "the worst comes first: {}", dead.out);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(Bench::pid_on(ollama), None, "{}", bench.ostler(&["status"]).out);
    assert_eq!(bench.ostler(&["unpause"]).code, 0);
    bench.healthy();
}

#[test]
fn a_broken_manifest_is_named_with_file_line_and_field_and_its_neighbors_are_served() {
    let (mut bench, _) = Bench::of_quickstart();
    bench.write("broken.yaml", "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {name: x}\nspec: {engine: Olama, url: http://127.0.0.1:1}\n");
    bench.up();
    let status = bench.until(&["status"], |said| said.out.contains("✓ ollama") && said.out.contains("✓ mlx"));
    let line = status.out.lines().next().unwrap();
    assert!(line.starts_with("✗ broken.yaml:4: LLMBackend default/x: spec.engine: "), "{line}");
    assert_eq!(bench.ostler(&["status", "--check"]).code, 3);
    std::fs::remove_file(bench.path("manifests/broken.yaml")).unwrap();
    bench.healthy();
}
