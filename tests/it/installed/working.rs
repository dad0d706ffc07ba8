//! Tasks in a cluster, on a real Ollama and a real MLX outside of it: assigned by the leader, done by pods that the WorkerPool's Deployment
//! scaled up for them; secrets that reach those pods sealed; a schedule in a time zone of its own.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use ostler::{
    engines::{EngineKind, Secret},
    host::{SigningSecret, sign},
    simulate::{SimulateOptions, SimulatedServer},
    store::{self, Home, Store, TaskFilter, TaskPage, seal},
    tasks::{AttemptClass, Task, TaskState},
};

use super::{Installed, Team, WORKING, until};
use crate::real::{Counter, Mlx, Ollama};

const TASKS: usize = 405;
/// Of tasks whose expert or backend needs a Secret, each.
const SEALED: usize = 3;
const TOKEN: &str = "sk-nobody-may-read-this-in-the-database";
/// It has quarters of an hour, which neither UTC nor a whole offset hits.
const ZONE: &str = "Asia/Kathmandu";

/// What lives outside the cluster.
struct Outside {
    mlx: (String, Counter, Mlx),
    ollama: (String, Counter, Ollama),
    /// Serves whoever bears the token.
    cloud: SimulatedServer,
    agent: SomebodysAgent,
}

/// A webhook that takes what is signed with its secret.
#[derive(Clone)]
struct SomebodysAgent {
    url: String,
    secret: Arc<SigningSecret>,
    signed: Arc<AtomicUsize>,
}

impl Outside {
    async fn start(address: &str) -> Self {
        let parts = tokio::task::spawn_blocking(|| (Mlx::start(), Ollama::start()));
        let (mlx, ollama) = parts.await.expect("parts");
        // Tiny models answer at once; these last, so that every slot is taken.
        let (mlx_url, at_mlx) = Counter::far(address, mlx.url(), Duration::from_millis(250)).await;
        let (ollama_url, at_ollama) = Counter::far(address, ollama.url(), Duration::from_millis(250)).await;
        let listen = SocketAddr::new(address.parse().expect("an address"), 0);
        let options =
            SimulateOptions { listen, api_key: Some(Secret::new(TOKEN)), ..SimulateOptions::new(EngineKind::OpenAi) };
        Self {
            mlx: (mlx_url, at_mlx, mlx),
            ollama: (ollama_url, at_ollama, ollama),
            cloud: SimulatedServer::start(options).await.expect("start"),
            agent: SomebodysAgent::start(address).await,
        }
    }
}

