//! A night in which both servers are away for a while: what waits, what it says, and what it costs.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use ostler::{
    engines::EngineKind,
    simulate::{Fault, SimulateOptions, SimulatedServer},
};
use serde_json::Value;

use super::{
    declared::{MLX_MODEL, Manifests, prompts},
    harness::{Up, is_ready},
};

const PATIENCE: Duration = Duration::from_secs(120);
const TASKS: usize = 24;
/// How long a server must have been ready before heavy work is begun.
const SETTLED: i64 = 6;

fn manifests(mlx: &str, ollama: &str) -> Manifests {
    let rest = |priority| {
        format!("priority: {priority}, probe: {{periodSeconds: 1, failureThreshold: 2}}, concurrency: {{max: 2}}")
    };
    let heavy = format!(
        "queueRef: {{name: default}}, schedule: '* * * * *', suspend: true, concurrencyPolicy: Forbid,
         task: {{prompt: Learn all of it., labels: {{weight: heavy}}}},
         requires: [{{kind: LLMBackend, name: ollama, condition: Ready, forSeconds: {SETTLED}}}]"
    );
    Manifests::default()
        .backend("mlx", "MLX", mlx, MLX_MODEL, &rest(10))
        .backend("ollama", "Ollama", ollama, "{name: 'llama3.2:3b', alias: small}", &rest(20))
        .work("maxTokens: 20, timeoutSeconds: 30", "retry: {maxAttempts: 1}")
        .with("TaskSchedule", "heavy", heavy)
}

/// Tokens come slowly enough for calls to be under way when a server goes.
async fn server(engine: EngineKind) -> SimulatedServer {
    let options = SimulateOptions { parallel: 2, tokens_per_second: 20.0, ..SimulateOptions::new(engine) };
    SimulatedServer::start(options).await.expect("start")
}

struct Night {
    up: Up,
    servers: [SimulatedServer; 2],
}

impl Night {
    async fn begin() -> Self {
        let servers = [server(EngineKind::Mlx).await, server(EngineKind::Ollama).await];
        let up = manifests(servers[0].url(), servers[1].url()).up().await;
        let night = Self { up, servers };
        for name in ["mlx", "ollama"] {
            night.up.until_ready(name).await;
        }
        night
    }

    fn add(&self) {
        self.up.add_tasks(prompts(TASKS));
    }

    async fn in_state(&self, state: &str) -> usize {
        self.up.tasks().await.iter().filter(|task| task["state"] == state).count()
    }

    async fn schedule(&self) -> Value {
        self.up.get("/api/v1/taskschedules/default/heavy").await["status"].clone()
    }

    async fn until(&self, what: &str, mut ask: impl AsyncFnMut() -> Result<(), String>) {
        let begun = Instant::now();
        while let Err(last) = ask().await {
            assert!(begun.elapsed() < PATIENCE, "{what}: still {last}\n{}", self.up.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// What a command prints, once it has all of these words.
    async fn until_said(&self, args: &[&str], words: &[&str]) -> String {
        let mut said = String::new();
        self.until(&args.join(" "), async || {
            said = String::from_utf8_lossy(&self.up.ostler(args).stdout).into_owned();
            if words.iter().all(|word| said.contains(word)) { Ok(()) } else { Err(said.clone()) }
        })
        .await;
        said
    }

    fn inferences(&self) -> usize {
        self.servers.iter().map(|server| server.log().inferences().count()).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn both_servers_down_for_a_while_cost_no_attempt_and_hold_what_requires_them() {
    let night = Night::begin().await;
    night.add();
    night
        .until("some under way", async || match night.in_state("completed").await {
            0 => Err("none done".to_owned()),
            _ => Ok(()),
        })
        .await;
    for server in &night.servers {
        server.set_faults([Fault::Refuse {}.into()]);
    }
    for name in ["mlx", "ollama"] {
        night.up.until(name, "down", |backend| !is_ready(backend)).await;
    }

    // The heavy job begins to be due only now: resumed, it makes up for nothing of before.
    night.up.ostler_ok(&["resume", "ts/heavy"]);
    night
        .until("nothing to be under way", async || match night.in_state("in_progress").await {
            0 => Ok(()),
            n => Err(format!("{n} in progress")),
        })
        .await;
    let waiting = night.up.tasks().await.into_iter().filter(|task| task["state"] == "pending").collect::<Vec<_>>();
    assert!(!waiting.is_empty() && waiting.len() < TASKS, "{}", waiting.len());
    for task in &waiting {
        assert_eq!((&task["expert"], &task["attemptsUsed"]), (&"igor".into(), &0.into()), "{task:#}");
    }
    let id = waiting[0]["id"].to_string();
    let explained =
        night.until_said(&["tasks", "explain", &id], &["it waits for mlx to come back", "1 more also down"]).await;
    assert!(explained.contains("assigned to igor"), "{explained}");
    night
        .until_said(&["status"], &[&format!("{} wait for mlx to come back", waiting.len()), "✗ mlx", "✗ ollama"])
        .await;
    let asked = night.inferences();

    night
        .until("the heavy job to be held", async || match night.schedule().await {
            status if status["state"] == "Held" => Ok(()),
            other => Err(other.to_string()),
        })
        .await;
    let held = night.schedule().await;
    let said = held["conditions"].to_string();
    for words in ["waits for LLMBackend ollama to be Ready for 6 s", "it is not (", "since "] {
        assert!(said.contains(words), "{words}: {held:#}");
    }
    assert_eq!(night.in_state("completed").await + waiting.len(), TASKS, "it inserted nothing");
    assert_eq!(night.inferences(), asked, "nobody asked who is away");

    let back = Timestamp::now();
    night.servers.iter().for_each(SimulatedServer::clear_faults);
    night.up.until_ready("ollama").await;
    night
        .until("all to be done, the heavy job among them", async || {
            let (done, tasks) = (night.in_state("completed").await, night.up.tasks().await.len());
            if done == tasks && tasks > TASKS { Ok(()) } else { Err(format!("{done} of {tasks}")) }
        })
        .await;
    let (mut broken, mut heavy) = (0, 0);
    // A minute later the schedule is due again.
    for task in night.up.tasks().await.into_iter().filter(|task| task["state"] == "completed") {
        let task = night.up.get(&format!("/api/v1/tasks/{}", task["id"])).await;
        let attempts = task["attempts"].as_array().expect("attempts");
        let classes: Vec<&str> = attempts.iter().filter_map(|attempt| attempt["class"].as_str()).collect();
        broken += classes.iter().filter(|class| ["Unavailable", "ServerFailed"].contains(class)).count();
        // Claimed and given back before it was sent is no attempt either.
        assert!(
            classes.iter().all(|class| ["Ok", "Unavailable", "ServerFailed", "Cancelled"].contains(class)),
            "{task:#}"
        );
        assert_eq!(classes.iter().filter(|class| **class == "Ok").count(), 1, "{task:#}");
        assert_eq!(task["attemptsUsed"], 1, "{task:#}");
        if task["labels"]["weight"] == "heavy" {
            heavy += 1;
            let begun: Timestamp = attempts[0]["startedAt"].as_str().expect("a time").parse().expect("a time");
            let waited = begun.duration_since(back);
            assert!(waited >= SignedDuration::from_secs(SETTLED), "begun {waited} after the servers came back");
        }
    }
    assert!(broken > 0, "calls were cut off when the servers went");
    assert!(heavy >= 1, "the held run was made up for");
}
