//! Workers of somebody's own, in Python, killed and started again while they do tasks.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::harness::{PATIENCE, Up};

const TASKS: usize = 100;
const WORKERS: usize = 3;
const KILLS: usize = 12;

/// The example's worker, with work that says what it began and takes a moment.
const PROGRAM: &str = "
import os, sys, time
sys.path.insert(0, sys.argv[1])
import worker
def work(task):
    with open(sys.argv[2], 'a') as log:
        log.write(str(task['id']) + '\\n')
    time.sleep(0.1)
    return {'text': task['payload']['prompt'].upper()}
worker.run(['crawl'], work)
";

fn worker(up: &Up) -> Child {
    let endpoint: Value = serde_json::from_slice(&std::fs::read(up.data().join("endpoint.json")).unwrap()).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/worker-python");
    Command::new("python3")
        .args(["-c", PROGRAM])
        .arg(example)
        .arg(up.root.join("begun"))
        .env("OSTLER_URL", endpoint["address"].as_str().unwrap())
        .env("OSTLER_TOKEN", endpoint["token"].as_str().unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn killed_workers_in_python_lose_no_task_and_do_none_more_often_than_its_leases_say() {
    let example = include_str!("../../../examples/worker-python/crawl.yaml");
    // So that what a killed one had comes back while the test looks.
    let mut up = Up::start(&[("crawl.yaml", &example.replace("leaseSeconds: 30", "leaseSeconds: 2"))]).await;
    up.until_of("taskqueues", "crawl", "it is open", |seen| seen["status"]["state"] == "Open").await;
    up.add_tasks((0..TASKS).map(|n| json!({"queue": "crawl", "domain": "crawl", "prompt": format!("task {n}")})));
    let mut workers: Vec<Child> = (0..WORKERS).map(|_| worker(&up)).collect();
    let began = Instant::now();
    let mut kills = 0;
    loop {
        let done = up.tasks().await.iter().filter(|task| task["state"] == "completed").count();
        if done == TASKS {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{done} are done: {}", up.log());
        // One after the other, each time that some more are done.
        if kills < KILLS && done >= (kills + 1) * TASKS / (KILLS + 2) {
            let victim = &mut workers[kills % WORKERS];
            victim.kill().unwrap();
            victim.wait().unwrap();
            workers[kills % WORKERS] = worker(&up);
            kills += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for mut one in workers {
        one.kill().unwrap();
        one.wait().unwrap();
    }
    assert_eq!(kills, KILLS, "the test killed as often as it meant to");
    let begun = std::fs::read_to_string(up.root.join("begun")).unwrap();
    let mut times: BTreeMap<i64, i64> = BTreeMap::new();
    for id in begun.lines() {
        *times.entry(id.parse().unwrap()).or_default() += 1;
    }
    let mut again = 0;
    for task in up.get("/api/v1/tasks?limit=1000&full=true").await["items"].as_array().unwrap() {
        let text = task["payload"]["prompt"].as_str().unwrap().to_uppercase();
        assert_eq!(task["result"], json!({ "text": text }));
        let most = 1 + task["leasesLost"].as_i64().unwrap() + task["freeRequeues"].as_i64().unwrap();
        let times = times[&task["id"].as_i64().unwrap()];
        assert!((1..=most).contains(&times), "begun {times} times: {task}");
        again += times - 1;
    }
    assert!(again <= i64::try_from(KILLS).unwrap(), "each kill may cost one execution: {again}");
    up.kill();
}