impl SomebodysAgent {
    async fn start(address: &str) -> Self {
        let listener = tokio::net::TcpListener::bind((address, 0)).await.expect("listen");
        let url = format!("http://{}/tasks", listener.local_addr().expect("an address"));
        let agent = Self { url, secret: Arc::new(SigningSecret::generate()), signed: Arc::default() };
        let router = Router::new().route("/tasks", post(take)).with_state(agent.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        agent
    }
}

async fn take(State(agent): State<SomebodysAgent>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let given = sign::Signature {
        id: header(sign::HEADER_ID),
        timestamp: header(sign::HEADER_TIMESTAMP),
        signature: header(sign::HEADER_SIGNATURE),
    };
    match sign::verify(&agent.secret, &given, &body, Timestamp::now()) {
        Ok(()) => {
            agent.signed.fetch_add(1, Ordering::SeqCst);
            (StatusCode::OK, r#"{"taken": true}"#)
        }
        Err(_) => (StatusCode::FORBIDDEN, "who are you?"),
    }
}

fn manifests(outside: &Outside) -> String {
    let Outside { mlx: (mlx_url, _, mlx), ollama: (ollama_url, ..), cloud, agent } = outside;
    let mut text = format!(
        "apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {{name: mlx}}
spec: {{engine: MLX, url: '{mlx_url}', priority: 10, models: [{{name: '{}', alias: small}}], concurrency: {{max: 2, adaptive: false}}}}
---
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {{name: ollama}}
spec: {{engine: Ollama, url: '{ollama_url}', priority: 20, models: [{{name: '{}', alias: small}}], concurrency: {{max: 4, adaptive: false}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: cloud}}
stringData: {{token: {TOKEN}}}
---
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {{name: cloud}}
spec: {{engine: OpenAI, url: '{}', authSecretRef: {{name: cloud}}, models: [{{name: gpt-oss-20b, alias: guarded}}]}}
---
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {{name: guarded}}
spec: {{domains: [guarded], model: guarded, parameters: {{maxTokens: 8}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: hook}}
stringData: {{signingSecret: '{}'}}
---
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {{name: hook}}
spec: {{domains: [hook], handler: Webhook, webhook: {{url: '{}', secretRef: {{name: hook}}}}}}
---
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {{name: default}}
spec: {{retry: {{backoffSeconds: 1}}}}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {{name: smart}}
spec:
  queueRefs: [{{name: default}}]
  replicas: {{min: 0, max: 3, scaleDownSeconds: 5}}
  concurrency: {{max: 2, adaptive: false}}
  drainSeconds: 30
  template: {{resources: {{requests: {{cpu: 10m, memory: 32Mi}}, limits: {{memory: 256Mi}}}}}}
",
        mlx.model(),
        Ollama::MODEL,
        cloud.url(),
        agent.secret.expose(),
        agent.url,
    );
    for n in 1..=8 {
        text += &format!(
            "---
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {{name: e{n}}}
spec: {{domains: [d{n}], model: small, parameters: {{maxTokens: 8, timeoutSeconds: 60}}}}
"
        );
    }
    text
}

/// Of this test.
struct Shop {
    team: Team,
    /// Whoever gives tasks in.
    person: PathBuf,
    store: Arc<dyn Store>,
}

impl Shop {
    async fn open(team: Team) -> Self {
        let home = Home::Postgres(team.installed.database.parse().expect("a URL"));
        Self { team, person: team.editor("ada"), store: store::open(&home, None).await.expect("open the database") }
    }

    async fn tasks(&self) -> Vec<Task> {
        let filter = TaskFilter { namespace: Some(WORKING.to_owned()), ..TaskFilter::default() };
        let page = TaskPage { limit: 1_000, ..TaskPage::default() };
        self.store.tasks(&filter, &page).await.expect("read")
    }

    /// Pending without anybody, and completed.
    async fn counts(&self) -> (i64, i64) {
        let all = self.store.queue_counts().await.expect("count");
        let ours = all.iter().filter(|count| count.namespace == WORKING);
        ours.fold((0, 0), |(unassigned, done), count| (unassigned + count.unassigned, done + count.completed))
    }

    fn add(&self, lines: impl Iterator<Item = String>) {
        let file = std::env::temp_dir().join(format!("ostler-tasks-{}.jsonl", uuid::Uuid::new_v4()));
        std::fs::write(&file, lines.collect::<String>()).expect("write the tasks");
        // What the chart adds to the cluster's roles is there some moments after it.
        until("tasks to be taken", Duration::from_secs(60), || {
            match self.team.plugin(&self.person, &["tasks", "add", "-f", file.to_str().expect("UTF-8")]) {
                (0, _) => Ok(()),
                (_, said) => Err(said),
            }
        });
        std::fs::remove_file(&file).expect("remove the tasks");
    }

    /// `(replicas, ready ones)` of the pool's Deployment.
    fn pods(&self) -> (usize, usize) {
        let of = |path| self.team.field("deployment/ostler-worker-smart", path).parse().unwrap_or_default();
        (of(".spec.replicas"), of(".status.readyReplicas"))
    }

    /// Deletes a pod that has calls under way with force, as from a node that is gone.
    async fn lose_a_pod(&self) {
        let begun = Instant::now();
        let worker = loop {
            let busy = self.store.busy_holders().await.expect("read");
            let pods = self.team.kubectl(&["get", "pods", "-o", "name"]);
            let mut names = pods.lines().filter_map(|pod| pod.strip_prefix("pod/"));
            if let Some(pod) = names.find(|pod| busy.iter().any(|one| one.slots > 0 && one.holder.starts_with(pod))) {
                break pod.to_owned();
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "none of {pods} is at work: {busy:?}");
        };
        self.team.kubectl(&["delete", "pod", &worker, "--force", "--grace-period=0"]);
    }

    async fn until_done(&self, count: usize) -> usize {
        let (begun, mut most) = (Instant::now(), 0);
        loop {
            let done = self.counts().await.1;
            most = most.max(self.pods().1);
            if done >= i64::try_from(count).expect("a count") {
                return most;
            }
            assert!(begun.elapsed() < Duration::from_secs(300), "{done} of {count} done\n{}", self.team.story());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// A line of JSON for `tasks add`.
fn line(domain: &str, n: usize) -> String {
    format!("{{\"domain\": \"{domain}\", \"prompt\": \"hello {n}\"}}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_pods_that_a_pool_scaled_do_tasks_within_the_limits_of_engines_outside_the_cluster() {
    let team = tokio::task::spawn_blocking(|| Installed::of(WORKING)).await.expect("installed");
    let outside = Outside::start(team.installed.cluster.host_address()).await;
    team.apply(&manifests(&outside));
    let fires = applied_schedule(&team);
    for backend in ["mlx", "ollama", "cloud"] {
        until("the backend to be ready", Duration::from_secs(90), || {
            match team.field(&format!("llm/{backend}"), r#".status.conditions[?(@.type=="Ready")].status"#) {
                ready if ready == "True" => Ok(()),
                other => Err(format!("{backend}: {other:?}\n{}", team.story())),
            }
        });
    }
    until("the pool to have no pods", Duration::from_secs(60), || match team.field("wp/smart", ".status.state") {
        state if state == "Running" || fires < Timestamp::now() => Ok(()),
        other => Err(format!("{other:?}\n{}", team.story())),
    });
    let shop = Shop::open(team).await;

    shop.add((0..TASKS).map(|n| line(&format!("d{}", n % 8 + 1), n)));
    let begun = Instant::now();
    while shop.counts().await.0 > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}\n{}", shop.counts().await, team.story());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("{TASKS} tasks assigned {:?} after they were added", begun.elapsed());
    shop.add((0..SEALED).flat_map(|n| [line("guarded", n), line("hook", n)]));
    until("as many pods as there are slots for", Duration::from_secs(60), || match shop.pods() {
        (3, _) => Ok(()),
        other => Err(format!("{other:?}\n{}", team.story())),
    });
    shop.until_done(TASKS / 4).await;
    shop.lose_a_pod().await;
    let most = shop.until_done(TASKS + 2 * SEALED).await;
    eprintln!("done by up to {most} pods after {:?}", begun.elapsed());
    ended_well(&shop.tasks().await);
    within_limits(&outside);
    sealed(&shop, &outside).await;

    fired_once(&shop, fires).await;
    until("the pods to go for good", Duration::from_secs(120), || match shop.pods() {
        (0, 0) => Ok(()),
        other => Err(format!("{other:?}\n{}", team.story())),
    });
}

/// A schedule that is due at a minute that is near, as the clocks of its zone have it.
fn applied_schedule(team: &Team) -> Timestamp {
    let soon = Timestamp::now() + SignedDuration::from_secs(75);
    let due = Timestamp::from_second(soon.as_second() / 60 * 60).expect("a time");
    let there = due.to_zoned(TimeZone::get(ZONE).expect("a time zone"));
    team.apply(&format!(
        "apiVersion: ostler.dev/v1alpha1
kind: TaskSchedule
metadata: {{name: there}}
spec:
  queueRef: {{name: default}}
  schedule: '{} {} * * *'
  timeZone: {ZONE}
  task: {{domain: d1, prompt: 'What time is it?'}}
",
        there.minute(),
        there.hour()
    ));
    until("the schedule to know its next run", Duration::from_secs(60), || {
        match (team.field("ts/there", ".status.nextRunTime"), team.field("ts/there", ".status.lastRunTime")) {
            (next, last) if next == due.to_string() || last == due.to_string() => Ok(()),
            other => Err(format!("{other:?}, and not {due}\n{}", team.story())),
        }
    });
    due
}

async fn fired_once(shop: &Shop, due: Timestamp) {
    until("the schedule to have fired", Duration::from_secs(120), || {
        match shop.team.field("ts/there", ".status.lastRunTime") {
            last if last == due.to_string() => Ok(()),
            other => Err(format!("{other:?}, and not {due}\n{}", shop.team.story())),
        }
    });
    shop.until_done(TASKS + 2 * SEALED + 1).await;
    let tasks = shop.tasks().await;
    let runs: Vec<_> = tasks.iter().filter_map(|task| task.labels.get("ostler.dev/run")).collect();
    assert_eq!(runs, [&due.to_string()]);
}

fn ended_well(tasks: &[Task]) {
    let (mut pods, mut lost) = (BTreeSet::new(), 0);
    for task in tasks.iter().filter(|task| !task.labels.contains_key("ostler.dev/run")) {
        assert_eq!(task.state, TaskState::Completed, "{task:?}");
        lost += task.leases_lost;
        if let Some(n) = task.domain.strip_prefix('d') {
            assert_eq!(task.expert, Some(format!("e{n}")), "{task:?}");
        }
        // The random model's tokens make no character at times: that is an answer without content, and asked for again.
        let nothing =
            |error: &Option<String>| error.as_ref().is_some_and(|why| why.starts_with("the model answered nothing"));
        let attempts = task.attempts.iter().filter(|attempt| !nothing(&attempt.error));
        let classes: Vec<_> = attempts.map(|attempt| attempt.class).collect();
        // Claimed and given back before it was sent is no attempt either.
        let free = [
            AttemptClass::Ok,
            AttemptClass::Unavailable,
            AttemptClass::ServerFailed,
            AttemptClass::Cancelled,
            AttemptClass::LeaseLost,
        ];
        let wasted = classes.iter().filter(|class| !free.contains(class)).count();
        assert_eq!((wasted, classes.last()), (0, Some(&AttemptClass::Ok)), "{task:?}");
        pods.extend(task.attempts.last().map(|attempt| attempt.holder.clone()));
    }
    // Two calls at once, and for each the next task may have been claimed.
    assert!(lost <= 4, "{lost} leases lost with one pod");
    assert!((2..=4).contains(&pods.len()), "{pods:?}");
    assert!(pods.iter().all(|pod| pod.starts_with("ostler-worker-smart-")), "{pods:?}");
}

fn within_limits(outside: &Outside) {
    let Outside { mlx: (_, mlx, _), ollama: (_, ollama, _), .. } = outside;
    eprintln!("MLX: {} calls, {} at once; Ollama: {}, {}", mlx.posts(), mlx.peak(), ollama.posts(), ollama.peak());
    assert_eq!(mlx.peak(), 2, "its limit, and no more");
    assert!((3..=4).contains(&ollama.peak()), "Ollama had {} at once", ollama.peak());
    assert!(mlx.posts() > 50 && ollama.posts() > 50, "{} and {}", mlx.posts(), ollama.posts());
}

/// What pods sent was the Secrets' content; what is in the database does not tell it, and no pod has the Secret itself.
async fn sealed(shop: &Shop, outside: &Outside) {
    assert!(outside.cloud.log().inferences().count() >= SEALED, "{:?}", outside.cloud.log());
    assert_eq!(outside.agent.signed.load(Ordering::SeqCst), SEALED);
    let rows = shop.store.declared(seal::KIND).await.expect("read");
    let names: BTreeSet<_> = rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["cloud", "hook"]));
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, TOKEN);
    for text in rows.iter().map(|row| row.spec.to_string()) {
        assert!(!text.contains(TOKEN) && !text.contains(&encoded), "{text}");
    }
    let pods = shop.team.kubectl(&["get", "deployment/ostler-worker-smart", "--output=json"]);
    assert!(pods.contains("ostler-key") && !pods.contains("cloud") && !pods.contains("hook"), "{pods}");
}
